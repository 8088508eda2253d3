"""The contract, kept by results in a Redis server; and what is this store's own."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from contract.backends import BackendContract
from patience import PATIENCE_S, wait_until
from servers import Proxy, RedisSentinel, RedisServer

from taskq import Celery
from taskq.backends import redis_link, redis_reader
from taskq.exceptions import BackendStoreError, ImproperlyConfigured, TimeoutError
from taskq.result import AsyncResult, GroupResult

#: A retry policy that gives up after 50 quick tries.
QUICK = {"max_retries": 50, "interval_start": 0, "interval_step": 0.02, "interval_max": 0.05}


@pytest.fixture(autouse=True)
def nothing_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is answered in time was woken, not lucky."""
    monkeypatch.setattr(redis_reader, "LOOK_EVERY_S", 1000.0)


@pytest.fixture
def build_app() -> Iterator[Callable[..., Any]]:
    """Makes applications on a server, and closes their connections afterwards."""
    made = []

    def build(url: str, **settings: Any) -> Any:
        app = Celery("redis", backend=url, set_as_current=False)
        app.conf.update(settings)
        made.append(app)
        return app

    yield build
    for app in made:
        for link in redis_link._links.get(app, {}).values():
            link.close()


def in_threads(count: int, work: Callable[[int], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def subscribed_by(server: RedisServer) -> list[str]:
    """Ids of the connections that are subscribed, one entry per channel."""
    return [client["id"] for client in server.clients() for _ in range(int(client["sub"]))]


def subscriptions(server: RedisServer) -> int:
    return len(subscribed_by(server))


class TestRedisBackend(BackendContract):
    notices = True

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def make_app(self, url: str, build_app: Any) -> Any:
        return lambda **settings: build_app(url, **settings)

    def age(self, backend: Any, seconds: float) -> None:
        client = backend.client
        for key in client.scan_iter():
            left = client.pttl(key)
            if left >= 0:
                client.pexpire(key, int(left - seconds * 1000))

    # -- what is stored

    def test_the_documents_of_celery(self, make_app: Any) -> None:
        backend = make_app(result_expires=100, result_failure_expires=50).backend
        backend.store_result("good", {"x": 1}, "SUCCESS")
        backend.store_result("bad", ValueError("x"), "FAILURE")
        client = backend.client
        document = json.loads(client.get("celery-task-meta-good"))
        assert list(document) == [
            "status", "result", "traceback", "children", "date_done", "task_id",
        ]  # fmt: skip
        assert 90 < client.ttl("celery-task-meta-good") <= 100
        assert 40 < client.ttl("celery-task-meta-bad") <= 50

    @pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack", "yaml"])
    def test_a_success_stays_whatever_the_serializer(self, make_app: Any, serializer: str) -> None:
        settings = {"result_serializer": serializer, "result_accept_content": [serializer]}
        backend = make_app(**settings).backend
        for state in ("STARTED", "FAILURE", "SUCCESS", "STARTED"):
            backend.store_result("t", {"exc_type": "E", "exc_message": []}, state)
        assert backend.get_state("t") == "SUCCESS"

    def test_a_success_of_another_serializer_stays(self, make_app: Any, backend: Any) -> None:
        pickled = make_app(result_serializer="pickle", result_accept_content=["pickle"])
        backend.store_result("t", 1, "SUCCESS")
        pickled.backend.store_result("t", 2, "FAILURE")
        assert backend.get_result("t") == 1

    def test_a_value_that_looks_like_a_success(self, backend: Any) -> None:
        backend.store_result("t", '{"status": "SUCCESS"', "PROGRESS")
        backend.store_result("u", {"status": "SUCCESS"}, "SUCCESSFULLY STARTED")
        for task_id in "tu":
            backend.store_result(task_id, None, "RETRY")
            assert backend.get_state(task_id) == "RETRY"

    def test_one_store_is_one_command(self, backend: Any) -> None:
        backend.store_result("first", 1, "SUCCESS")  # loads the script
        before = backend.client.info("commandstats")
        for number in range(20):
            backend.store_result(str(number), 1, "SUCCESS")
        after = backend.client.info("commandstats")
        calls = {
            name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after
        }
        assert calls["cmdstat_evalsha"] == 20
        assert calls.get("cmdstat_multi", 0) == 0

    def test_the_script_is_sent_again_when_the_server_forgot_it(self, backend: Any) -> None:
        backend.store_result("a", 1, "SUCCESS")
        backend.client.script_flush()
        backend.store_result("b", 2, "SUCCESS")
        assert backend.get_result("b") == 2

    def test_who_is_interrupted_leaves_no_answer_behind(
        self, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ask_and_leave(connection: Any, packed: Any) -> None:
            connection.send_packed_command(packed)
            raise SystemExit

        backend.store_result("a", 1, "SUCCESS")
        with monkeypatch.context() as patch:
            patch.setattr(redis_link, "exchange", ask_and_leave)
            with pytest.raises(SystemExit):
                backend.store_result("b", 2, "SUCCESS")
        assert backend.client.get("celery-task-meta-a").startswith(b'{"status"')
        backend.store_result("c", 3, "SUCCESS")
        assert backend.get_result("c") == 3

    def test_more_than_redis_keeps(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("taskq.backends.redis._MAX_STR_VALUE_SIZE", 1000)
        with pytest.raises(BackendStoreError, match="too large for Redis"):
            backend.store_result("t", "x" * 1000, "SUCCESS")
        with pytest.raises(BackendStoreError, match="too large for Redis"):
            backend.set("k", "x" * 1001)

    def test_counting(self, backend: Any) -> None:
        assert [backend.incr("n") for _ in range(3)] == [1, 2, 3]
        backend.expire("n", 10)
        self.age(backend, 11)
        assert backend.get("n") is None

    # -- waiting

    def test_waiting_costs_no_subscription_when_it_is_there(
        self, app: Any, backend: Any, redis_server: RedisServer
    ) -> None:
        backend.store_result("t", 1, "SUCCESS")
        assert AsyncResult("t", app=app).get(timeout=0) == 1
        assert backend.link.reader._thread is None

    def test_states_are_reported(self, app: Any, make_app: Any) -> None:
        writer, seen = make_app().backend, []
        started = threading.Event()
        writer.store_result("t", {"done": 1}, "PROGRESS")

        def report(meta: Any) -> None:
            seen.append(meta["result"])
            started.set()

        def work(number: int) -> None:
            started.wait(PATIENCE_S)
            writer.store_result("t", {"done": 2}, "PROGRESS")
            writer.store_result("t", "done", "SUCCESS")

        threads = in_threads(1, work)
        assert AsyncResult("t", app=app).get(timeout=PATIENCE_S, on_message=report) == "done"
        join(threads)
        assert seen[0] == {"done": 1}
        assert seen[-1] == "done"

    def test_who_gave_up_is_not_waited_for(self, app: Any, backend: Any) -> None:
        result = AsyncResult("t", app=app)
        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
        reader = backend.link.reader
        wait_until(lambda: reader._listeners, "asked")
        del result
        wait_until(lambda: not reader._listeners, "forgotten")
        assert not backend.result_consumer.subscribed_to

    def test_the_reader_ends_when_nobody_waits(
        self, app: Any, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_reader, "IDLE_S", 0.01)
        for turn in range(2):
            with pytest.raises(TimeoutError):
                AsyncResult(f"t{turn}", app=app).get(timeout=0.05)
            wait_until(lambda: backend.link.reader._thread is None, "the thread ends")

    def test_groups_are_waited_for_as_one(self, app: Any, make_app: Any) -> None:
        writer = make_app().backend
        ids = [str(uuid.uuid4()) for _ in range(50)]
        group = GroupResult("g", [AsyncResult(each, app=app) for each in ids], app=app)

        def work(number: int) -> None:
            for each in reversed(ids):
                writer.store_result(each, each.upper(), "SUCCESS")

        threads = in_threads(1, work)
        assert group.get(timeout=PATIENCE_S) == [each.upper() for each in ids]
        join(threads)

    def test_a_forked_child_waits_and_stores_by_itself(self, app: Any, backend: Any) -> None:
        waited = AsyncResult("child", app=app)
        with pytest.raises(TimeoutError):
            waited.get(timeout=0.05)  # the thread and its connections are there
        backend.store_result("parent", 1, "SUCCESS")
        pid = os.fork()
        if not pid:
            code = 1
            try:
                assert AsyncResult("parent", app=app).get(timeout=PATIENCE_S) == 1
                app.backend.store_result("child", 2, "SUCCESS")
                assert waited.get(timeout=PATIENCE_S) == 2
                code = 0
            finally:
                os._exit(code)
        assert waited.get(timeout=PATIENCE_S) == 2
        assert os.waitpid(pid, 0)[1] == 0
        backend.store_result("after", 3, "SUCCESS")
        assert backend.get_result("after") == 3


class TestCrowd:
    """Many threads of one application wait at once."""

    COUNT = 64

    @pytest.mark.parametrize("results_are", ["shared", "the thread's own"])
    def test_few_connections_also_after_a_restart(
        self, private_redis: RedisServer, build_app: Any, results_are: str
    ) -> None:
        app = build_app(private_redis.url)
        ids = [str(uuid.uuid4()) for _ in range(self.COUNT)]
        made_here = [AsyncResult(each, app=app) for each in ids]
        answers: dict[int, Any] = {}
        connections: list[int] = []

        def wait(number: int) -> None:
            result = (
                made_here[number] if results_are == "shared" else AsyncResult(ids[number], app=app)
            )
            answers[number] = result.get(timeout=PATIENCE_S)

        threads = in_threads(self.COUNT, wait)

        def all_wait() -> bool:
            connections.append(len(private_redis.clients()))
            return subscriptions(private_redis) == self.COUNT

        wait_until(all_wait, "all wait")
        with private_redis.client() as writer:

            def store(numbers: range) -> None:
                for number in numbers:
                    document = {"status": "SUCCESS", "result": number, "task_id": ids[number]}
                    key = f"celery-task-meta-{ids[number]}"
                    writer.set(key, json.dumps(document))
                    writer.publish(key, json.dumps(document))

            store(range(20))
            wait_until(lambda: len(answers) == 20, "the first are answered")
            private_redis.stop()
            private_redis.start()
            # Stored without a word while nobody is subscribed, perhaps.
            store(range(20, 40))
            wait_until(lambda: len(answers) == 40, "answered after the restart")
            store(range(40, self.COUNT))
        join(threads)
        assert answers == {number: number for number in range(self.COUNT)}
        assert max(connections) <= 3

    def test_each_is_woken_by_its_own(self, private_redis: RedisServer, build_app: Any) -> None:
        app, writer = build_app(private_redis.url), build_app(private_redis.url).backend
        order: list[int] = []

        def wait(number: int) -> None:
            AsyncResult(f"t{number}", app=app).get(timeout=PATIENCE_S)
            order.append(number)

        threads = in_threads(8, wait)
        wait_until(lambda: subscriptions(private_redis) == 8, "all wait")
        for number in (3, 1, 4, 0, 5, 2, 7, 6):
            writer.store_result(f"t{number}", None, "SUCCESS")
            wait_until(lambda number=number: number in order, "woken")
        join(threads)
        assert order == [3, 1, 4, 0, 5, 2, 7, 6]


class TestTrouble:
    @pytest.fixture
    def proxy(self, private_redis: RedisServer) -> Iterator[Proxy]:
        with Proxy(private_redis.port) as proxy:
            yield proxy

    @pytest.fixture
    def app(self, private_redis: RedisServer, proxy: Proxy, build_app: Any) -> Any:
        options = {"retry_policy": QUICK}
        return build_app(proxy.through(private_redis.url), result_backend_transport_options=options)

    def test_storing_survives_a_cut_at_any_moment(self, app: Any, proxy: Proxy) -> None:
        backend = app.backend
        for number, way in enumerate(["idle", "up", "down", "down"]):
            if way == "idle":
                proxy.cut()
            else:
                proxy.cut_when(lambda seen, data, way=way: seen == way)
            backend.store_result(str(number), number, "SUCCESS")
            assert backend.get_result(str(number)) == number

    def test_storing_waits_for_the_server(
        self, app: Any, proxy: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        proxy.refuse()
        threads = in_threads(1, lambda number: app.backend.store_result("t", 1, "SUCCESS"))
        wait_until(lambda: "Connection to Redis lost: Retry (0/50) now." in caplog.text, "retried")
        proxy.accept()
        join(threads)
        assert app.backend.get_result("t") == 1

    def test_storing_gives_up(self, app: Any, proxy: Proxy) -> None:
        proxy.refuse()
        app.conf.result_backend_transport_options = {"retry_policy": {**QUICK, "max_retries": 2}}
        with pytest.raises(redis.ConnectionError):
            app.backend.store_result("t", 1, "SUCCESS")

    def test_always_retry_counts_its_own(
        self, proxy: Proxy, private_redis: RedisServer, build_app: Any
    ) -> None:
        app = build_app(
            proxy.through(private_redis.url), result_backend_always_retry=True,
            result_backend_max_retries=3, result_backend_base_sleep_between_retries_ms=1,
        )  # fmt: skip
        proxy.refuse()
        with pytest.raises(BackendStoreError):
            app.backend.store_result("t", 1, "SUCCESS")

    def test_waiting_survives_a_cut(self, app: Any, proxy: Proxy, private_redis: Any) -> None:
        answers: list[Any] = []
        threads = in_threads(
            1, lambda number: answers.append(AsyncResult("t", app=app).get(timeout=PATIENCE_S))
        )
        seen: set[str] = set()

        def waits_anew() -> bool:
            return bool(set(subscribed_by(private_redis)) - seen)

        for turn in range(4):
            wait_until(waits_anew, "waits anew")
            seen.update(subscribed_by(private_redis))
            if turn < 3:
                proxy.cut()
        with private_redis.client() as client:
            client.set("celery-task-meta-t", '{"status": "SUCCESS", "result": 5, "task_id": "t"}')
            client.publish(
                "celery-task-meta-t", '{"status": "SUCCESS", "result": 5, "task_id": "t"}'
            )
        join(threads)
        assert answers == [5]

    def test_waiting_gives_up_with_the_retry_policy(self, app: Any, proxy: Proxy) -> None:
        app.conf.result_backend_transport_options = {"retry_policy": {**QUICK, "max_retries": 3}}
        proxy.refuse()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Retry limit exceeded") as raised:
                AsyncResult("t", app=app).get(timeout=PATIENCE_S)
            assert isinstance(raised.value.__cause__, redis.ConnectionError)
        proxy.accept()
        app.backend.store_result("t", 1, "SUCCESS")
        assert AsyncResult("t", app=app).get(timeout=PATIENCE_S) == 1

    def test_a_timeout_is_kept_while_the_server_hangs(self, app: Any, proxy: Proxy) -> None:
        holder = AsyncResult("held", app=app)
        with pytest.raises(TimeoutError):
            holder.get(timeout=0.05)
        proxy.stall()
        # The first of them looks for itself, and may wait for the socket's own timeout.
        app.backend.link.looking.acquire()
        with pytest.raises(TimeoutError):
            AsyncResult("t", app=app).get(timeout=0.2)
        app.backend.link.looking.release()
        proxy.flow()

    def test_a_lost_announcement_is_a_delay(
        self, app: Any, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_reader, "LOOK_EVERY_S", 0.1)
        threads = in_threads(1, lambda number: AsyncResult("t", app=app).get(timeout=PATIENCE_S))
        wait_until(lambda: subscriptions(private_redis) == 1, "waits")
        with private_redis.client() as client:
            client.set("celery-task-meta-t", '{"status": "SUCCESS", "result": 5, "task_id": "t"}')
        join(threads)

    def test_a_user_who_may_not_subscribe(
        self, private_redis: RedisServer, build_app: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with private_redis.client() as client:
            client.acl_setuser(
                "reader", enabled=True, passwords=["+pw"], keys=["*"], reset_channels=True,
                commands=["+@all"], channels=[],
            )  # fmt: skip
        app = build_app(private_redis.url.replace("://", "://reader:pw@"))
        writer = build_app(private_redis.url).backend
        threads = in_threads(1, lambda number: AsyncResult("t", app=app).get(timeout=PATIENCE_S))
        wait_until(lambda: "does not let us subscribe" in caplog.text, "refused")
        writer.store_result("t", 1, "SUCCESS")
        join(threads)

    def test_a_user_who_may_not_run_scripts(
        self, private_redis: RedisServer, build_app: Any
    ) -> None:
        with private_redis.client() as client:
            client.acl_setuser(
                "plain", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"],
                commands=["+@all", "-@scripting"],
            )  # fmt: skip
        backend = build_app(private_redis.url.replace("://", "://plain:pw@")).backend
        for state in ("STARTED", "SUCCESS", "FAILURE"):
            backend.store_result("t", None, state)
        assert backend.get_state("t") == "SUCCESS"

    def test_a_full_server_says_so(self, build_app: Any) -> None:
        with RedisServer(maxmemory="1mb") as server:
            app = build_app(server.url)
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                app.backend.store_result("t", "x" * 2_000_000, "SUCCESS")
                app.backend.store_result("t", 1, "STARTED")


class TestWays:
    """TLS, passwords, unix sockets, Sentinel: on real servers."""

    def check(self, app: Any) -> None:
        backend = app.backend
        before, after = str(uuid.uuid4()), str(uuid.uuid4())
        backend.store_result(before, 1, "SUCCESS")
        assert AsyncResult(before, app=app).get(timeout=PATIENCE_S) == 1
        threads = in_threads(1, lambda number: AsyncResult(after, app=app).get(timeout=PATIENCE_S))
        wait_until(lambda: backend.link.reader._listeners, "waits")
        backend.store_result(after, 2, "SUCCESS")
        join(threads)

    def test_tls(self, build_app: Any) -> None:
        with RedisServer(tls=True, requirepass="secret", tls_auth_clients="yes") as server:
            files = server.certificates
            assert files is not None
            mutual = f"&ssl_certfile={files.client}&ssl_keyfile={files.client_key}"
            self.check(build_app(server.url + mutual))
            self.check(build_app(
                f"redis://:secret@127.0.0.1:{server.port}/0",
                redis_backend_use_ssl={
                    "ssl_cert_reqs": "required", "ssl_ca_certs": files.authority,
                    "ssl_certfile": files.client, "ssl_keyfile": files.client_key,
                },
            ))  # fmt: skip
            # Neither without a certificate, nor by an authority that is not known, nor without TLS.
            for url in (
                server.url,
                f"rediss://:secret@127.0.0.1:{server.port}/0?ssl_cert_reqs=required{mutual}",
                f"redis://:secret@127.0.0.1:{server.port}/0",
            ):
                app = build_app(url)
                with pytest.raises(redis.ConnectionError):
                    app.backend.client.get("x")
            unchecked = f"rediss://:secret@127.0.0.1:{server.port}/0?ssl_cert_reqs=none{mutual}"
            self.check(build_app(unchecked))

    def test_a_unix_socket_and_a_password(self, build_app: Any) -> None:
        with RedisServer(requirepass="secret") as server:
            app = build_app(server.socket_url + "?virtual_host=3")
            self.check(app)
            app.backend.store_result("t", 2, "SUCCESS")
            app = build_app(f"redis+{server.socket_url}?virtual_host=3")
            assert app.backend.get_result("t") == 2
            assert "secret" not in app.backend.as_uri()
            wrong = build_app(server.url.replace("secret", "guess"))
            with pytest.raises(redis.AuthenticationError):
                wrong.backend.client.ping()

    def test_limited_connections_are_waited_for(
        self, private_redis: RedisServer, build_app: Any
    ) -> None:
        app = build_app(private_redis.url, redis_max_connections=2)
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(20):
                    app.backend.store_result(f"{number}-{turn}", 1, "SUCCESS")
                    app.backend.get_result(f"{number}-{turn}")
            except BaseException as exc:
                errors.append(exc)

        join(in_threads(8, work))
        assert errors == []
        assert len(private_redis.clients()) <= 2

    def test_sentinel(self, build_app: Any) -> None:
        with RedisSentinel(requirepass="secret") as servers:
            options = {"master_name": servers.service, "retry_policy": QUICK}
            app = build_app(servers.url, result_backend_transport_options=options)
            assert "secret" not in app.backend.as_uri()
            self.check(app)
            threads = in_threads(
                1, lambda number: AsyncResult("later", app=app).get(timeout=PATIENCE_S)
            )
            wait_until(lambda: app.backend.link.reader._listeners, "waits")
            servers.failover()
            app.backend.store_result("later", 1, "SUCCESS")
            join(threads)
            app.backend.link.close()

    def test_sentinel_needs_a_name(self, build_app: Any) -> None:
        app = Celery("s", backend="sentinel://127.0.0.1:1/0", set_as_current=False)
        with pytest.raises(ImproperlyConfigured, match="master_name"):
            app.backend.client.ping()
