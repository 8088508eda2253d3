"""The states a task can be in, and which of two reports about it counts more.

Drawn as a state machine in docs/states.md. PENDING means "nothing is known": it is never stored.
IGNORED and REJECTED are how a run can end for the worker; they are never stored either.
"""

from __future__ import annotations

__all__ = (
    "PENDING",
    "RECEIVED",
    "STARTED",
    "SUCCESS",
    "FAILURE",
    "REVOKED",
    "REJECTED",
    "RETRY",
    "IGNORED",
    "ALL_STATES",
    "READY_STATES",
    "UNREADY_STATES",
    "EXCEPTION_STATES",
    "PROPAGATE_STATES",
    "PRECEDENCE",
    "PRECEDENCE_LOOKUP",
    "NONE_PRECEDENCE",
    "precedence",
    "state",
)

#: Waiting, or unknown: a task nobody ever sent is PENDING too.
PENDING = "PENDING"
#: A worker has taken it (only in events).
RECEIVED = "RECEIVED"
#: It runs (task_track_started).
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
#: Given back to the broker (only in events).
REJECTED = "REJECTED"
#: It failed and will run again.
RETRY = "RETRY"
IGNORED = "IGNORED"

#: Highest first; None stands for every state that has no row here.
PRECEDENCE: list[str | None] = [
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
]
PRECEDENCE_LOOKUP: dict[str | None, int] = {name: index for index, name in enumerate(PRECEDENCE)}
NONE_PRECEDENCE = PRECEDENCE_LOOKUP[None]

#: The outcome is known.
READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
#: The outcome is not known yet.
UNREADY_STATES = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
#: The result is an exception.
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
#: The exception is raised in who asks for the result.
PROPAGATE_STATES = frozenset({FAILURE, REVOKED})
ALL_STATES = frozenset({PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED})


def precedence(state: str | None) -> int:
    """The rank of `state`, 0 counting most; states of users' own rank together."""
    return PRECEDENCE_LOOKUP.get(state, NONE_PRECEDENCE)


class state(str):
    """A state's name that compares by precedence: `state("PENDING") < state("SUCCESS")`.

    A state of a user's own is below FAILURE and above REVOKED.
    """

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
