"""This file is the life of a child of the process pool, from its first instruction to its exit.

How it works. The child lets go of what belongs to its parent, says that it exists, runs the
initializer, says that it is up, and then takes one packet after another. Before a call is even
decoded its start is said, or noted in the shared page if the job is a quick one, so that whatever
a job does to its child happens to a started job. It retires by not reading on. The loop runs inside
`billiard.pool.Worker.workloop`, which agents wrap to flush what they have gathered when a child
exits.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import human_status, reset_signals
from billiard.compat import mem_rss
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from billiard.pool import EX_RECYCLE, MaybeEncodingError, Worker
from kombu.asynchronous import get_event_loop, set_event_loop

from taskq.app.coroutines import close_home, set_home
from taskq.concurrency.calls import decode_call
from taskq.concurrency.packets import (
    ALIVE,
    DONE,
    FAILED,
    LEAVING,
    QUICK_JOB,
    RETIRE,
    STARTED,
    UP,
    AnySocket,
    Packet,
    pack,
)
from taskq.concurrency.shared_page import SharedPage
from taskq.platforms import EX_FAILURE, EX_OK, set_pdeathsig
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger

if TYPE_CHECKING:
    from taskq.concurrency.event_loop import MainLoop

__all__ = ("ChildWorker",)

#: Exit code of a child that was signalled twice.
EX_SOFTWARE = 70

#: Bytes of the traceback of a child that cannot be set up; its end says most.
LONGEST_REASON = 32 * 1024

#: Sent for a soft time limit.
SOFT_LIMIT_SIGNAL = getattr(signal, "SIGUSR1", None)

#: Where coroutines run.
EVENT_LOOP = "taskq.concurrency.event_loop:MainLoop"

_NOTHING = object()

logger = get_logger(__name__)


class ChildWorker(Worker):
    """Runs jobs in a child; calling it is the child's whole life."""

    # What the loop of the base class looks at; `wait_for_job` leaves it nothing to do.
    maxtasks = max_memory_per_child = synq = on_ready_counter = wait_for_syn = None
    inqW_fd = synqW_fd = -1

    def __init__(
        self,
        socket: AnySocket,
        page: SharedPage,
        parent_pid: int,
        initializer: Callable[..., Any] | None = None,
        initargs: Any = (),
        on_exit: Callable[[int, int], Any] | None = None,
        max_tasks: int | None = None,
        max_memory: int | None = None,
        let_go: Callable[[], Any] | None = None,
    ) -> None:
        # The base class would make queues of its own: it is here for its hook only.
        self.socket = socket
        self.page = page
        self.parent_pid = parent_pid
        self.initializer = initializer
        self.initargs = initargs
        self.on_exit = on_exit
        self.max_tasks = max_tasks
        self.max_memory = max_memory
        self.let_go = let_go
        self.completed = 0
        #: Gives the next packet: the socket itself, or from the first coroutine on its loop.
        self.receive: Callable[[], Packet | None] = socket.receive
        self.event_loop: MainLoop | None = None
        #: Number of the job that runs; 0 between jobs.
        self.current = 0
        self.is_terminating = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a child that is spawned have what it needs; `let_go` is for forked ones."""
        return type(self), (
            self.socket, self.page, self.parent_pid, self.initializer, self.initargs,
            self.on_exit, self.max_tasks, self.max_memory,
        )  # fmt: skip

    @property
    def outq(self) -> ChildWorker:
        """Where the base class would put answers."""
        return self

    def put(self, answer: Any) -> None:
        """Refuse: answers go through the socket."""
        raise NotImplementedError("answers of a child go through its socket")

    def __call__(self) -> None:
        """Live; ends by SystemExit with the exit code."""
        pid, code = os.getpid(), EX_FAILURE
        try:
            self._leave_parent()
            self.socket.send(pack(ALIVE))
            self._set_up()
            self._take_signals()
            set_home(self._build_event_loop)
            self.socket.send(pack(UP))
            self.workloop(pid=pid)
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else EX_FAILURE
        except (EOFError, BrokenPipeError, ConnectionResetError):
            logger.debug("The pool's parent is gone; this child ends")
        except Exception as exc:  # the process's edge: say why it ends
            logger.critical("Pool process %s error: %r", pid, exc, exc_info=True)
        finally:
            close_home()
            self._run_exit_hook(pid, code)
        sys.exit(code)

    # --- begin ----------------------------------------------------------------------------------

    def _leave_parent(self) -> None:
        """Let go of everything that is the parent's; die with it."""
        signal.set_wakeup_fd(-1)
        hub = get_event_loop()
        if hub is not None:
            _point_to_nothing([*hub.readers, *hub.writers])
            set_event_loop(None)
        if self.let_go is not None:
            self.let_go()
        set_pdeathsig("SIGKILL")
        if os.getppid() != self.parent_pid:
            # It died before the line above could ask to be told.
            os._exit(EX_FAILURE)
        _stand_back()

    def _set_up(self) -> None:
        if self.initializer is None:
            return
        try:
            self.initializer(*self.initargs)
        except (Exception, SystemExit):  # the process's edge: the parent says it, once for all
            reason = traceback.format_exc().encode(errors="backslashreplace")
            self.socket.send(pack(FAILED, payload=reason[-LONGEST_REASON:]))
            sys.exit(EX_FAILURE)

    def _take_signals(self) -> None:
        reset_signals(self._on_terminate)
        if SOFT_LIMIT_SIGNAL is not None:
            signal.signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_terminate(self, signum: int, frame: Any) -> None:
        if self.is_terminating:
            os._exit(EX_SOFTWARE)
        self.is_terminating = True
        # By the shell's rule the code's low byte is the signal.
        self._throw(SystemExit(signum - 256))

    def _on_soft_limit(self, signum: int, frame: Any) -> None:
        # A signal that comes late must not hit the job behind the one it was meant for.
        number = self.page.limited
        if number and number == self.current:
            self._throw(SoftTimeLimitExceeded())

    def _throw(self, error: SoftTimeLimitExceeded | SystemExit) -> None:
        if self.event_loop is None:
            raise error
        self.event_loop.throw(error)

    def _build_event_loop(self) -> MainLoop:
        # By name: only children that have coroutines load asyncio.
        loop: MainLoop = symbol_by_name(EVENT_LOOP)()
        self.event_loop = loop
        self.receive = partial(loop.receive, self.socket)
        return loop

    # --- work -----------------------------------------------------------------------------------

    def wait_for_job(self) -> None:
        """Run all jobs there will ever be; the base class's loop calls this once."""
        sys.exit(self._run_jobs())

    def _run_jobs(self) -> int:
        send, page, now = self.socket.send, self.page, time.monotonic
        while True:
            packet = self.receive()
            if packet is None:
                continue
            kind, number, _, call = packet
            if kind == RETIRE:
                return EX_OK
            started = now()
            self.current = number
            if kind == QUICK_JOB:
                page.start(number, started)
            else:
                send(pack(STARTED, number, started))
            is_successful, value, leaves = self._run(call)
            answer = _encode(is_successful, value)
            send(pack(DONE, number, now() - started, answer))
            page.answer(number)
            if leaves is not None:
                raise leaves
            if self._has_done_enough():
                send(pack(LEAVING))
                return int(EX_RECYCLE)

    def _run(self, call: Any) -> tuple[bool, Any, BaseException | None]:
        """Run one call: (whether it went well, value or ExceptionInfo, why the child must end)."""
        value: Any = _NOTHING
        try:
            target, args, kwargs = decode_call(call)
            value = target(*args, **kwargs)
            self.current = 0
        except BaseException as exc:  # the job's edge: its errors are answers
            self.current = 0
            if self.is_terminating:
                # We were told to end: the parent knows what became of this job.
                raise
            if value is _NOTHING:
                if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                    return False, _describe_leaving(exc), exc
                return False, ExceptionInfo(), None
        return True, value, None

    def _has_done_enough(self) -> bool:
        self.completed += 1
        if self.max_tasks and self.completed >= self.max_tasks:
            return True
        if self.max_memory:
            used = mem_rss()
            if used > self.max_memory:
                logger.warning(
                    "child process exiting after exceeding memory limit (%sKiB / %sKiB)",
                    used,
                    self.max_memory,
                )
                return True
        return False

    def _run_exit_hook(self, pid: int, code: int) -> None:
        if self.on_exit is None:
            return
        try:
            self.on_exit(pid, code)
        except Exception as exc:  # hook dispatch: the process ends anyway
            logger.error("Hook at the end of %s raised: %r", human_status(code), exc, exc_info=True)


def _stand_back() -> None:
    """Take no processor from the parent on being woken by it: it has others to wake.

    Otherwise the system may stop it in the middle of a turn, for each job it gives away.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    # A sandbox may forbid either call, and musl knows neither.
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _encode(is_successful: bool, value: Any) -> bytes:
    """Give the answer's bytes; what cannot be pickled becomes an error that says so."""
    try:
        return pickle.dumps((is_successful, value), pickle.HIGHEST_PROTOCOL)
    except Exception as exc:  # a value's own __reduce__ may raise anything
        if isinstance(value, ExceptionInfo):
            # Its own error stands inside one that only carries the traceback.
            value = value.exception
            value = value.exc if isinstance(value, ExceptionWithTraceback) else value
        error = MaybeEncodingError(exc, value)
        einfo = ExceptionInfo((MaybeEncodingError, error, exc.__traceback__))
        return pickle.dumps((False, einfo), pickle.HIGHEST_PROTOCOL)


def _point_to_nothing(descriptors: list[int]) -> None:
    """Let go of sockets whose Python objects live on: a closed number would be given to others."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _describe_leaving(exc: SystemExit | KeyboardInterrupt) -> ExceptionInfo:
    """Report a job that ends its own process as a lost child; who waits for it must not end too."""
    how = f"exitcode {exc.code or 0}" if isinstance(exc, SystemExit) else "KeyboardInterrupt"
    try:
        raise WorkerLostError(f"Worker exited prematurely: {how}.") from exc
    except WorkerLostError:
        return ExceptionInfo()
