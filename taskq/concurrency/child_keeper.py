"""This file keeps the number of children of the process pool: starts them, judges starts, replaces.

A start is judged by what the child says, not by a clock alone: it first says that it exists
(`worker_proc_alive_timeout` is for this), then that it is up. One whose set-up takes long is
waited for, with a warning; one that ends before it is up is a failed start. Failures in a row are
said once and tried again at growing distances, so that a broken application makes no storm.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Any

from billiard.exceptions import WorkerLostError
from billiard.pool import EX_RECYCLE

from taskq.concurrency.process_slot import Slot
from taskq.concurrency.time_limits import NEVER
from taskq.platforms import EX_OK
from taskq.utils.log import get_logger

__all__ = ("ChildKeeper",)

#: Failed starts in a row, beyond one for each child, after which the pool gives up.
PATIENCE = 3

#: Seconds before a start is tried a third time, and at most.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

logger = get_logger(__name__)


class ChildKeeper:
    """As many slots as wished for, each with a child."""

    def __init__(
        self,
        count: int,
        selector: selectors.BaseSelector,
        context: Any,
        alive_within: float,
        worker_options: dict[str, Any],
        let_go: Callable[[], Any],
        is_stream: bool = False,
    ) -> None:
        self._count = count
        #: True since every child was up and none missing, until one is.
        self._is_settled = False
        self.slots: list[Slot] = []
        #: Starts that have failed since a child last came up.
        self.failed_starts = 0
        self._selector = selector
        self._context = context
        self._alive_within = alive_within
        self._worker_options = worker_options
        self._let_go = let_go
        self._is_stream = is_stream
        self._is_spawning = context.get_start_method() == "spawn"
        #: Not before this moment is another start tried.
        self._start_at = 0.0
        self._has_said_reason = False

    def fill(self, now: float) -> None:
        """Start the children that are missing, unless it is too soon after a failure.

        Raises WorkerLostError when no child at all can be started.
        """
        self._is_settled = False
        while self._missing() > 0 and now >= self._start_at:
            slot = Slot(self._free_index(), self._is_stream, self._is_spawning)
            self.slots.append(slot)
            try:
                slot.start(
                    self._context,
                    lambda own=slot: self._leave(own),  # type: ignore[misc] # bound to this slot
                    self._alive_within,
                    **self._worker_options,
                )
            except OSError as exc:
                self.slots.remove(slot)
                slot.close()
                self._note_failed_start(f"{exc.strerror} ({exc.errno})", now)
                return
            self._selector.register(slot.socket, selectors.EVENT_READ, slot)
            self._selector.register(slot.sentinel, selectors.EVENT_READ, slot)

    @property
    def count(self) -> int:
        """How many children there should be."""
        return self._count

    @count.setter
    def count(self, count: int) -> None:
        self._count = count
        self._is_settled = False

    def _missing(self) -> int:
        return self.count - sum(not slot.is_replaced for slot in self.slots)

    def replace(self, slot: Slot) -> None:
        """This child takes no more jobs: another one is to stand in for it."""
        slot.is_retiring = slot.is_replaced = True
        self._is_settled = False

    def _free_index(self) -> int:
        taken = {slot.index for slot in self.slots}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def _leave(self, own: Slot) -> None:
        """In a new child: let go of every descriptor of the pool but the child's own end."""
        self._selector.close()
        for slot in self.slots:
            if slot is own:
                slot.socket.close()
            else:
                slot.leave()
        self.slots = []
        self._let_go()

    # --- judging --------------------------------------------------------------------------------

    def note_alive(self, slot: Slot, now: float) -> None:
        """The child has said that it exists; its set-up begins."""
        slot.is_alive = True
        slot.alive_by = now + self._alive_within

    def note_up(self, slot: Slot) -> None:
        """The child takes jobs."""
        slot.is_up = True
        self.failed_starts = 0
        self._start_at = 0.0
        self._has_said_reason = False

    def note_reason(self, slot: Slot, reason: str) -> None:
        """The child cannot be set up; its siblings will say the same, and are not quoted."""
        if not self._has_said_reason:
            self._has_said_reason = True
            logger.critical("Pool process %s cannot be set up:\n%s", slot.pid, reason.rstrip())

    def check_starts(self, now: float, read: Callable[[Slot], Any]) -> None:
        """Judge children that have not said in time that they exist."""
        for slot in self.slots:
            if slot.is_up or now < slot.alive_by:
                continue
            # What it has said may be waiting to be read: it was we who were busy.
            read(slot)
            if slot.is_up:
                continue
            if slot.is_alive:
                logger.warning(
                    "Child process %s is still being set up after %s s (worker_process_init and "
                    "what it imports); it gets no tasks before it is up",
                    slot.pid,
                    self._alive_within,
                )
                slot.alive_by = NEVER
            elif now >= slot.alive_by:
                logger.error(
                    "Timed out waiting for a sign of child process %s; killing it "
                    "(setting worker_proc_alive_timeout: %s s)",
                    slot.pid,
                    self._alive_within,
                )
                slot.alive_by = NEVER
                slot.kill()

    def next_moment(self) -> float:
        """Give the moment at which to look again; NEVER when nothing is expected."""
        if self._is_settled:
            return NEVER
        moments = [slot.alive_by for slot in self.slots if not slot.is_up]
        if self._start_at and self._missing() > 0:
            moments.append(self._start_at)
        return min(moments, default=NEVER)

    @property
    def is_settled(self) -> bool:
        """True when every child is up and none is missing."""
        # Asked in every turn.
        if not self._is_settled:
            self._is_settled = self._missing() == 0 and all(slot.is_up for slot in self.slots)
        return self._is_settled

    @property
    def is_slow(self) -> bool:
        """True when a child's set-up takes longer than it has been waited for."""
        return any(slot.alive_by == NEVER and not slot.is_up for slot in self.slots)

    # --- the end of a child ---------------------------------------------------------------------

    def remove(self, slot: Slot, is_expected: bool) -> None:
        """Give up the slot of a child that is gone."""
        code = slot.reap()
        how = slot.describe_end()
        self._selector.unregister(slot.socket)
        self._selector.unregister(slot.sentinel)
        self.slots.remove(slot)
        self._is_settled = False
        slot.close()
        if is_expected or slot.is_retiring:
            return
        if not slot.is_up:
            self._note_failed_start(how, time.monotonic())
        elif code not in (EX_OK, EX_RECYCLE):
            logger.error("Process %r pid:%r exited with %r", slot.process.name, slot.pid, how)

    def _note_failed_start(self, how: str, now: float) -> None:
        self.failed_starts += 1
        if self.failed_starts == 1:
            logger.error(
                "A child process could not be started: %s before it was up. Its own error, if it "
                "had one, stands above this line",
                how,
            )
        if self.failed_starts > 1:
            pause = FIRST_PAUSE_S * 2 ** min(self.failed_starts - 2, 10)
            self._start_at = now + min(pause, LONGEST_PAUSE_S)
        is_any_up = any(slot.is_up for slot in self.slots)
        if self.failed_starts >= self.count + PATIENCE and not is_any_up:
            raise WorkerLostError(
                f"Could not start worker processes: {self.failed_starts} starts in a row failed, "
                f"the last one with {how}"
            )

    def pids(self) -> list[int]:
        """Give the children's process ids."""
        return [slot.pid for slot in self.slots]

    def find(self, pid: int) -> Slot | None:
        """Give the slot of a child."""
        return next((slot for slot in self.slots if slot.pid == pid), None)
