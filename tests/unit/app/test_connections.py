"""Connections to the broker, the pools of them, and what a fork does to these."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import sys
import threading
import warnings

import kombu
import pytest
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError
from kombu.transport import TRANSPORT_ALIASES, memory
from patience import PATIENCE_S

from taskq.app import App, Celery
from taskq.app import connections as module
from taskq.app.connections import Connection, ConnectionPool, ProducerPool
from taskq.exceptions import ImproperlyConfigured, UnknownTransport


def make_app(**settings):
    app = Celery("connections", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.fixture
def app():
    app = make_app()
    yield app
    app.close()


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/broker.db"


class TestConnection:
    def test_our_transport_behind_the_name_of_its_scheme(self, sqlite_url):
        connection = Connection(sqlite_url)
        assert connection.transport_cls == "sqlite"
        assert type(connection.transport).__module__ == "taskq.transports.sqlite"
        assert TRANSPORT_ALIASES["redis"] == "kombu.transport.redis:Transport"

    def test_copies_keep_class_and_name(self, sqlite_url):
        connection = Connection(sqlite_url, transport_options={"lease": 5})
        copies = (
            connection.clone(),
            copy.copy(connection),
            pickle.loads(pickle.dumps(connection)),
        )
        for made in copies:
            assert type(made) is Connection
            assert made.transport_cls == "sqlite"
            assert made.as_uri() == connection.as_uri() == sqlite_url
            assert made.transport_options == {"lease": 5}

    def test_copies_of_pooled_connections_leave_the_pool(self, sqlite_url):
        with Connection(sqlite_url).Pool(1).acquire() as pooled:
            assert isinstance(pooled, Connection)
            assert type(pooled.transport).__module__ == "taskq.transports.sqlite"
            for made in (pooled.clone(), pickle.loads(pickle.dumps(pooled))):
                assert type(made) is Connection
                assert made.as_uri() == sqlite_url

    def test_failover_keeps_the_class(self, tmp_path):
        first, second = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
        connection = Connection([first, second])
        connection.maybe_switch_next()
        assert connection.transport_cls == "sqlite"
        assert type(connection.transport).__module__ == "taskq.transports.sqlite"

    def test_passwords_are_masked(self):
        connection = Connection("amqp://user:secret@host//")
        assert "secret" not in connection.as_uri()
        assert "secret" not in repr(connection)

    @pytest.mark.parametrize("url", ["redsi://host", "sqlit:///x.db"])
    def test_unknown_scheme(self, url):
        with pytest.raises(UnknownTransport, match=r"did you mean '(redis|sqlite|sqla)") as caught:
            Connection(url)
        assert isinstance(caught.value, ImproperlyConfigured)
        assert isinstance(caught.value, KeyError)

    def test_a_transport_whose_extra_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ImproperlyConfigured, match=r"redis.* comes with taskq\[redis\]"):
            Connection("redis://host")
        Connection("memory://")

    def test_unknown_transport_parameter(self):
        with pytest.raises(UnknownTransport):
            Connection("host", transport="nope").transport


class TestSettings:
    LEGACY = {
        "broker_transport": "memory",
        "broker_host": "host",
        "broker_user": "user",
        "broker_password": "secret",
        "broker_vhost": "3",
        "broker_port": 99,
        "broker_login_method": "PLAIN",
        "broker_failover_strategy": "shuffle",
        "broker_connection_timeout": 9,
        "broker_transport_options": {"a": 1},
    }

    def app(self, **settings):
        app = Celery("connections", set_as_current=False)
        app.conf.update(settings)
        return app

    def test_without_a_url(self):
        info = self.app(**self.LEGACY).connection().info()
        assert info["hostname"] == "host"
        assert (info["userid"], info["password"], info["virtual_host"]) == ("user", "secret", "3")
        assert (info["port"], info["transport"], info["connect_timeout"]) == (99, "memory", 9)
        assert (info["failover_strategy"], info["login_method"]) == ("shuffle", "PLAIN")
        assert info["transport_options"] == {"a": 1}
        assert info["heartbeat"] is None

    def test_arguments_win(self):
        info = (
            self.app(**self.LEGACY)
            .connection(
                "other",
                userid="me",
                connect_timeout=0,
                heartbeat=3,
                transport_options={"b": 2},
                failover_strategy="round-robin",
                something_else=1,
            )
            .info()
        )
        assert (info["hostname"], info["userid"], info["connect_timeout"]) == ("other", "me", 0)
        assert (info["heartbeat"], info["failover_strategy"]) == (3.0, "round-robin")
        assert info["transport_options"] == {"a": 1, "b": 2}

    def test_transport_options_of_settings_stay_as_they_are(self):
        app = self.app(broker_url="memory://", broker_transport_options={"a": 1})
        app.send_task("t")
        assert app.conf.broker_transport_options == {"a": 1}
        app.close()

    def test_read_and_write(self):
        app = self.app(broker_read_url="amqp://r", broker_write_url="amqp://w")
        assert app.connection_for_read().hostname == "r"
        for connection in (app.connection_for_write(), app.connection(), app.pool.connection):
            assert connection.hostname == "w"
        assert app.connection_for_read("amqp://x").hostname == "x"
        assert app.connection_for_write("amqp://y", heartbeat=4).heartbeat == 4.0
        assert app.broker_connection("amqp://z").hostname == "z"
        app.close()

    def test_several_urls(self):
        for urls in ("amqp://a;amqp://b", ["amqp://a", "amqp://b"]):
            connection = self.app(broker_url=urls).connection()
            assert connection.alt == ["amqp://a", "amqp://b"]
            assert connection.hostname == "a"

    def test_either(self, app):
        assert app.either("task_default_queue", None, "x", "y") == "x"
        assert app.either("task_default_queue", None) == "celery"
        assert app.either("task_default_queue", "") == ""
        assert app.either("task_default_queue", 0) == 0


class TestLending:
    def test_what_is_given_is_given_back_unreleased(self, app):
        with app.connection() as given:
            with app.connection_or_acquire(given) as connection:
                assert connection is given
            assert not given._closed
        producer = object()
        with app.producer_or_acquire(producer) as lent:
            assert lent is producer

    def test_from_the_pool_or_new(self, app):
        with app.connection_or_acquire() as connection:
            assert isinstance(connection, Connection)
            assert connection in app.pool._dirty
        assert not app.pool._dirty
        with app.connection_or_acquire(pool=False) as connection:
            assert connection not in app.pool._dirty
        assert app.default_connection.__func__ is app.connection_or_acquire.__func__

    def test_nothing_is_acquired_before_the_block(self, app):
        app.producer_or_acquire()
        app.connection_or_acquire()
        assert not app.producer_pool._dirty
        assert not app.pool._dirty

    def test_a_producer_keeps_its_connection_while_idle(self, app):
        with app.producer_or_acquire() as first:
            channel = first.channel
        with app.producer_or_acquire() as second:
            assert second is first
            assert second.channel is channel

    def test_a_connection_lost_while_idle_is_opened_again(self, app):
        with app.producer_or_acquire() as producer:
            channel = producer.channel
        producer.connection.collect()
        with app.producer_or_acquire() as again:
            assert again is producer
            assert again.channel is not channel
            again.publish({}, routing_key="celery")

    def test_an_error_in_the_block_closes_the_connection(self, app):
        with pytest.raises(RuntimeError), app.producer_or_acquire() as producer:
            connection = producer.connection
            connection.connect()
            raise RuntimeError("half a message")
        assert connection._closed
        with app.producer_or_acquire() as producer:
            producer.publish({}, routing_key="celery")
        assert not app.producer_pool._dirty

    def test_an_error_before_sending_does_not(self, app):
        with pytest.raises(EncodeError), app.producer_or_acquire() as producer:
            connection = producer.connection
            connection.connect()
            raise EncodeError("not JSON")
        assert connection.connected


class TestLimits:
    @pytest.mark.parametrize("limit", [None, 0])
    def test_none_means_a_new_one_each_time(self, limit):
        app = make_app(broker_pool_limit=limit)
        with app.producer_or_acquire() as first, app.producer_or_acquire() as second:
            assert first.connection is not second.connection
            kept = first.connection
        assert kept._closed
        app.close()

    def test_acquire_timeout_of_connections(self):
        app = make_app(broker_pool_limit=1, broker_pool_acquire_timeout=0.02)
        with app.connection_or_acquire():
            with pytest.raises(OperationalError, match=r"broker_pool_limit \(currently 1\)"):
                app.connection_or_acquire().__enter__()
            with pytest.raises(OperationalError, match="All 1 connections are in use"):
                app.send_task("t")
        app.send_task("t")
        app.close()

    def test_acquire_timeout_of_producers(self):
        app = make_app(broker_pool_limit=1, broker_pool_acquire_timeout=0.02)
        with app.producer_or_acquire(), pytest.raises(OperationalError, match=r"after 0\.02s"):
            app.send_task("t")
        app.send_task("t")
        app.close()

    def test_an_idle_producer_gives_its_connection_to_who_needs_one(self):
        app = make_app(broker_pool_limit=1, broker_pool_acquire_timeout=0.02)
        app.send_task("t")
        with app.connection_or_acquire() as connection:
            assert connection.connected
        app.send_task("t")
        with app.pool.acquire() as connection:
            assert connection.connected
        app.close()

    def test_a_waiting_thread_gets_the_connection_of_a_producer_that_is_released(self):
        app = make_app(broker_pool_limit=1)
        got = threading.Event()

        def wait():
            with app.connection_or_acquire():
                got.set()

        thread = threading.Thread(target=wait)
        with app.producer_or_acquire() as producer:
            producer.channel
            thread.start()
            while not app.pool.waiting:
                threading.Event().wait(0.001)
            assert not got.is_set()
        assert got.wait(PATIENCE_S)
        thread.join()
        app.send_task("t")
        app.close()

    def test_many_threads_share_few_connections(self):
        app = make_app(broker_pool_limit=2)
        held, peaks, failures = [], [], []

        def hold(connection):
            held.append(connection)
            peaks.append(len(held))

        def work():
            try:
                for _ in range(20):
                    with app.producer_or_acquire() as producer:
                        hold(producer.connection)
                        producer.publish({}, routing_key="few")
                        held.remove(producer.connection)
                    with app.connection_or_acquire() as connection:
                        hold(connection)
                        held.remove(connection)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert 1 <= max(peaks) <= 2
        assert not app.pool._dirty - {p.__connection__ for p in app.producer_pool._resource.queue
                                      if not callable(p)}  # fmt: skip
        app.close()

    def test_one_that_was_taken_out_just_now_counts(self):
        app = make_app(broker_pool_limit=1)
        refused = []

        class Noting(set):
            def add(self, item):
                # Out of the queue, and not among those lent out.
                if not refused:
                    refused.append("asked")
                    with pytest.raises(LimitExceeded):
                        app.pool.acquire()
                    refused.append("refused")
                super().add(item)

        app.pool._dirty = Noting()
        app.pool.acquire().release()
        assert refused == ["asked", "refused"]
        app.close()

    def test_another_one_in_place_of_a_broken_one(self):
        app = make_app(broker_pool_limit=2)
        for _ in range(3):
            app.pool.replace(app.pool.acquire())
        first, second = app.pool.acquire(), app.pool.acquire()
        assert first is not second
        with pytest.raises(LimitExceeded):
            app.pool.acquire()
        first.release()
        second.release()
        app.close()


class TestPools:
    def test_one_per_application(self, app):
        assert app.pool is app.pool
        assert isinstance(app.pool, ConnectionPool)
        assert isinstance(app.producer_pool, ProducerPool)
        assert app.amqp.producer_pool is app.amqp.publisher_pool is app.producer_pool
        assert (app.pool.limit, app.producer_pool.limit) == (10, 10)
        assert make_app().pool is not app.pool

    def test_made_once_by_many_threads(self, app):
        pools = []
        barrier = threading.Barrier(4)

        def make():
            barrier.wait()
            pools.append(app.producer_pool)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, pools))) == 1

    def test_closing(self, app):
        app.send_task("t")
        pool, producers = app.pool, app.producer_pool
        app.close()
        assert pool._closed and producers._closed
        assert app.pool is not pool
        app.send_task("t")

    def test_kombus_own_pools_are_left_alone(self, app):
        before = dict(kombu.pools.connections), dict(kombu.pools.producers)
        app.send_task("t")
        assert (dict(kombu.pools.connections), dict(kombu.pools.producers)) == before

    def test_the_file_of_an_embedded_broker_is_logged_once(self, sqlite_url, tmp_path, caplog):
        caplog.set_level(logging.INFO, "celery.app.amqp")
        for _ in range(2):
            app = App("embedded", broker=sqlite_url, set_as_current=False)
            app.send_task("t")
            app.close()
        texts = [r.getMessage() for r in caplog.records if r.name == "celery.app.amqp"]
        assert texts == [f"Embedded broker: {tmp_path}/broker.db"]


def in_child(function):
    """The exit code of a forked child that runs `function`: 0 when it returns true."""
    with warnings.catch_warnings():
        # Python warns of forks beside threads; here that is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if function() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def test_a_child_makes_pools_of_its_own(self, app):
        app.send_task("t")
        pool, producers = app.pool, app.producer_pool

        def check():
            fresh = app.pool is not pool and app.producer_pool is not producers
            app.send_task("t")
            return fresh and not pool._closed

        assert in_child(check) == 0
        assert app.pool is pool
        app.send_task("t")

    def test_listeners_are_told(self, app):
        told = []
        app.on_after_fork.connect(lambda **kwargs: told.append(kwargs["sender"]), weak=False)
        app.pool
        assert in_child(lambda: told == [app]) == 0
        assert told == []

    def test_a_pool_that_another_thread_holds_at_the_fork(self, app):
        app.send_task("t")

        def check():
            app.send_task("t")
            return True

        with app.pool._resource.mutex, app.producer_pool._resource.mutex, module._creating:
            assert in_child(check) == 0

    def test_the_origin_names_the_child(self, app):
        app.amqp.as_task_v2("i", "t")

        def check():
            return app.amqp.as_task_v2("i", "t").headers["origin"].startswith(f"gen{os.getpid()}@")

        assert in_child(check) == 0

    def test_the_parents_connection_works_on(self, sqlite_url):
        app = App("forking", broker=sqlite_url, set_as_current=False)
        app.send_task("t")

        def check():
            app.send_task("t")
            return True

        assert in_child(check) == 0
        app.send_task("t")
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            count = app.amqp.queues["celery"](channel).queue_declare(passive=True).message_count
        assert count == 3
        app.close()


@pytest.fixture(autouse=True)
def empty_broker():
    """kombu's memory transport keeps its queues for the whole process."""
    for queue in memory.Channel.queues.values():
        queue.queue.clear()
