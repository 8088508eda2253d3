"""Stacks of one thread or task each; threads that end the process when they crash."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import subprocess
import sys
import threading

import pytest
from patience import PATIENCE_S

from taskq.utils.threads import (
    Local,
    LocalManager,
    LocalStack,
    bgThread,
    default_socket_timeout,
)


def test_a_stack() -> None:
    stack: LocalStack[int] = LocalStack()
    assert (stack.top, stack.pop(), len(stack), stack.stack) == (None, None, 0, [])
    stack.push(1)
    stack.push(2)
    assert (stack.top, stack(), len(stack), stack.stack) == (2, 2, 2, [1, 2])
    assert stack.pop() == 2
    assert stack.top == 1
    stack.pop()
    with pytest.raises(RuntimeError, match="unbound"):
        stack()


def test_every_thread_has_its_own() -> None:
    stack: LocalStack[str] = LocalStack()
    stack.push("main")
    seen: list[object] = []

    def look() -> None:
        seen.append(stack.top)
        stack.push("thread")
        seen.append(stack.top)

    # Where threads inherit the context (free-threaded Python), this one begins with an empty one.
    thread = threading.Thread(target=contextvars.Context().run, args=(look,))
    thread.start()
    thread.join()
    assert seen == [None, "thread"]
    assert stack.stack == ["main"]


def test_every_asyncio_task_has_its_own() -> None:
    stack: LocalStack[int] = LocalStack()

    async def run(number: int) -> int | None:
        stack.push(number)
        await asyncio.sleep(0)
        return stack.pop()

    async def both() -> list[int | None]:
        return await asyncio.gather(run(1), run(2))

    assert asyncio.run(both()) == [1, 2]
    assert stack.top is None


def test_local_namespaces() -> None:
    local = Local()
    local.user = "me"
    assert local.user == "me"
    assert dict(local) == {"user": "me"}
    copied = contextvars.copy_context()
    copied.run(setattr, local, "user", "other")
    assert local.user == "me"
    del local.user
    for action in (lambda: local.user, lambda: delattr(local, "user")):
        with pytest.raises(AttributeError):
            action()


def test_a_manager_empties_its_locals() -> None:
    local, stack = Local(), LocalStack[int]()
    local.x = 1
    stack.push(1)
    stack.push(2)
    manager = LocalManager([local, stack])
    manager.cleanup()
    assert (dict(local), len(stack)) == ({}, 0)
    assert manager.get_ident() == threading.get_ident()
    assert LocalManager(stack).locals == [stack]


def test_a_background_thread_runs_until_it_is_stopped() -> None:
    class Counter(bgThread):
        turns = 0
        enough = threading.Event()

        def body(self) -> None:
            self.turns += 1
            if self.turns == 3:
                self.enough.set()

    thread = Counter()
    assert thread.daemon
    thread.start()
    assert thread.enough.wait(PATIENCE_S)
    thread.stop()
    assert not thread.is_alive()


def test_a_crash_in_a_background_thread_ends_the_process() -> None:
    code = (
        "import threading; from taskq.utils.threads import bgThread\n"
        "class Broken(bgThread):\n"
        "    def body(self): raise KeyError('broken')\n"
        "Broken().start(); threading.Event().wait()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "'Broken' crashed: KeyError('broken')" in done.stderr


def test_default_socket_timeout_is_put_back() -> None:
    before = socket.getdefaulttimeout()
    with default_socket_timeout(3.5):
        assert socket.getdefaulttimeout() == 3.5
    assert socket.getdefaulttimeout() == before
