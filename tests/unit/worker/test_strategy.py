"""What becomes of a delivery."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from taskq.worker.strategy import Decision, decide

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
SOON = NOW + timedelta(seconds=1)
BEFORE = NOW - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("eta", "expires", "revoked", "limited", "decision"),
    [
        (None, None, False, False, Decision.RUN),
        (BEFORE, None, False, False, Decision.RUN),
        (NOW, None, False, False, Decision.RUN),
        (SOON, None, False, False, Decision.WAIT_FOR_ETA),
        (SOON, None, False, True, Decision.WAIT_FOR_ETA),
        (BEFORE, None, False, True, Decision.WAIT_FOR_RATE),
        (None, None, False, True, Decision.WAIT_FOR_RATE),
        (None, SOON, False, False, Decision.RUN),
        (None, NOW, False, False, Decision.RUN),
        (None, BEFORE, False, False, Decision.NEVER),
        (SOON, BEFORE, False, True, Decision.NEVER),
        (None, None, True, False, Decision.NEVER),
        (SOON, None, True, True, Decision.NEVER),
    ],
)
def test_decision(
    eta: datetime | None,
    expires: datetime | None,
    revoked: bool,
    limited: bool,
    decision: Decision,
) -> None:
    assert decide(eta, expires, revoked, limited, NOW) is decision


def test_zones_do_not_matter() -> None:
    elsewhere = SOON.astimezone(timezone(timedelta(hours=9)))
    assert decide(elsewhere, None, False, False, NOW) is Decision.WAIT_FOR_ETA
