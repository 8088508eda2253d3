"""No scenario: the client's part of `costs.py`."""

from costs import in_client

__all__ = ("in_client",)
