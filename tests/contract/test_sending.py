"""Sending through a network that breaks: it ends, and what it says is true. On real brokers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import billiard
import pytest
from kombu.exceptions import OperationalError
from patience import PATIENCE_S, wait_until
from servers import Certificates, Proxy, RabbitMQ, Vhost
from servers.process import free_port

from taskq import Celery
from taskq.exceptions import BatchPublishError
from taskq.transports.amqp import BLOCKED, UNREAD_MS

#: Short, so that tests are; what it bounds would otherwise last for ever.
TIMEOUT_S = 0.5


class Line:
    """An application and the proxy it reaches its broker through."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self.proxy = Proxy(urlsplit(url).port or 5672)
        self.queue = f"sending-{uuid.uuid4().hex[:10]}"
        self.confirms = kind == "amqp-confirmed"
        self.apps: list[Celery] = []
        self.app = self.make_app(self.proxy.through(url), broker_publish_timeout=TIMEOUT_S)

    def make_app(self, url: Any, **settings: Any) -> Celery:
        app = Celery("sending", broker=url, backend=None, set_as_current=False)
        app.conf.update(
            task_default_queue=self.queue,
            broker_transport_options={"confirm_publish": True} if self.confirms else {},
            **settings,
        )

        @app.task(name="noop", lazy=False)
        def noop(n: int) -> int:
            return n

        self.apps.append(app)
        return app

    @property
    def noop(self) -> Any:
        return self.app.tasks["noop"]

    def send(self, n: int) -> None:
        """Send, and return when the broker has it also where nothing is confirmed."""
        self.noop.delay(n)
        if self.kind == "amqp":
            with self.app.producer_or_acquire() as producer:
                producer.channel.queue_declare(self.queue, passive=True)

    def arrived(self, count: int = 0) -> list[Any]:
        """The arguments in the queue, read past the proxy; waits for so many of them."""
        found: list[Any] = []
        with self.make_app(self.url).connection_for_read() as connection:
            queue = self.app.amqp.queues[self.queue](connection.default_channel)
            queue.declare()

            def read() -> bool:
                while (message := queue.get(no_ack=True)) is not None:
                    found.append(message.decode()[0][0])
                return len(found) >= count

            wait_until(read, f"{count} messages", report=lambda: found)
        return found

    def delete_queue(self) -> None:
        with self.make_app(self.url).connection_for_write() as connection:
            channel = connection.default_channel
            (channel.queue_purge if self.kind == "redis" else channel.queue_delete)(self.queue)

    def close(self) -> None:
        self.proxy.close()
        for app in self.apps:
            app.close()
        self.delete_queue()


@pytest.fixture(params=["redis", "amqp", "amqp-confirmed"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    name = "redis_url" if request.param == "redis" else "rabbitmq_url"
    line = Line(request.param, request.getfixturevalue(name))
    yield line
    line.close()


class Call:
    """A call in a thread of its own: does it end, and how?"""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.error: BaseException | None = None
        self.ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as exc:
            self.error = exc
        self.ended.set()

    def wait(self) -> BaseException | None:
        assert self.ended.wait(PATIENCE_S), "sending has not ended"
        return self.error


def fails(function: Callable[[], Any], match: str = "cannot send") -> None:
    error = Call(function).wait()
    assert isinstance(error, OperationalError), error
    assert match in str(error)
    assert "guest:guest" not in str(error)


class TestItEnds:
    def test_when_the_broker_accepts_and_never_answers(self, line: Line) -> None:
        line.proxy.stall()
        fails(lambda: line.noop.delay(1))
        fails(lambda: line.noop.apply_async((1,), retry=False))
        fails(lambda: line.noop.delay_many([(1,), (2,)]))

    def test_when_an_open_connection_stops_answering(self, line: Line) -> None:
        line.noop.delay(1)
        line.proxy.stall()
        if line.kind == "amqp":
            # Nothing is awaited without confirms, until the socket is full.
            fails(lambda: [line.app.send_task("noop", ("x" * 2**20,)) for _ in range(64)])
        else:
            fails(lambda: line.noop.delay(2))

    def test_when_the_broker_refuses(self, line: Line) -> None:
        line.send(1)
        line.proxy.refuse()
        line.proxy.cut()
        fails(lambda: line.noop.delay(2), "refused")
        fails(lambda: line.noop.delay_many([(2,), (3,)]), "refused")
        assert isinstance(Call(lambda: line.noop.delay(2)).wait(), line.noop.OperationalError)
        line.proxy.accept()
        line.noop.delay(4)
        assert line.arrived(2) == [1, 4]

    def test_when_all_connections_are_in_use(self, line: Line) -> None:
        line.app.conf.broker_pool_limit = 1
        with line.app.producer_or_acquire():
            fails(lambda: line.noop.delay(1), "Timed out waiting for a broker producer")
        line.noop.delay(2)
        assert line.arrived(1) == [2]

    def test_never_when_it_is_asked_to_wait(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = 0.05
        line.proxy.refuse()
        forever = {"max_retries": None, "interval_start": 0, "interval_max": 0.01}
        attempts = []
        policy = {**forever, "errback": lambda exc, pause: attempts.append(exc)}
        call = Call(lambda: line.noop.apply_async((1,), retry_policy=policy))
        wait_until(lambda: len(attempts) > 50, "it tries again and again")
        assert not call.ended.is_set()
        line.proxy.accept()
        assert call.wait() is None
        assert line.arrived(1) == [1]

    def test_when_the_pool_is_empty_but_not_when_asked_to_wait(self, line: Line) -> None:
        line.app.conf.update(broker_pool_limit=1, broker_publish_timeout=0.05)
        forever = {"max_retries": None}
        with line.app.producer_or_acquire():
            call = Call(lambda: line.noop.apply_async((1,), retry_policy=forever))
            fails(lambda: line.noop.delay(2), "Timed out")
            assert not call.ended.is_set()
        assert call.wait() is None
        assert line.arrived(1) == [1]


class TestNothingIsLost:
    def test_when_the_broker_comes_back_during_a_retry(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = PATIENCE_S
        line.send(0)
        line.proxy.refuse()
        line.proxy.cut()
        attempts = []
        policy = {
            "max_retries": 100_000,
            "interval_start": 0,
            "interval_max": 0.01,
            "errback": lambda exc, pause: attempts.append(exc),
        }
        calls = [
            Call(lambda: line.noop.apply_async((1,), retry_policy=policy)),
            Call(lambda: line.noop.s(2).apply_async(retry_policy=policy)),
        ]
        wait_until(lambda: len(attempts) > 10, "both try")
        line.proxy.accept()
        assert [call.wait() for call in calls] == [None, None]
        assert sorted(line.arrived(3)) == [0, 1, 2]

    def test_when_connection_and_queue_are_gone(self, line: Line) -> None:
        for n in range(3):
            line.send(n)
        line.proxy.cut()
        line.delete_queue()
        line.send(3)
        line.proxy.cut()
        line.delete_queue()
        line.noop.delay_many([(4,), (5,)])
        assert line.arrived(2) == [4, 5]

    def test_when_the_first_of_two_brokers_is_away(self, line: Line) -> None:
        line.proxy.refuse()
        urls = [line.proxy.through(line.url), line.url]
        app = line.make_app(urls, broker_publish_timeout=PATIENCE_S)
        app.tasks["noop"].delay(1)
        app.tasks["noop"].delay_many([(2,), (3,)])
        app.tasks["noop"].apply_async((4,), retry=False)
        assert line.arrived(4) == [1, 2, 3, 4]

    def test_from_many_threads(self, line: Line) -> None:
        line.app.conf.update(broker_pool_limit=3, broker_publish_timeout=PATIENCE_S)

        def send(first: int) -> None:
            for n in range(first, first + 20):
                line.noop.delay(n)
            line.noop.delay_many([(first + n,) for n in range(20, 40)])

        calls = [Call(lambda first=first: send(first)) for first in range(0, 240, 40)]
        assert [call.wait() for call in calls] == [None] * 6
        assert sorted(line.arrived(240)) == list(range(240))

    def test_from_a_forked_child_and_its_parent(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = PATIENCE_S
        line.noop.delay(0)
        for n in (1, 2):
            child = os.fork()
            if not child:
                status = 1
                try:
                    line.noop.delay(10 + n)
                    line.noop.delay_many([(20 + n,), (30 + n,)])
                    line.app.close()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            line.noop.delay(n)
        assert sorted(line.arrived(9)) == [0, 1, 2, 11, 12, 21, 22, 31, 32]


#: The frames in which a client says goodbye to RabbitMQ, and in which it is answered.
GOODBYE = b"\1\0\0\0\0\0\x0b\0\x0a\0\x32"
ANSWER = b"\1\0\0\0\0\0\4\0\x0a\0\x33"

#: A program that sends and ends.
PROGRAM = """
import sys
from taskq import Celery
app = Celery("sending", broker=sys.argv[1], backend=None)
app.send_task("noop", (1,), queue=sys.argv[2])
"""


def run_program(line: Line) -> int:
    command = [sys.executable, "-c", PROGRAM, line.proxy.through(line.url), line.queue]
    return subprocess.run(command, timeout=PATIENCE_S, check=False).returncode


def run_child(line: Line, library: Any) -> int | None:
    child = library.Process(target=line.noop.delay, args=(1,))
    child.start()
    child.join(PATIENCE_S)
    code: int | None = child.exitcode
    return code


class TestAtTheEnd:
    """RabbitMQ drops what it has not come to when a socket ends without a word."""

    @pytest.mark.parametrize("line", ["amqp"], indirect=True)
    @pytest.mark.parametrize("run", [
        run_program,
        lambda line: run_child(line, multiprocessing.get_context("fork")),
        lambda line: run_child(line, billiard),
    ], ids=["program", "multiprocessing", "billiard"])  # fmt: skip
    def test_a_process_waits_for_the_answer_to_its_goodbye(
        self, line: Line, run: Callable[[Line], int | None]
    ) -> None:
        line.noop.delay(0)
        said = {"up": bytearray(), "down": bytearray()}

        def listen(way: str, data: bytes) -> bool:
            said[way] += data
            return False

        line.proxy.cut_when(listen)
        assert run(line) == 0
        assert said["up"].count(GOODBYE) == said["down"].count(ANSWER) == 1
        # A child has left the connection of its parent alone.
        line.noop.delay(2)
        assert line.arrived(3) == [0, 1, 2]

    @pytest.mark.long
    def test_nothing_is_lost_when_the_broker_pauses(self, private_rabbitmq: RabbitMQ) -> None:
        pid = private_rabbitmq.pid
        assert pid is not None

        def send(line: Line) -> None:
            for n in range(1000):
                line.noop.delay(n)
            os.kill(pid, signal.SIGSTOP)
            subprocess.Popen(["sh", "-c", f"sleep 0.7; kill -CONT {pid}"])
            for n in range(1000, 1300):
                line.noop.delay(n)

        for _ in range(3):
            with Vhost(private_rabbitmq) as vhost:
                line = Line("amqp", vhost.url)
                child = multiprocessing.get_context("fork").Process(target=send, args=(line,))
                child.start()
                child.join(PATIENCE_S)
                assert child.exitcode == 0
                assert line.arrived(1300) == list(range(1300))
                line.close()


class TestTogether:
    @pytest.mark.parametrize("line", ["redis", "amqp-confirmed"], indirect=True)
    def test_a_batch_that_breaks_off_is_not_repeated(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = PATIENCE_S
        line.noop.delay(0)

        def is_answer_to_the_batch(way: str, data: bytes) -> bool:
            seen.append(data) if way == "up" else None
            return way == "down" and any(b"noop" in each for each in seen)

        seen: list[bytes] = []
        happened = line.proxy.cut_when(is_answer_to_the_batch)
        ids = [f"batch-{n}" for n in range(20)]

        def send() -> None:
            with line.app.pipeline():
                for n, id in enumerate(ids, 1):
                    line.noop.apply_async((n,), task_id=id)

        error = Call(send).wait()
        assert isinstance(error, BatchPublishError), error
        assert happened.wait(PATIENCE_S)
        assert error.unknown_ids == ids
        assert error.sent_ids == []
        line.noop.delay(21)
        found = line.arrived()
        assert sorted(found) == sorted(set(found))
        assert {0, 21} <= set(found)

    def test_nothing_is_sent_when_the_broker_is_away(self, line: Line) -> None:
        line.proxy.refuse()
        error = Call(lambda: line.noop.delay_many([(1,), (2,)])).wait()
        assert isinstance(error, OperationalError)
        assert not isinstance(error, BatchPublishError)
        line.proxy.accept()
        assert line.arrived() == []

    def test_many_large_messages(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = PATIENCE_S
        large = "x" * 200_000
        line.noop.delay_many([(large + str(n),) for n in range(30)])
        assert [each[len(large) :] for each in line.arrived(30)] == [str(n) for n in range(30)]


class TestRabbitMQ:
    @pytest.fixture
    def line(self, rabbitmq_url: str) -> Iterator[Line]:
        line = Line("amqp-confirmed", rabbitmq_url)
        yield line
        line.close()

    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux knows it")
    @pytest.mark.parametrize(("settings", "expected"), [
        ({}, UNREAD_MS),
        ({"socket_settings": {18: 5000}}, 5000),
    ])  # fmt: skip
    def test_how_long_a_broker_may_pause(
        self, line: Line, settings: dict[str, Any], expected: int
    ) -> None:
        line.app.conf.broker_transport_options = settings
        with line.app.connection_for_write() as connection:
            connection.connect()
            end = connection.transport.client.connection.transport.sock
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == expected

    def test_a_confirm_that_is_withheld(self, line: Line) -> None:
        line.noop.delay(1)
        line.proxy.stall("down")
        fails(lambda: line.noop.delay(2))

    def test_a_broker_that_is_low_on_memory(self, line: Line) -> None:
        line.noop.delay(1)
        with line.app.producer_or_acquire() as producer:
            producer.channel.connection._on_blocked()
        fails(lambda: line.noop.delay(2), BLOCKED)
        line.noop.delay(3)
        assert line.arrived() == [1, 3]

    @pytest.mark.long
    def test_a_real_alarm(self, private_rabbitmq: RabbitMQ) -> None:
        with Vhost(private_rabbitmq) as vhost:
            line = Line("amqp-confirmed", vhost.url)
            line.noop.delay(1)
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1")
            try:
                fails(lambda: line.noop.delay(2))
                fails(lambda: line.noop.delay_many([(3,), (4,)]), "broke off")
                line.app.conf.broker_publish_timeout = PATIENCE_S
                call = Call(lambda: [line.noop.delay(5), line.noop.delay(6)])
            finally:
                private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
            assert call.wait() is None
            assert {1, 5, 6} <= set(line.arrived())
            line.close()

    def test_each_message_of_a_batch_is_confirmed(self, line: Line) -> None:
        line.app.conf.broker_publish_timeout = PATIENCE_S
        line.noop.delay_many([(n,) for n in range(300)])
        with line.app.producer_or_acquire() as producer:
            assert producer.channel._published == 300
            assert producer.channel.unconfirmed == {}
        line.noop.delay(300)
        assert line.arrived() == list(range(301))

    def test_a_refused_message_is_known(self, line: Line) -> None:
        full = line.app.amqp.queues[line.queue]
        full.queue_arguments = {"x-max-length": 3, "x-overflow": "reject-publish"}
        ids = [f"id{n}" for n in range(6)]

        def send() -> None:
            with line.app.pipeline():
                for n, id in enumerate(ids):
                    line.noop.apply_async((n,), task_id=id)

        error = Call(send).wait()
        assert isinstance(error, BatchPublishError)
        assert sorted(error.sent_ids + error.unknown_ids) == ids
        assert len(error.sent_ids) >= 3
        assert len(line.arrived()) == len(error.sent_ids)

    def test_a_channel_the_broker_closes(self, line: Line) -> None:
        line.noop.delay(1)
        with pytest.raises(Exception, match="NOT_FOUND"):
            line.noop.apply_async((2,), exchange="no-such", routing_key="x")
        line.noop.delay(3)
        assert line.arrived() == [1, 3]

    @pytest.mark.long
    def test_over_tls(self, tmp_path: Path) -> None:
        files = Certificates(tmp_path / "certificates")
        port = free_port()
        options = {
            "listeners.ssl.1": f"127.0.0.1:{port}",
            "ssl_options.cacertfile": files.authority,
            "ssl_options.certfile": files.server,
            "ssl_options.keyfile": files.server_key,
            "ssl_options.verify": "verify_none",
        }
        with RabbitMQ(**options) as node, Vhost(node) as vhost:
            url = f"amqps://guest:guest@127.0.0.1:{port}/{vhost.name}"
            line = Line("amqp-confirmed", url)
            secure = {"ca_certs": files.authority, "server_hostname": "localhost"}
            line.app.conf.update(broker_use_ssl=secure, broker_publish_timeout=PATIENCE_S)
            line.noop.delay(1)
            line.noop.delay_many([(2,), (3,)])
            line.proxy.cut()
            line.noop.delay(4)
            line.app.conf.broker_publish_timeout = TIMEOUT_S
            line.proxy.stall()
            fails(lambda: line.noop.delay(5))
            line.url = vhost.url
            assert {1, 2, 3, 4} <= set(line.arrived())
            line.close()
