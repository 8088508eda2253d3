from typing import Any

setting_changed: Any
