"""Where outcomes are kept: one port (base.py), one adapter per store."""
