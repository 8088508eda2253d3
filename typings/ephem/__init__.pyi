from datetime import datetime
from typing import Any

class CircumpolarError(ValueError): ...

class Date(float):
    def datetime(self) -> datetime: ...

class Sun: ...

class Observer:
    lat: Any
    lon: Any
    elev: float
    horizon: Any
    pressure: float
    def next_antitransit(self, body: Sun, start: Any = ...) -> Date: ...
