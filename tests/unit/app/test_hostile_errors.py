"""Whatever a task raises, the worker lives and the caller gets an exception it can use."""

from __future__ import annotations

import hostile
import pytest
from contract.workers import memory_app, serving
from patience import wait_until


@pytest.mark.filterwarnings("ignore")  # about results that could not be stored as they are
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
def test_every_error_arrives(serializer: str) -> None:
    assert len(hostile.ALL) >= 200
    app = memory_app(
        result_serializer=serializer, accept_content=["json", serializer], task_serializer="json"
    )

    @app.task(name="raise", shared=False)
    def throw(number: int) -> None:
        hostile.ALL[number]()

    @app.task(name="fine", shared=False)
    def fine() -> str:
        return "alive"

    with serving(app, concurrency=1, loglevel="CRITICAL"):
        results = throw.delay_many([(number,) for number in range(len(hostile.ALL))])
        last = fine.delay()
        wait_until(last.ready, "the worker has outlived them all")
        for raising, result in zip(hostile.ALL, results, strict=True):
            state, error = result.state, result.result
            assert state == "FAILURE", raising.__name__
            assert isinstance(error, Exception), raising.__name__
            with pytest.raises(Exception) as caught:
                result.get(timeout=60)
            assert type(caught.value) is type(error), raising.__name__
            assert result.traceback and "throw" in result.traceback
    app.close()
