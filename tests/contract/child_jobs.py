"""What tests have children do: picklable by name, wherever it is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any


def pid() -> int:
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def exit_hard(code: int) -> None:
    os._exit(code)


def leave(code: int) -> None:
    sys.exit(code)


def crash() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def give_function() -> Any:
    return lambda: None


class Stubborn(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.function = lambda: None


def raise_stubborn() -> None:
    raise Stubborn("cannot travel")


def eat(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def go_on_stubbornly(mark: str) -> str:
    """Waits until it is told to stop, notes that, and goes on."""
    try:
        time.sleep(3600)
    except Exception as exc:
        note(mark, type(exc).__name__)
    return "to the end"


def hold(path: str) -> None:
    """Runs until there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.005)


def note(path: str, text: str) -> str:
    with open(path, "a") as file:
        file.write(f"{text}\n")
    return text


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found


def names_of_signals() -> tuple[Any, Any]:
    return signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
