import logging
from typing import Any

def get_logger(logger: str | logging.Logger) -> logging.Logger: ...
def get_loglevel(level: int | str) -> int: ...

LOG_LEVELS: dict[Any, Any]
