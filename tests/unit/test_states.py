"""States compare by what counts more."""

from __future__ import annotations

from itertools import pairwise

import pytest

from taskq import states
from taskq.states import precedence, state

ORDER = [
    "PENDING",
    "RETRY",
    "REJECTED",
    "RECEIVED",
    "STARTED",
    "REVOKED",
    "PROGRESS",
    "FAILURE",
    "SUCCESS",
]


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(ORDER)))
def test_each_state_counts_less_than_the_next(lower: str, higher: str) -> None:
    assert state(lower) < state(higher)
    assert state(higher) > state(lower)
    assert state(lower) <= state(higher)
    assert state(higher) >= state(lower)
    assert not state(lower) > state(higher)


def test_states_of_users_rank_together() -> None:
    assert precedence("PROGRESS") == precedence("ANYTHING") == precedence(None)
    assert not state("A") < state("B")
    assert state("A") >= state("B")
    assert state("A") != state("B")


def test_a_state_is_its_name() -> None:
    assert state("SUCCESS") == "SUCCESS"
    assert {state("SUCCESS"): 1}["SUCCESS"] == 1


def test_sets_of_states() -> None:
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert not states.READY_STATES & states.UNREADY_STATES
    assert states.PROPAGATE_STATES < states.EXCEPTION_STATES
    assert "REJECTED" not in states.ALL_STATES
