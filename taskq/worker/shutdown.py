"""This file is what signals do to a worker: end it, start it anew, have it say what it is doing.

    TERM          warm: finish what runs, give the rest back, exit 0
                  (cold with the environment variable REMAP_SIGTERM=SIGQUIT)
    INT           warm, exit 1; a second one is cold
    QUIT          cold, exit 1: stop now; unacknowledged messages go back to their queues
    HUP           warm, then the same command line again (unless attached to a terminal)
    USR1          write what all threads are doing to the log

Cold is soft first, where worker_soft_shutdown_timeout says so: a warm shutdown that is cold once
the time is up, or when another signal asks for it again. After a cold one, INT ends the process
wherever it is.

A handler may interrupt anything, so it only writes a line past all buffers and sets what the
loops look at (`state.maybe_shutdown`). A task that runs in this very thread is left by an
exception.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import IO, Any

from billiard.common import REMAP_SIGTERM
from billiard.process import current_process

from taskq.app.censor import sanitize_url
from taskq.exceptions import WorkerTerminate
from taskq.platforms import EX_FAILURE, EX_OK, close_open_fds
from taskq.platforms import signals as process_signals
from taskq.signals import worker_shutting_down
from taskq.utils.daemon import STARTING_DIRECTORY
from taskq.utils.debug import cry
from taskq.utils.log import in_sighandler, set_in_sighandler
from taskq.worker import state

__all__ = (
    "during_soft_shutdown",
    "install_HUP_not_supported_handler",
    "install_cry_handler",
    "install_worker_int_handler",
    "install_worker_restart_handler",
    "install_worker_term_handler",
    "install_worker_term_hard_handler",
    "on_SIGINT",
    "on_cold_shutdown",
    "on_hard_shutdown",
    "safe_say",
)

AnyWorker = Any
Callback = Callable[[AnyWorker], Any]


def safe_say(msg: str, f: IO[str] | None = None) -> None:
    """Write a line from inside a signal handler, past all buffers and locks."""
    stream = f or sys.__stderr__
    if stream is not None:
        os.write(stream.fileno(), f"\n{msg}\n".encode())


# --- the end ------------------------------------------------------------------------------------


def on_SIGINT(worker: AnyWorker) -> None:
    """After the first Ctrl+C: the next one is cold."""
    safe_say(
        "worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!",
        sys.__stdout__,
    )
    install_worker_term_hard_handler(worker, sig="SIGINT", verbose=False)


def on_cold_shutdown(worker: AnyWorker) -> None:
    """At a cold shutdown: what the next Ctrl+C does, and whether running tasks have time left."""
    if worker.is_in_soft_shutdown:
        during_soft_shutdown(worker)
        return
    safe_say("worker: Hitting Ctrl+C again will terminate all running tasks!", sys.__stdout__)
    if _begin_soft_shutdown(worker):
        install_worker_term_hard_handler(worker, sig="SIGINT", verbose=False)
    else:
        install_worker_int_handler(worker, callback=on_hard_shutdown, verbose=False)


def during_soft_shutdown(worker: AnyWorker) -> None:
    """At another signal while running tasks have time left: they have no more."""
    safe_say("Waiting gracefully for cold shutdown to complete...", sys.__stdout__)
    worker.is_in_soft_shutdown = False
    install_worker_int_handler(worker, callback=on_hard_shutdown, verbose=False)


def on_hard_shutdown(worker: AnyWorker) -> None:
    """Give up at once."""
    raise WorkerTerminate(EX_FAILURE)


def _begin_soft_shutdown(worker: AnyWorker) -> bool:
    """Give running tasks the time the settings grant; False when there is none, or no task."""
    conf = worker.app.conf
    seconds = conf.worker_soft_shutdown_timeout
    # A child may have begun what its parent still counts as reserved. If not, the end is soon.
    is_busy = state.active_requests or state.reserved_requests
    is_needed = is_busy or conf.worker_enable_soft_shutdown_on_idle
    if not seconds or seconds <= 0 or not is_needed or state.should_terminate is not None:
        return False

    def on_time_up(*args: Any) -> None:
        if not worker.is_in_soft_shutdown:
            return
        with in_sighandler():
            worker.is_in_soft_shutdown = False
            safe_say("worker: Cold shutdown (MainProcess)", sys.__stdout__)
            state.should_terminate = EX_FAILURE
        _leave_running_task(worker, EX_FAILURE)

    safe_say(f"Initiating Soft Shutdown, terminating in {seconds} seconds", sys.__stdout__)
    worker.is_in_soft_shutdown = True
    process_signals["SIGALRM"] = on_time_up
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return True


def _install_shutdown_handler(
    worker: AnyWorker,
    *,
    sig: str,
    how: str,
    callback: Callback | None,
    exitcode: int,
    verbose: bool = True,
) -> None:
    """Have a signal stop the worker, warm or cold, with this exit code."""

    def on_signal(*args: Any) -> None:
        with in_sighandler():
            if current_process()._name != "MainProcess":
                return
            if callback:
                callback(worker)
            is_warm = how == "Warm" or worker.is_in_soft_shutdown
            if verbose and (how == "Warm" or not is_warm):
                safe_say(f"worker: {how} shutdown (MainProcess)", sys.__stdout__)
            worker_shutting_down.send(sender=worker.hostname, sig=sig, how=how, exitcode=exitcode)
            if is_warm:
                state.should_stop = exitcode
                return
            state.should_terminate = exitcode
        _leave_running_task(worker, exitcode)

    process_signals[sig] = on_signal


def _leave_running_task(worker: AnyWorker, exitcode: int) -> None:
    if worker.pool is not None and worker.pool.runs_in_caller and state.active_requests:
        # The task runs in this very thread: only an exception can end it.
        raise WorkerTerminate(exitcode)


def install_worker_term_handler(
    worker: AnyWorker,
    *,
    sig: str = "SIGTERM",
    how: str = "Warm",
    callback: Callback | None = None,
    exitcode: int = EX_OK,
    verbose: bool = True,
) -> None:
    """TERM is warm, unless the environment variable REMAP_SIGTERM=SIGQUIT makes it cold."""
    if REMAP_SIGTERM == "SIGQUIT" and how == "Warm":
        how, callback, exitcode = "Cold", callback or on_cold_shutdown, EX_FAILURE
    _install_shutdown_handler(
        worker, sig=sig, how=how, callback=callback, exitcode=exitcode, verbose=verbose
    )


#: INT is warm, with exit code 1; a second one is cold.
install_worker_int_handler = partial(
    _install_shutdown_handler, sig="SIGINT", how="Warm", callback=on_SIGINT, exitcode=EX_FAILURE
)

#: QUIT is cold.
install_worker_term_hard_handler = partial(
    _install_shutdown_handler, sig="SIGQUIT", how="Cold", callback=on_cold_shutdown,
    exitcode=EX_FAILURE,
)  # fmt: skip


# --- start anew ---------------------------------------------------------------------------------


def install_worker_restart_handler(worker: AnyWorker, sig: str = "SIGHUP") -> None:
    """HUP starts the same command line anew, after a warm shutdown."""

    def on_hup(*args: Any) -> None:
        set_in_sighandler(True)
        command = " ".join(map(sanitize_url, sys.argv))
        safe_say(f"Restarting taskq worker ({command})", sys.__stdout__)
        atexit.register(_start_anew)
        state.should_stop = EX_OK

    process_signals[sig] = on_hup


def _start_anew() -> None:
    close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__])
    os.chdir(STARTING_DIRECTORY)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def install_HUP_not_supported_handler(worker: AnyWorker, sig: str = "SIGHUP") -> None:
    """HUP only says that it does nothing here."""

    def on_hup(*args: Any) -> None:
        with in_sighandler():
            safe_say(f"{sig} not supported: Restarting with {sig} is unstable on this platform!")

    process_signals[sig] = on_hup


# --- what is it doing ---------------------------------------------------------------------------


def install_cry_handler(sig: str = "SIGUSR1") -> None:
    """USR1 writes the stacks of all threads to the log."""

    def on_usr1(*args: Any) -> None:
        with in_sighandler():
            text = str(cry())
            for stream in _log_streams():
                safe_say(text, stream)

    process_signals[sig] = on_usr1


def _log_streams() -> Iterable[IO[str]]:
    """Find the files the log is written to; where there are none, standard error."""
    found: dict[int, IO[str]] = {}
    for handler in logging.getLogger().handlers:
        try:
            stream: IO[str] = handler.stream  # type: ignore[attr-defined] # some have one
            found[stream.fileno()] = stream
        except (AttributeError, OSError, ValueError):
            # In memory, or closed.
            continue
    return found.values() or [stream for stream in [sys.__stderr__] if stream is not None]
