"""What every backend does, seen through the in-memory twin."""

from __future__ import annotations

import threading
import warnings
from datetime import timedelta
from typing import Any

import pytest
from kombu.exceptions import ContentDisallowed
from patience import PATIENCE_S

from taskq import Celery
from taskq.backends.base import BaseBackend, KeyValueStoreBackend, unpickle_backend
from taskq.backends.memory import MemoryBackend, MemoryStore
from taskq.context import Context
from taskq.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ImproperlyConfigured,
    TaskRevokedError,
)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(MemoryBackend, "store", MemoryStore())

    def make(**settings: Any) -> Any:
        app = Celery("abstract", backend="memory://", set_as_current=False)
        app.conf.update(settings)
        return app.backend

    return make


def stored(backend: Any, task_id: str) -> Any:
    return backend.decode(backend.get(backend.get_key_for_task(task_id)))


class TestDocument:
    def test_its_fields_in_their_order(self, make: Any) -> None:
        backend = make()
        backend.store_result("a", 42, "SUCCESS")
        document = stored(backend, "a")
        assert list(document) == [
            "status",
            "result",
            "traceback",
            "children",
            "date_done",
            "task_id",
        ]
        assert document.pop("date_done").endswith("+00:00")
        assert document == {
            "status": "SUCCESS",
            "result": 42,
            "traceback": None,
            "children": None,
            "task_id": "a",
        }

    def test_relatives_only_when_there_are_any(self, make: Any) -> None:
        backend = make()
        backend.store_result("a", 1, "SUCCESS", request=Context(id="a", group="g"))
        assert stored(backend, "a")["group_id"] == "g"
        assert "parent_id" not in stored(backend, "a")

    def test_extended_without_a_message(self, make: Any) -> None:
        backend = make(result_extended=True)
        backend.store_result("a", 1, "SUCCESS", request=Context(id="a"))
        document = stored(backend, "a")
        fields = ("name", "args", "kwargs", "worker", "retries", "queue")
        assert [document[field] for field in fields] == [None, None, None, None, 0, None]
        assert "stamped_headers" not in document

    def test_without_utc_the_time_is_local(self, make: Any) -> None:
        backend = make(enable_utc=False, timezone="Asia/Kolkata")
        backend.store_result("a", 1, "SUCCESS")
        assert stored(backend, "a")["date_done"].endswith("+05:30")

    def test_a_result_is_stored_as_its_tuple(self, make: Any) -> None:
        backend = make()
        backend.mark_as_done("a", backend.app.AsyncResult("b"))
        assert backend.get_result("a") == [["b", None], None]

    @pytest.mark.parametrize(
        ("exc", "packed"),
        [
            (KeyError("x", 1), {"exc_type": "KeyError", "exc_message": ["x", 1]}),
            (ValueError(), {"exc_type": "ValueError", "exc_message": []}),
            (
                ValueError(KeyError("y")),
                {"exc_type": "ValueError", "exc_message": ["KeyError('y')"]},
            ),
        ],
    )
    def test_exceptions(self, make: Any, exc: Exception, packed: Any) -> None:
        backend = make()
        backend.mark_as_failure("a", exc)
        assert stored(backend, "a")["result"] == {**packed, "exc_module": "builtins"}

    def test_our_exceptions_travel_under_celerys_name(self, make: Any) -> None:
        backend = make()
        backend.mark_as_revoked("a", "late")
        assert stored(backend, "a")["result"] == {
            "exc_type": "TaskRevokedError",
            "exc_message": ["late"],
            "exc_module": "celery.exceptions",
        }

    def test_keys(self, make: Any) -> None:
        backend = make()
        assert backend.get_key_for_task("a") == b"celery-task-meta-a"
        assert backend.get_key_for_group("g", ".j") == b"celery-taskset-meta-g.j"
        assert backend.get_key_for_chord("g") == b"chord-unlock-g"
        with pytest.raises(TypeError, match="an id is text, got 5"):
            backend.get_key_for_task(5)

    @pytest.mark.parametrize(
        ("prefix", "key"), [("p", b"p_"), ("p_", b"p_"), ("p:", b"p:"), ("p-", b"p-"), ("", b"")]
    )
    def test_the_global_prefix(self, make: Any, prefix: str, key: bytes) -> None:
        backend = make(result_backend_transport_options={"global_keyprefix": prefix})
        assert backend.get_key_for_task("a") == key + b"celery-task-meta-a"

    def test_a_prefix_that_is_no_text(self, make: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match="global_keyprefix"):
            make(result_backend_transport_options={"global_keyprefix": 5})


#: Written by Celery 5.7.0 with the cache backend.
RECORDED = {
    "done": '{"status": "SUCCESS", "result": 42, "traceback": null, "children": [[["ok", null], '
    'null], [["g", null], [[["ok", null], null], [["child", null], null]]]], "date_done": '
    '"2026-11-20T13:43:18.619037+00:00", "group_id": "g", "parent_id": "p", "task_id": "done"}',
    "failed": '{"status": "FAILURE", "result": {"exc_type": "KeyError", "exc_message": ["x", 1], '
    '"exc_module": "builtins"}, "traceback": "TB", "children": null, "date_done": '
    '"2026-11-20T13:43:18.619358+00:00", "task_id": "failed"}',
    "revoked": '{"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": '
    '["why"], "exc_module": "celery.exceptions"}, "traceback": null, "children": null, '
    '"date_done": "2026-11-20T13:43:18.619785+00:00", "task_id": "revoked"}',
    "local": '{"status": "SUCCESS", "result": 1, "traceback": null, "children": null, "date_done": '
    '"2026-11-20T14:51:28.381049+01:00", "task_id": "local"}',
}
RECORDED_GROUP = (
    '{"result": [["gid", null], [[["a", null], null], [["bb", [["pp", null], null]], null]]]}'
)


class TestWrittenByCelery:
    @pytest.fixture
    def app(self, make: Any) -> Any:
        backend = make()
        for task_id, document in RECORDED.items():
            backend.set(f"celery-task-meta-{task_id}".encode(), document)
        backend.set(b"celery-taskset-meta-gid", RECORDED_GROUP)
        return backend.app

    def test_results(self, app: Any) -> None:
        done = app.AsyncResult("done")
        assert done.get() == 42
        assert [str(child) for child in done.children] == ["ok", "g"]
        assert [str(child) for child in done.children[1].children] == ["ok", "child"]
        with pytest.raises(KeyError, match="x"):
            app.AsyncResult("failed").get()
        revoked = app.AsyncResult("revoked").result
        assert (type(revoked), revoked.args) == (TaskRevokedError, ("why",))
        assert app.AsyncResult("local").date_done.utcoffset() == timedelta(hours=1)

    def test_groups(self, app: Any) -> None:
        group = app.GroupResult.restore("gid")
        assert [member.id for member in group] == ["a", "bb"]
        assert group[1].parent.id == "pp"

    def test_we_write_the_same(self, app: Any) -> None:
        backend = app.backend
        for task_id in RECORDED:
            recorded = backend.get(f"celery-task-meta-{task_id}".encode())
            backend.delete(f"celery-task-meta-{task_id}".encode())
            meta = backend.decode(recorded)
            request = None
            if "group_id" in meta:
                request = Context(id=task_id, group="g", parent_id="p")
                request.children.extend(app.AsyncResult(i) for i in ("ok",))
                members = [app.AsyncResult("ok"), app.AsyncResult("child")]
                request.children.append(app.GroupResult("g", members))
            result = (
                backend.exception_to_python(meta["result"])
                if task_id
                in (
                    "failed",
                    "revoked",
                )
                else meta["result"]
            )
            backend.store_result(task_id, result, meta["status"], meta["traceback"], request)
            written = stored(backend, task_id)
            assert list(written) == list(meta)
            assert {**written, "date_done": None} == {**meta, "date_done": None}
        app.GroupResult.restore("gid").save()
        assert backend.get(b"celery-taskset-meta-gid") == RECORDED_GROUP


class TestPickle:
    def test_carries_anything(self, make: Any) -> None:
        backend = make(result_serializer="pickle", result_accept_content=["pickle"])
        backend.store_result("a", {1: b"\x00", "when": timedelta(1)}, "SUCCESS")
        assert backend.get_result("a") == {1: b"\x00", "when": timedelta(1)}

    def test_is_not_read_unless_allowed(self, make: Any) -> None:
        backend = make(result_serializer="pickle")
        backend.store_result("a", 1, "STARTED")
        with pytest.raises(ContentDisallowed):
            backend.get_result("a")

    def test_what_cannot_be_pickled_comes_as_the_nearest_that_can(self, make: Any) -> None:
        class Local(ValueError):
            pass

        backend = make(result_serializer="pickle", result_accept_content=["pickle"])
        backend.mark_as_failure("a", Local("x"))
        back = backend.get_result("a")
        assert (type(back), back.args) == (ValueError, ("x",))

    def test_or_wrapped(self, make: Any) -> None:
        backend = make(result_serializer="pickle", result_accept_content=["pickle"])
        backend.mark_as_failure("a", Exception(lambda: 1))
        assert "lambda" in str(backend.get_result("a"))


class TestCache:
    def test_is_off_by_default(self, make: Any) -> None:
        backend = make()
        backend.store_result("a", 1, "SUCCESS")
        backend.get_task_meta("a")
        assert not backend.is_cached("a")

    @pytest.mark.parametrize(("limit", "left"), [(0, 5), (None, 5), (2, 2)])
    def test_holds_what_has_succeeded(self, make: Any, limit: Any, left: int) -> None:
        backend = make(result_cache_max=limit)
        for number in range(5):
            backend.store_result(str(number), number, "SUCCESS")
            backend.get_task_meta(str(number))
        assert sum(backend.is_cached(str(number)) for number in range(5)) == left
        backend.store_result("runs", 1, "STARTED")
        backend.get_task_meta("runs")
        assert not backend.is_cached("runs")

    def test_saves_reading(self, make: Any) -> None:
        backend = make(result_cache_max=10)
        backend.store_result("a", 1, "SUCCESS")
        assert dict(backend.get_many(["a"]))["a"]["result"] == 1
        backend.store.clear()
        assert backend.get_result("a") == 1
        assert dict(backend.get_many(["a"]))["a"]["result"] == 1
        assert backend.get_task_meta("a", cache=False)["status"] == "PENDING"
        backend.reload_task_result("a")
        assert backend.get_state("a") == "PENDING"

    def test_forgets(self, make: Any) -> None:
        backend = make(result_cache_max=10)
        backend.store_result("a", 1, "SUCCESS")
        backend.get_task_meta("a")
        backend.forget("a")
        assert backend.get_state("a") == "PENDING"


class Flaky(MemoryBackend):
    """Breaks down as often as `failures` says."""

    failures = 0
    told = 0

    def _try(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("down")

    def _store_result(self, *args: Any, **kwargs: Any) -> Any:
        self._try()
        return super()._store_result(*args, **kwargs)

    def _get_task_meta_for(self, task_id: str) -> Any:
        self._try()
        return super()._get_task_meta_for(task_id)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, ConnectionError)

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        self.told += 1


class TestAlwaysRetry:
    @pytest.fixture
    def flaky(self, make: Any) -> Any:
        def flaky(**settings: Any) -> Flaky:
            settings = {"result_backend_max_sleep_between_retries_ms": 1, **settings}
            return Flaky(make(result_backend_always_retry=True, **settings).app)

        return flaky

    def test_goes_on_until_it_works(self, flaky: Any, caplog: Any) -> None:
        backend = flaky()
        backend.failures = 3
        backend.store_result("a", 1, "SUCCESS")
        backend.failures = 3
        assert backend.get_state("a") == "SUCCESS"
        assert backend.told == 6
        assert "Retrying inf more times" in caplog.text
        assert {record.name for record in caplog.records} == {"celery.backends.base"}

    def test_but_not_for_ever(self, flaky: Any) -> None:
        backend = flaky(result_backend_max_retries=2)
        backend.failures = 9
        with pytest.raises(BackendStoreError) as info:
            backend.store_result("a", 1, "SUCCESS")
        assert (info.value.task_id, info.value.state) == ("a", "SUCCESS")
        assert isinstance(info.value.__cause__, ConnectionError)
        assert backend.failures == 6
        with pytest.raises(BackendGetMetaError) as got:
            backend.get_task_meta("a")
        assert got.value.task_id == "a"

    def test_not_after_other_errors(self, flaky: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = flaky()
        monkeypatch.setattr(backend, "exception_safe_to_retry", lambda exc: False)
        backend.failures = 1
        with pytest.raises(ConnectionError):
            backend.store_result("a", 1, "SUCCESS")
        assert backend.failures == 0

    def test_not_without_the_setting(self, make: Any) -> None:
        backend = Flaky(make().app)
        backend.failures = 1
        with pytest.raises(ConnectionError):
            backend.store_result("a", 1, "SUCCESS")

    def test_pauses_grow_and_stay_below_the_longest(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr("taskq.backends.marking.time.sleep", pauses.append)
        backend = Flaky(
            make(
                result_backend_always_retry=True,
                result_backend_base_sleep_between_retries_ms=10,
                result_backend_max_sleep_between_retries_ms=40,
            ).app
        )
        backend.failures = 30
        backend.store_result("a", 1, "SUCCESS")
        assert len(pauses) == 30
        assert all(0 <= pause <= 0.04 for pause in pauses)
        assert pauses[0] <= 0.01


class TestSettings:
    def test_expires(self, make: Any) -> None:
        app = make().app
        assert BaseBackend(app).expires == 86400
        assert BaseBackend(app, expires=3.5, expires_type=int).expires == 3
        assert BaseBackend(app, expires=timedelta(hours=1)).expires == 3600
        assert BaseBackend(app, expires=0).expires == 0
        app.conf.result_expires = None
        assert BaseBackend(app, expires_type=int).expires is None

    def test_persistent(self, make: Any) -> None:
        backend = make()
        assert backend.prepare_persistent() is True
        assert backend.prepare_persistent(False) is False
        backend.app.conf.result_persistent = False
        assert backend.prepare_persistent() is False

    def test_a_serializer_nobody_knows(self, make: Any) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"'jsn'.*json"):
            make(result_serializer="jsn")

    @pytest.mark.parametrize(
        ("settings", "about"),
        [
            ({"result_compression": "zlib"}, "cannot store compressed"),
            ({"result_failure_expires": 5}, "does not support result_failure_expires"),
        ],
    )
    def test_what_the_store_cannot_do_is_a_warning(
        self, make: Any, settings: Any, about: str
    ) -> None:
        with pytest.warns(UserWarning, match=about):
            assert make(**settings).compression is None

    def test_urls_are_masked(self, make: Any) -> None:
        backend = BaseBackend(make().app, url="redis://u:secret@h/1")
        assert "secret" not in backend.as_uri()
        assert backend.as_uri(include_password=True) == "redis://u:secret@h/1"

    def test_reading_in_eager_mode_is_a_warning(self, make: Any) -> None:
        backend = make(task_always_eager=True)
        with pytest.warns(RuntimeWarning, match="task_store_eager_result"):
            backend.get_state("a")
        backend.app.conf.task_store_eager_result = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            backend.get_state("a")


class TestUnfinishedBackends:
    def test_say_what_they_cannot_do(self, make: Any) -> None:
        app = make().app
        base, keyvalue = BaseBackend(app), KeyValueStoreBackend(app)
        for ask in (
            lambda: base.get_state("a"),
            lambda: base.store_result("a", 1, "SUCCESS"),
            lambda: base.forget("a"),
            lambda: base.restore_group("g"),
            lambda: base.delete_group("g"),
            lambda: base.save_group("g", None),
            lambda: base.add_to_chord("g", None),
            lambda: keyvalue.get("k"),
            lambda: keyvalue.set("k", 1),
            lambda: keyvalue.delete("k"),
            lambda: keyvalue.incr("k"),
            lambda: keyvalue.mget(["k"]),
        ):
            with pytest.raises(NotImplementedError) as info:
                ask()
            assert str(info.value)

    def test_a_users_own_key_value_backend(self, make: Any) -> None:
        class Own(KeyValueStoreBackend):
            kept: dict[Any, Any] = {}

            def get(self, key: Any) -> Any:
                return self.kept.get(key)

            def set(self, key: Any, value: Any) -> None:
                self.kept[key] = value

            def delete(self, key: Any) -> None:
                self.kept.pop(key, None)

            def mget(self, keys: Any) -> Any:
                return {key: self.kept[key] for key in keys if key in self.kept}

        backend = Own(make().app)
        backend.store_result("a", 1, "SUCCESS")
        assert backend.get_result("a") == 1
        assert [task_id for task_id, _ in backend.get_many(["a"], timeout=PATIENCE_S)] == ["a"]
        assert list(backend.get_many(["b"], max_iterations=1)) == []

    def test_unpickling_is_for_the_current_app(self, make: Any) -> None:
        backend = make()
        backend.app.set_current()
        assert unpickle_backend(MemoryBackend, (), {}).app is backend.app


def test_a_write_is_one_step(make: Any) -> None:
    """SUCCESS stored by one thread is not lost to another that had read the state before."""
    first, second = make(), make()
    in_the_middle, finished = threading.Event(), threading.Event()
    encode = first.encode

    def slow_encode(data: Any) -> Any:
        in_the_middle.set()
        assert not finished.wait(0.05), "the other write did not wait"
        return encode(data)

    first.encode = slow_encode
    thread = threading.Thread(
        target=lambda: (
            in_the_middle.wait(PATIENCE_S),
            second.store_result("a", 1, "SUCCESS"),
            finished.set(),
        )
    )
    thread.start()
    first.store_result("a", None, "STARTED")
    thread.join()
    assert second.get_state("a") == "SUCCESS"
