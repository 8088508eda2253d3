"""This package makes taskq at home in a Django project: `fixup.py` is activated by itself."""
