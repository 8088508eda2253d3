"""All signals of Celery are here, with their arguments."""

from __future__ import annotations

from taskq import signals
from taskq.utils.signalling import Signal


def test_every_public_name_is_a_signal_of_that_name() -> None:
    assert len(signals.__all__) == 34
    for name in signals.__all__:
        signal = getattr(signals, name)
        assert isinstance(signal, Signal)
        assert signal.name == name


def test_arguments_are_documented() -> None:
    assert signals.task_prerun.providing_args == {"task_id", "task", "args", "kwargs"}
    assert "retry_policy" in signals.before_task_publish.providing_args
