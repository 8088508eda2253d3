"""This folder stands first on PYTHONPATH under `taskq exec`: see sitecustomize.py."""
