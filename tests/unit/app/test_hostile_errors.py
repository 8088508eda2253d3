"""Whatever a task raises, the worker lives and the caller gets an exception it can use."""

from __future__ import annotations

import hostile
import pytest
from contract.workers import memory_app, serving
from patience import wait_until


@pytest.mark.filterwarnings("ignore")  # about results that could not be stored as they are
@pytest.mark.parametrize(
    ("serializer", "step"),
    [
        ("json", 1),
        ("pickle", 1),
        # Every fifth: each way of being built with each thing carried, and each behaviour.
        ("msgpack", 5),
        ("yaml", 5),
        pytest.param("msgpack", 1, marks=pytest.mark.long),
        pytest.param("yaml", 1, marks=pytest.mark.long),
    ],
)
def test_every_error_arrives(serializer: str, step: int) -> None:
    errors = hostile.ALL[::step]
    assert len(errors) >= 200 // step
    app = memory_app(
        result_serializer=serializer, accept_content=["json", serializer], task_serializer="json"
    )

    @app.task(name="raise", shared=False)
    def throw(number: int) -> None:
        errors[number]()

    @app.task(name="fine", shared=False)
    def fine() -> str:
        return "alive"

    with serving(app, concurrency=1, loglevel="CRITICAL"):
        results = throw.delay_many([(number,) for number in range(len(errors))])
        last = fine.delay()
        wait_until(last.ready, "the worker has outlived them all")
        for raising, result in zip(errors, results, strict=True):
            state, error = result.state, result.result
            assert state == "FAILURE", raising.__name__
            assert isinstance(error, Exception), raising.__name__
            with pytest.raises(Exception) as caught:
                result.get(timeout=60)
            assert type(caught.value) is type(error), raising.__name__
            assert result.traceback and "throw" in result.traceback
    app.close()
