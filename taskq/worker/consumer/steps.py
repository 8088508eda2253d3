"""This file lists what a consumer starts and stops: connection, task queues, commands.

Each step is one of Celery's graph, under its name there, so that users' steps sort before and
after it; each only calls what does the work.
"""

from __future__ import annotations

from typing import Any

from kombu.common import QoS, ignore_errors
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from kombu.utils.url import maybe_sanitize_url

from taskq.bootsteps import StartStopStep
from taskq.utils.log import get_logger
from taskq.worker.keepalive import Keepalive
from taskq.worker.pidbox import Pidbox

__all__ = ("Agent", "Connection", "Control", "DelayedDelivery", "Tasks")

NO_DELAY_QUEUES = (
    "The delay queues of this broker cannot be set up (%s): tasks with an ETA are not sent by them."
)

logger = get_logger("taskq.worker.consumer.tasks")
delays_logger = get_logger("taskq.worker.consumer.delayed_delivery")
connection_logger = get_logger("taskq.worker.consumer.connection")


class Connection(StartStopStep):
    """The connection messages come from."""

    name = "celery.worker.consumer.connection.Connection"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        c.connection = None
        self.keepalive: Keepalive | None = None
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Connect, as patiently as the settings say, and see to it that it stays alive."""
        self._end_keepalive()
        connection = c.connection = c.connect()
        connection_logger.info("Connected to %s", connection.as_uri())
        if c.amqheartbeat and connection.supports_heartbeats and connection.connection.heartbeat:
            self.keepalive = Keepalive(connection, c.amqheartbeat_rate)
            self.keepalive.start()

    def register_with_event_loop(self, c: Any, hub: Any) -> None:
        """Let heartbeats be sent by the loop where no thread may send them."""
        if self.keepalive is not None:
            self.keepalive.join_loop(hub)

    def _end_keepalive(self) -> None:
        keepalive, self.keepalive = self.keepalive, None
        if keepalive is not None:
            keepalive.end()

    def close_connection(self, c: Any) -> None:
        """Close it; what was not acknowledged goes back to the broker."""
        self._end_keepalive()
        connection, c.connection = c.connection, None
        if connection:
            ignore_errors(connection, connection.close)

    def shutdown(self, c: Any) -> None:
        """Close it for good."""
        self.close_connection(c)

    def info(self, c: Any) -> dict[str, Any]:
        """Facts about the broker, without the password."""
        facts: dict[str, Any] = {}
        if c.connection:
            facts = dict(c.connection.info())
            facts.pop("password", None)
            # A host may be a whole URL, and so may what stands by: both can hold a password.
            facts["hostname"] = maybe_sanitize_url(facts.get("hostname") or "")
            facts["alternates"] = [maybe_sanitize_url(url) for url in facts.get("alternates") or ()]
        return {"broker": facts}


class Agent(StartStopStep):
    """The user's class of the setting `worker_agent`: whatever lives beside the consumer."""

    name = "celery.worker.consumer.agent.Agent"
    conditional = True
    requires = (Connection,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        self.agent_cls = c.app.conf.worker_agent
        self.enabled = bool(self.agent_cls)
        c.agent = None
        super().__init__(c, **kwargs)

    def create(self, c: Any) -> Any:
        """Make the agent; it is started when there is a connection, and stopped before it."""
        agent = c.agent = self.instantiate(self.agent_cls, c.connection)
        return agent


class Tasks(StartStopStep):
    """The task queues: strategies, prefetch window, consumer."""

    name = "celery.worker.consumer.tasks.Tasks"
    requires = (Connection,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        c.task_consumer = c.qos = None
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Settle what each task type settles, and declare the queues."""
        c.update_strategies()
        per_channel = self.qos_global(c)
        c.qos_global = per_channel
        c.connection.default_channel.basic_qos(0, c.initial_prefetch_count, per_channel)
        c.task_consumer = c.app.amqp.TaskConsumer(c.connection, on_decode_error=c.on_decode_error)
        c.lost_channels.recover(c.task_consumer.channel)

        def set_prefetch_count(prefetch_count: int) -> None:
            count = self.limit_held(c, prefetch_count)
            c.task_consumer.qos(prefetch_count=count, apply_global=per_channel)

        c.qos = QoS(set_prefetch_count, c.initial_prefetch_count)

    def stop(self, c: Any) -> None:
        """Take no more messages; the broker gives those not yet handed out to others."""
        if c.task_consumer:
            logger.debug("Canceling task consumer...")
            ignore_errors(c, c.task_consumer.cancel)

    def shutdown(self, c: Any) -> None:
        """Close the channel; what is held unacknowledged goes back to the queue."""
        if c.task_consumer:
            self.stop(c)
            logger.debug("Closing consumer channel...")
            ignore_errors(c, c.task_consumer.close)
            c.task_consumer = None

    def qos_global(self, c: Any) -> bool:
        """True when the broker counts the prefetch window per channel, not per consumer."""
        if c.connection.qos_semantics_matches_spec:
            return False
        if c.app.conf.worker_detect_quorum_queues and c.app.amqp.queues.has_quorum:
            # RabbitMQ refuses it for them (NOT_IMPLEMENTED).
            logger.info("Global QoS is disabled. Prefetch count is now static.")
            return False
        return True

    def limit_held(self, c: Any, prefetch_count: int) -> int:
        """Give the prefetch window the broker is told of, with messages that wait here or without.

        Only that is limited, not the count: it shrinks by every message that waits no more.
        """
        limit: int | None = c.app.conf.worker_eta_task_limit
        if not limit:
            return prefetch_count
        return min(prefetch_count, max(limit, int(c.initial_prefetch_count)))

    def info(self, c: Any) -> dict[str, Any]:
        """The prefetch window of now."""
        return {"prefetch_count": self.limit_held(c, c.qos.value) if c.qos else "N/A"}


class DelayedDelivery(StartStopStep):
    """RabbitMQ's delay queues, by which senders have tasks wait that go to quorum queues."""

    name = "celery.worker.consumer.delayed_delivery.DelayedDelivery"
    requires = (Tasks,)

    def include_if(self, c: Any) -> bool:
        """Only where Celery's senders use them."""
        return bool(
            c.app.conf.worker_detect_quorum_queues
            and c.app.amqp.queues.has_quorum
            and c.conninfo.transport.driver_type == "amqp"
        )

    def start(self, c: Any) -> None:
        """Set them up, and have what comes out of them reach the exchanges of our queues."""
        queue_type = c.app.conf.broker_native_delayed_delivery_queue_type
        with c.app.connection_for_write() as connection:
            try:
                declare_native_delayed_delivery_exchanges_and_queues(connection, queue_type)
                for queue in c.app.amqp.queues.consume_from.values():
                    # By a direct exchange they come at once, and the worker decides.
                    if any(way.exchange.type != "direct" for way in _ways_to(queue)):
                        bind_queue_to_native_delayed_delivery_exchange(connection, queue)
            except connection.channel_errors as exc:
                delays_logger.warning(NO_DELAY_QUEUES, exc)


def _ways_to(queue: Any) -> list[Any]:
    return [queue] if queue.exchange else list(queue.bindings or ())


class Control(StartStopStep):
    """Remote control commands."""

    name = "celery.worker.consumer.control.Control"
    requires = (Tasks,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        self.box = Pidbox(c)
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Listen for commands."""
        self.box.start(c)

    def stop(self, c: Any) -> None:
        """Listen no more."""
        self.box.stop(c)

    def shutdown(self, c: Any) -> None:
        """Listen no more."""
        self.box.shutdown(c)

    def include_if(self, c: Any) -> bool:
        """Unless switched off (worker_enable_remote_control) or unknown to the broker."""
        return bool(
            c.app.conf.worker_enable_remote_control and c.conninfo.supports_exchange_type("fanout")
        )
