"""This file says when a task with a rate limit has its turn, and where it waits until then.

A task type has one bucket per worker. Those next in turn wait in the worker, in the bucket; the
others wait in the broker, where it can keep them, and come back one after another a moment before
their turn. Nothing is promised about it: their return takes no token, and who comes back to a full
bucket goes behind all that wait.
"""

from __future__ import annotations

import random
import time

from kombu.utils.limits import TokenBucket

__all__ = ("Bucket",)

#: Requests of one type that wait in the worker, however long; more if they are soon run.
HELD_BY_LIMIT = 20

#: Seconds of waiting that are no reason to give a request back to the broker.
SOON_S = 5.0

#: Seconds before their turn at which requests come back, so that the worker is never without.
EARLY_S = 1.0

#: They come back within this time, however low the limit: it may have been changed.
LONGEST_AWAY_S = 60.0


class Bucket(TokenBucket):
    """The tokens of a task type, the requests that wait for one, and the turns of the others."""

    def __init__(self, fill_rate: float) -> None:
        """Make a bucket that gains `fill_rate` tokens a second and keeps one."""
        super().__init__(fill_rate, capacity=1)
        #: The last turn that was given to a request in the broker, by `time.monotonic`.
        self._last_turn = 0.0

    def find_time_away(self) -> float:
        """Give the seconds the next request is to spend in the broker; 0 if it is to wait here."""
        waiting = len(self.contents)
        if waiting < HELD_BY_LIMIT or waiting / self.fill_rate <= SOON_S:
            return 0.0
        away = self._find_turn() - time.monotonic() - EARLY_S
        if away <= LONGEST_AWAY_S:
            return away
        # Not all at one moment: nothing else would get through.
        return random.uniform(LONGEST_AWAY_S / 2, LONGEST_AWAY_S)

    def count_sent_away(self) -> None:
        """Take notice of a request that waits in the broker: the next one's turn is later."""
        self._last_turn = min(self._find_turn(), time.monotonic() + LONGEST_AWAY_S + EARLY_S)

    def _find_turn(self) -> float:
        here = time.monotonic() + len(self.contents) / self.fill_rate
        return max(here, self._last_turn + 1 / self.fill_rate)
