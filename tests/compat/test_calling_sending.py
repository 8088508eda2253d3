"""The Calling guide: a broker out of reach, producers, pools. Numbers 144 to 149, 156, 157."""

import kombu
import pytest
from amqp.exceptions import RecoverableConnectionError
from celery import signals
from kombu import pools
from kombu.exceptions import OperationalError
from kombu.transport.memory import Channel, Transport

DEFAULT_POLICY = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_max": 1,
    "interval_step": 0.2,
}


@pytest.fixture
def task(app):
    @app.task(name="any")
    def any(): ...

    return any


@pytest.fixture
def away(monkeypatch):
    """The broker refuses the first `away.attempts` connections; `away.tried` counts them."""

    class Away:
        attempts = 10**9
        tried = 0

    # On one side the pools are the process's, with connections of other tests.
    pools.reset()
    connect = Transport.establish_connection

    def refuse(self):
        Away.tried += 1
        if Away.tried <= Away.attempts:
            raise RecoverableConnectionError("nobody is there")
        return connect(self)

    monkeypatch.setattr(Transport, "establish_connection", refuse)
    yield Away
    pools.reset()


@pytest.fixture
def refused(monkeypatch):
    """A broker that takes connections and no messages; grows with every attempt."""
    tried = []

    def refuse(self, queue, message, **kwargs):
        tried.append(queue)
        raise RecoverableConnectionError("no message is taken")

    monkeypatch.setattr(Channel, "_put", refuse)
    return tried


def test_144_without_retry_the_error_comes_at_once(task, refused):
    with pytest.raises(OperationalError, match="no message is taken"):
        task.apply_async(retry=False)
    assert len(refused) == 1


def test_144_the_setting_says_so_too(app, task, refused):
    app.conf.task_publish_retry = False
    with pytest.raises(OperationalError):
        task.delay()
    assert len(refused) == 1
    with pytest.raises(OperationalError):
        task.apply_async(retry=True)
    assert len(refused) > 2


def test_145_a_policy_is_merged_over_the_setting(app, task):
    policies = []

    @signals.before_task_publish.connect
    def keep(sender, retry_policy, **kwargs):
        policies.append(dict(retry_policy))

    app.conf.task_publish_retry_policy = {"max_retries": 7, "interval_start": 1}
    task.apply_async()
    task.apply_async(retry_policy={"interval_start": 2, "interval_max": 0.5})
    assert policies == [
        {"max_retries": 7, "interval_start": 1},
        {"max_retries": 7, "interval_start": 2, "interval_max": 0.5},
    ]


def test_145_retry_errors_are_retried_too(task, monkeypatch):
    tried = []

    def publish(self, *args, **kwargs):
        tried.append(1)
        if len(tried) < 3:
            raise KeyError("try again")

    monkeypatch.setattr(kombu.Producer, "_publish", publish)
    task.apply_async(retry_policy={"retry_errors": (KeyError,)})
    assert len(tried) == 3
    with pytest.raises(KeyError):
        tried.clear()
        task.apply_async()
    assert len(tried) == 1


def test_146_the_default_policy_gives_up(app, task, away):
    assert app.conf.task_publish_retry is True
    policy = app.conf.task_publish_retry_policy
    assert {name: policy[name] for name in DEFAULT_POLICY} == DEFAULT_POLICY
    with pytest.raises(OperationalError, match="nobody is there"):
        task.delay()
    assert away.tried >= 4


def test_147_max_retries_none_is_for_ever(task, sent, away):
    away.attempts = 40
    task.apply_async(retry_policy={"max_retries": None, "interval_max": 0, "interval_step": 0})
    assert away.tried == 41
    assert len(sent) == 1


def test_147_max_retries_zero_is_no_retry(task, away):
    few = {"max_retries": 0, "interval_start": 3600, "interval_max": 3600}
    with pytest.raises(OperationalError):
        task.apply_async(retry_policy=few)


def test_148_errors_of_the_broker_are_operational_errors(task, away):
    assert task.OperationalError is OperationalError
    for retry in (True, False):
        with pytest.raises(task.OperationalError, match="nobody is there"):
            task.apply_async(retry=retry)


def test_149_an_ignored_result_is_none_at_once(task):
    assert task.apply_async(ignore_result=True).get() is None


# -- producers and pools


@pytest.mark.parametrize("name", ["producer", "publisher"])
def test_156_a_producer_is_used_again(app, task, sent, name):
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for _ in range(3):
            task.apply_async(**{name: producer})
        app.send_task("other", **{name: producer})
        assert connection.default_channel._size("celery") == 4
        assert producer.connection is connection
    assert len(sent) == 4
    # Nobody took a connection out of the pool.
    assert not app.pool._dirty


def test_156_a_connection_may_be_given(app):
    with app.connection_for_write() as connection:
        app.send_task("other", connection=connection)
        assert connection.default_channel._size("celery") == 1
    assert not app.pool._dirty


def test_156_producer_or_acquire(app, task):
    with app.producer_or_acquire() as producer:
        task.apply_async(producer=producer)
        with app.producer_or_acquire(producer) as same:
            assert same is producer
    with app.connection_or_acquire() as connection:
        assert connection.default_channel._size("celery") == 1
        with app.connection_or_acquire(connection) as same:
            assert same is connection


def test_157_the_pool_has_a_limit_and_a_patience(app):
    app.conf.update(broker_pool_limit=2, broker_pool_acquire_timeout=0.05)
    with (
        app.connection_or_acquire(),
        app.connection_or_acquire(),
        pytest.raises(OperationalError, match=r"broker_pool_limit.*broker_pool_acquire_timeout"),
    ):
        app.connection_or_acquire().__enter__()
    with app.connection_or_acquire():
        pass


@pytest.mark.parametrize("limit", [0, None])
def test_157_without_a_limit_there_is_no_pool(app, task, limit):
    app.conf.update(broker_pool_limit=limit, broker_pool_acquire_timeout=0.05)
    with app.producer_or_acquire(), app.producer_or_acquire(), app.producer_or_acquire():
        task.delay()
