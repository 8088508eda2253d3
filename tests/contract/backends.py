"""What every result backend does, whatever its store: derive from BackendContract and give it one.

An adapter gives `url`, and `age()` that makes everything in the store some seconds older.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest
from kombu.exceptions import DecodeError, EncodeError
from patience import FOREVER_S, PATIENCE_S

from taskq import Celery, states
from taskq.backends.lookup import by_url
from taskq.context import Context
from taskq.exceptions import (
    ChordError,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    SecurityError,
    TaskRevokedError,
    TimeoutError,
)
from taskq.result import AsyncResult, GroupResult, ResultSet


class ShopError(Exception):
    """An exception of a user's own."""

    class OutOfStock(ValueError):
        """One that has no name of its own in the module."""


class Picky(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code)
        self.text = text


#: Started in a process of its own: stores results under the ids and values given.
WRITER = """
import sys, json
from taskq import Celery
app = Celery("other", backend=sys.argv[1], set_as_current=False)
for line in sys.stdin:
    task_id, state, value = json.loads(line)
    app.backend.store_result(task_id, value, state)
    print(task_id, flush=True)
"""

WHATEVER = [
    None,
    True,
    0,
    -1.5,
    "",
    "text",
    "snow ☃ and \U0001f600 and \x00 and \u2028",
    [],
    {},
    [1, [2, [3, {"four": [5]}]]],
    {"status": "FAILURE", "result": {"exc_type": "ValueError"}},
    {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
    {"__proto__": 1, "": 2, "a.b": 3, "$set": 4},
    "'; DROP TABLE celery_taskmeta; --",
    "%s {0} \\ \" ' \n\r\t",
    10**30,
]


class BackendContract:
    """The tests; `make_app(**settings)` gives an app on the store of this test."""

    #: Can another process read what this one writes?
    shared = True
    #: Does a waiting client notice a result by itself, however long the interval between looks?
    notices = False

    @pytest.fixture
    def url(self, tmp_path: Any) -> str:
        raise NotImplementedError("the adapter says where its store is")

    def age(self, backend: Any, seconds: float) -> None:
        raise NotImplementedError("the adapter makes what is stored older")

    @pytest.fixture
    def make_app(self, url: str) -> Any:
        def make(**settings: Any) -> Any:
            app = Celery("contract", backend=url, set_as_current=False)
            app.conf.update(**settings)
            return app

        return make

    @pytest.fixture
    def app(self, make_app: Any) -> Any:
        return make_app()

    @pytest.fixture
    def backend(self, app: Any) -> Any:
        return app.backend

    @pytest.fixture
    def task_id(self) -> str:
        return str(uuid.uuid4())

    # -- asyncio

    def test_results_can_be_awaited(self, make_app: Any) -> None:
        app, worker = make_app(), make_app()
        ids = [str(uuid.uuid4()) for _ in range(40)]

        def store(half: list[str]) -> None:
            for task_id in half:
                worker.backend.store_result(task_id, f"of {task_id}", states.SUCCESS)

        async def main() -> list[Any]:
            await asyncio.to_thread(store, ids[:20])
            waiting = [asyncio.ensure_future(app.AsyncResult(each).aget()) for each in ids]
            given_up = app.AsyncResult(ids[-1])
            with pytest.raises(TimeoutError):
                await given_up.aget(timeout=0.01)
            await asyncio.gather(*waiting[:20])
            await asyncio.to_thread(store, ids[20:])
            return await asyncio.gather(*waiting)

        assert asyncio.run(main()) == [f"of {task_id}" for task_id in ids]
        assert asyncio.run(app.AsyncResult(ids[0]).aget()) == f"of {ids[0]}"

    # -- the port

    def test_is_found_by_its_url(self, url: str, backend: Any, app: Any) -> None:
        cls, _ = by_url(url, app.loader)
        assert type(backend) is cls

    def test_survives_pickling(self, app: Any, backend: Any, task_id: str) -> None:
        import pickle

        app.set_current()
        backend.store_result(task_id, 5, states.SUCCESS)
        copy = pickle.loads(pickle.dumps(backend))
        assert copy.get_result(task_id) == 5

    # -- every state

    def test_unknown_is_pending(self, backend: Any, task_id: str) -> None:
        assert backend.get_task_meta(task_id) == {"status": "PENDING", "result": None}
        assert backend.get_state(task_id) == "PENDING"
        assert backend.get_result(task_id) is None
        assert backend.get_traceback(task_id) is None
        assert backend.get_children(task_id) is None
        assert not backend.task_result_exists(task_id)

    def test_done(self, backend: Any, task_id: str) -> None:
        backend.mark_as_done(task_id, {"a": [1, 2]}, request=Context(id=task_id))
        meta = backend.get_task_meta(task_id)
        assert meta["status"] == "SUCCESS"
        assert meta["result"] == {"a": [1, 2]}
        assert meta["traceback"] is None
        assert meta["children"] == []
        assert meta["task_id"] == task_id
        assert backend.task_result_exists(task_id)

    def test_started(self, backend: Any, task_id: str) -> None:
        backend.mark_as_started(task_id, pid=1, hostname="w@h")
        meta = backend.get_task_meta(task_id)
        assert (meta["status"], meta["result"]) == ("STARTED", {"pid": 1, "hostname": "w@h"})
        assert meta["date_done"] is None

    @pytest.mark.parametrize("state", ["PROGRESS", "RECEIVED", "a state of ours"])
    def test_any_other_state(self, backend: Any, task_id: str, state: str) -> None:
        backend.store_result(task_id, {"done": 3}, state)
        assert backend.get_state(task_id) == state
        assert backend.get_result(task_id) == {"done": 3}

    def test_failure(self, app: Any, backend: Any, task_id: str) -> None:
        backend.mark_as_failure(task_id, KeyError("key", 3), "Traceback: here")
        meta = backend.get_task_meta(task_id)
        assert meta["status"] == "FAILURE"
        assert type(meta["result"]) is KeyError
        assert meta["result"].args == ("key", 3)
        assert meta["traceback"] == "Traceback: here"
        result = AsyncResult(task_id, app=app)
        assert result.date_done is not None
        assert result.date_done.tzinfo is not None
        with pytest.raises(KeyError):
            result.get(timeout=PATIENCE_S)

    def test_retry(self, backend: Any, task_id: str) -> None:
        backend.mark_as_retry(task_id, ValueError("again"), "tb", Context(id=task_id))
        meta = backend.get_task_meta(task_id)
        assert meta["status"] == "RETRY"
        assert isinstance(meta["result"], ValueError)
        assert meta["date_done"] is None

    def test_revoked(self, backend: Any, task_id: str) -> None:
        backend.mark_as_revoked(task_id, "expired")
        meta = backend.get_task_meta(task_id)
        assert meta["status"] == "REVOKED"
        assert isinstance(meta["result"], TaskRevokedError)
        assert str(meta["result"]) == "expired"

    def test_states_replace_each_other_until_success(self, backend: Any, task_id: str) -> None:
        for state in ("STARTED", "FAILURE", "RETRY", "REVOKED", "STARTED", "SUCCESS"):
            backend.store_result(task_id, None, state)
            assert backend.get_state(task_id) == state
        for state in ("FAILURE", "STARTED", "REVOKED", "PROGRESS"):
            backend.store_result(task_id, "late", state)
            assert backend.get_task_meta(task_id)["status"] == "SUCCESS"
        assert backend.get_result(task_id) is None

    # -- what a document holds

    @pytest.mark.parametrize("value", WHATEVER, ids=lambda value: repr(value)[:20])
    def test_any_value(self, backend: Any, task_id: str, value: Any) -> None:
        backend.store_result(task_id, value, states.SUCCESS)
        got = backend.get_result(task_id)
        assert got == value
        assert type(got) is type(value)

    def test_ten_megabytes(self, backend: Any, task_id: str) -> None:
        value = "x" * 10_000_000
        backend.store_result(task_id, value, states.SUCCESS)
        assert backend.get_result(task_id) == value

    def test_what_cannot_be_serialised_is_refused(self, backend: Any, task_id: str) -> None:
        with pytest.raises(EncodeError):
            backend.store_result(task_id, object(), states.SUCCESS)
        assert backend.get_state(task_id) == "PENDING"

    def test_relatives(self, app: Any, backend: Any, task_id: str) -> None:
        child = AsyncResult("child", app=app)
        members = GroupResult("group", [AsyncResult("member", app=app)], app=app)
        request = Context(id=task_id, group="of", parent_id="parent")
        request.children.extend([child, members])
        backend.store_result(task_id, 1, states.SUCCESS, request=request)
        meta = backend.get_task_meta(task_id)
        assert (meta["group_id"], meta["parent_id"]) == ("of", "parent")
        assert meta["children"] == [
            [["child", None], None],
            [["group", None], [[["member", None], None]]],
        ]
        assert AsyncResult(task_id, app=app).children == [child, members]

    def test_extended(self, make_app: Any, task_id: str) -> None:
        app = make_app(result_extended=True)
        request = Context(
            id=task_id,
            task="shop.buy",
            args=[1],
            kwargs={"x": 2},
            hostname="w@h",
            retries=3,
            delivery_info={"routing_key": "q"},
            stamped_headers=["customer"],
            stamps={"customer": ["c1"]},
        )
        app.backend.mark_as_done(task_id, 1, request)
        result = AsyncResult(task_id, app=app)
        assert (result.name, result.args, result.kwargs) == ("shop.buy", [1], {"x": 2})
        assert (result.worker, result.retries, result.queue) == ("w@h", 3, "q")
        meta = app.backend.get_task_meta(task_id)
        assert meta["stamped_headers"] == ["customer"]
        assert meta["customer"] == ["c1"]

    # -- exceptions

    @pytest.mark.parametrize("serializer", ["json", "pickle"])
    @pytest.mark.parametrize(
        "exc",
        [
            ValueError("x", 1),
            ShopError("y"),
            ShopError.OutOfStock(),
            TaskRevokedError("r"),
            ChordError("c"),
            MaxRetriesExceededError("m"),
            OSError(2, "no such"),
        ],
        ids=repr,
    )
    def test_exceptions_come_back_as_they_were(
        self, make_app: Any, task_id: str, serializer: str, exc: Exception
    ) -> None:
        app = make_app(result_serializer=serializer, result_accept_content=[serializer])
        app.backend.mark_as_failure(task_id, exc, "tb")
        back = app.backend.get_result(task_id)
        assert type(back) is type(exc)
        assert back.args == exc.args

    def test_an_exception_that_cannot_be_rebuilt(self, backend: Any, task_id: str) -> None:
        backend.mark_as_failure(task_id, Picky(1, "text"))
        back = backend.get_result(task_id)
        assert type(back) is Exception
        assert "Picky" in str(back)

    def test_an_unknown_exception_is_made_up(self, backend: Any, task_id: str) -> None:
        stored = {"exc_type": "Unheard", "exc_message": ["of"], "exc_module": "no.such.module"}
        backend.store_result(task_id, stored, states.FAILURE)
        back = backend.get_result(task_id)
        assert type(back).__name__ == "Unheard"
        assert isinstance(back, Exception)
        assert back.args == ("of",)

    @pytest.mark.parametrize(
        ("module", "name"), [("os", "system"), ("builtins", "object"), ("os", "path.join")]
    )
    def test_a_forged_exception_calls_nothing(
        self, backend: Any, task_id: str, module: str, name: str
    ) -> None:
        stored = {"exc_type": name, "exc_message": ["touch forged"], "exc_module": module}
        backend.store_result(task_id, stored, states.FAILURE)
        with pytest.raises(SecurityError, match="Expected an exception class"):
            backend.get_result(task_id)
        # It stays possible to overwrite it.
        backend.store_result(task_id, 1, states.SUCCESS)
        assert backend.get_result(task_id) == 1

    def test_a_document_that_is_none(self, backend: Any, task_id: str) -> None:
        key = backend.get_key_for_task(task_id)
        for nonsense in ("[1]", "{}", "5"):
            backend.set(key, nonsense)
            with pytest.raises(DecodeError, match="result document"):
                backend.get_task_meta(task_id)
        backend.set(key, "not json at all")
        with pytest.raises(DecodeError):
            backend.get_task_meta(task_id)

    # -- ids

    @pytest.mark.parametrize("hostile", ["'", '"', "a/b", "..", "%", "ä☃", "x" * 500, "a b\n"])
    def test_any_id(self, backend: Any, hostile: str) -> None:
        backend.store_result(hostile, 1, states.SUCCESS)
        assert backend.get_result(hostile) == 1
        assert dict(backend.get_many([hostile], timeout=PATIENCE_S))[hostile]["result"] == 1
        backend.forget(hostile)
        assert backend.get_state(hostile) == "PENDING"

    @pytest.mark.parametrize("empty", [None, ""])
    def test_an_empty_id_is_refused(self, backend: Any, empty: Any) -> None:
        with pytest.raises(ValueError, match="must not be empty"):
            backend.get_state(empty)
        with pytest.raises(ValueError, match="must not be empty"):
            backend.store_result(empty, 1, states.SUCCESS)

    # -- forgetting and expiring

    def test_forget(self, backend: Any, task_id: str) -> None:
        backend.store_result(task_id, 1, states.SUCCESS)
        backend.forget(task_id)
        assert backend.get_state(task_id) == "PENDING"
        assert not backend.task_result_exists(task_id)
        backend.forget(task_id)  # twice does no harm

    def test_expiry(self, make_app: Any, task_id: str) -> None:
        backend = make_app(result_expires=60).backend
        backend.store_result(task_id, 1, states.SUCCESS)
        self.age(backend, 55)
        assert backend.get_state(task_id) == "SUCCESS"
        self.age(backend, 10)
        if not backend.supports_autoexpire:
            backend.cleanup()
        assert backend.get_state(task_id) == "PENDING"
        assert not backend.task_result_exists(task_id)
        assert list(backend.get_many([task_id], max_iterations=1)) == []

    def test_never_expires_when_told_so(self, make_app: Any, task_id: str) -> None:
        backend = make_app(result_expires=None).backend
        backend.store_result(task_id, 1, states.SUCCESS)
        self.age(backend, 10 * 365 * 24 * 3600)
        backend.cleanup()
        assert backend.get_state(task_id) == "SUCCESS"

    def test_an_expired_success_gives_way(self, make_app: Any, task_id: str) -> None:
        backend = make_app(result_expires=60).backend
        backend.store_result(task_id, 1, states.SUCCESS)
        self.age(backend, 61)
        if not backend.supports_autoexpire:
            backend.cleanup()
        backend.store_result(task_id, ValueError(), states.FAILURE)
        assert backend.get_task_meta(task_id)["status"] == "FAILURE"

    # -- groups

    def test_groups(self, app: Any, backend: Any, task_id: str) -> None:
        nested = GroupResult("inner", [AsyncResult("c", app=app)], app=app)
        parent = AsyncResult("p", app=app)
        saved = GroupResult(task_id, [AsyncResult("a", app=app), nested], app=app, parent=parent)
        assert saved.save() is saved
        found = GroupResult.restore(task_id, app=app)
        assert found == saved
        assert found.parent == parent
        found.delete()
        assert GroupResult.restore(task_id, app=app) is None
        found.delete()

    def test_groups_and_tasks_do_not_meet(self, app: Any, backend: Any, task_id: str) -> None:
        backend.store_result(task_id, 1, states.SUCCESS)
        assert backend.restore_group(task_id) is None
        GroupResult(task_id, [], app=app).save()
        backend.forget(task_id)
        assert GroupResult.restore(task_id, app=app) is not None

    # -- many at once

    def test_get_many(self, backend: Any) -> None:
        ids = [str(uuid.uuid4()) for _ in range(50)]
        for number, task_id in enumerate(ids):
            backend.store_result(task_id, number, states.SUCCESS)
        seen: list[Any] = []
        got = dict(backend.get_many(ids, timeout=PATIENCE_S, on_message=seen.append))
        assert {task_id: meta["result"] for task_id, meta in got.items()} == {
            task_id: number for number, task_id in enumerate(ids)
        }
        assert len(seen) == 50

    def test_get_many_waits_for_those_that_are_not_ready(self, backend: Any, task_id: str) -> None:
        backend.store_result(task_id, 1, states.SUCCESS)
        other = str(uuid.uuid4())
        backend.store_result(other, 0, states.STARTED)
        calls: list[int] = []
        found: list[Any] = []
        with pytest.raises(TimeoutError):
            found.extend(
                backend.get_many(
                    [task_id, other],
                    timeout=0.05,
                    interval=0.01,
                    on_interval=lambda: calls.append(1),
                )
            )
        assert [task_id for task_id, _ in found] == [task_id]
        assert calls

    def test_join(self, app: Any, backend: Any) -> None:
        ids = [str(uuid.uuid4()) for _ in range(5)]
        for number, task_id in enumerate(ids):
            backend.store_result(task_id, number, states.SUCCESS)
        results = ResultSet([AsyncResult(task_id, app=app) for task_id in ids], app=app)
        assert results.get(timeout=PATIENCE_S) == [0, 1, 2, 3, 4]
        assert results.join(timeout=PATIENCE_S) == [0, 1, 2, 3, 4]

    # -- waiting

    def test_waiting_has_an_end(self, app: Any, task_id: str) -> None:
        with pytest.raises(TimeoutError):
            AsyncResult(task_id, app=app).get(timeout=0.05)
        with pytest.raises(TimeoutError):
            AsyncResult(task_id, app=app).get(timeout=0)

    def test_waiting_for_another_thread(self, make_app: Any, app: Any, task_id: str) -> None:
        waiting, got = threading.Event(), []
        options = {"interval": FOREVER_S if self.notices else 0.05, "on_interval": waiting.set}

        def wait() -> None:
            got.append(AsyncResult(task_id, app=app).get(**options))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert waiting.wait(PATIENCE_S)
        make_app().backend.store_result(task_id, "there", states.SUCCESS)
        thread.join(PATIENCE_S)
        assert got == ["there"]

    def test_only_one_writer_wins(self, make_app: Any, task_id: str) -> None:
        apps = [make_app() for _ in range(4)]
        start = threading.Barrier(4)

        def store(app: Any, number: int) -> None:
            start.wait()
            for turn in range(20):
                state = states.SUCCESS if number == turn % 4 else states.FAILURE
                app.backend.store_result(f"{task_id}-{turn}", number, state)

        threads = [
            threading.Thread(target=store, args=(app, number)) for number, app in enumerate(apps)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        backend = make_app().backend
        for turn in range(20):
            meta = backend.get_task_meta(f"{task_id}-{turn}")
            assert (meta["status"], meta["result"]) == ("SUCCESS", turn % 4)

    def test_two_processes(self, url: str, app: Any, backend: Any, task_id: str) -> None:
        if not self.shared:
            pytest.skip("the store belongs to one process")
        import json

        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )
        with writer:
            assert writer.stdin and writer.stdout
            for row in ((task_id, "STARTED", 1), (f"{task_id}-2", "SUCCESS", "two")):
                writer.stdin.write(json.dumps(row) + "\n")
            writer.stdin.flush()
            result = AsyncResult(f"{task_id}-2", app=app)
            assert result.get(timeout=PATIENCE_S) == "two"
            assert backend.get_task_meta(task_id)["status"] == "STARTED"
            backend.store_result(task_id, "mine", states.SUCCESS)
            writer.stdin.write(json.dumps((task_id, "FAILURE", None)) + "\n")
            writer.stdin.close()
            assert writer.wait(PATIENCE_S) == 0
        assert backend.get_task_meta(task_id)["result"] == "mine"

    # -- settings

    def test_the_global_prefix(self, make_app: Any, app: Any, task_id: str) -> None:
        prefixed = make_app(result_backend_transport_options={"global_keyprefix": "shop"})
        prefixed.backend.store_result(task_id, 1, states.SUCCESS)
        assert app.backend.get_state(task_id) == "PENDING"
        assert prefixed.backend.get_state(task_id) == "SUCCESS"

    def test_compression(self, make_app: Any, app: Any, task_id: str) -> None:
        if not app.backend.supports_result_compression:
            pytest.skip("the store keeps text only")
        packed = make_app(result_compression="zlib")
        packed.backend.store_result(task_id, "x" * 1000, states.SUCCESS)
        stored = packed.backend.get(packed.backend.get_key_for_task(task_id))
        assert bytes(stored).startswith(b"\x00celery-compressed\x00application/x-gzip\x00")
        assert len(stored) < 500
        assert app.backend.get_result(task_id) == "x" * 1000
        with pytest.raises(ImproperlyConfigured, match="zlibb"):
            _ = make_app(result_compression="zlibb").backend
