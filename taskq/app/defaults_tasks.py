"""The settings of tasks, their messages and their times: rows of the table in `defaults.py`."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

from taskq.app.option import (
    OLD_NS,
    Namespace,
    Option,
    anything,
    flag,
    mapping,
    number,
    old_ns,
    target,
    text,
    texts,
    whole,
)

__all__ = ["APP", "BROKER", "DEFAULT_ACCEPT_CONTENT", "DEFAULT_SECURITY_DIGEST", "SECURITY", "TASK"]

DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_SECURITY_DIGEST = "sha256"

QUEUE_TYPES = ("classic", "quorum")

APP: dict[str, Option] = {
    "accept_content": texts(
        DEFAULT_ACCEPT_CONTENT,
        "Content types, or names of serializers, that messages may have; all others are refused.",
        old=OLD_NS,
    ),
    "result_accept_content": texts(
        None, "The same for stored results; None takes `accept_content`.", since="4.3"
    ),
    "enable_utc": flag(True, "Write times in messages in UTC; off writes them in local time."),
    "imports": Option(
        (), type="tuple", old=OLD_NS, meaning="Modules with tasks; a worker imports them first."
    ),
    "include": Option(
        (), type="tuple", old=OLD_NS, meaning="More modules with tasks, imported after `imports`."
    ),
    "timezone": text(
        None,
        "Time zone of schedules and of times without one; None is UTC, or local time when"
        " `enable_utc` is off.",
        also=(tzinfo,),
        old=OLD_NS,
    ),
    "override_backends": mapping(
        None,
        "Class paths of result backends by alias, preferred to the built-in ones.",
        declared=False,
    ),
}

TASK: dict[str, Any] = Namespace(
    __old__=OLD_NS,
    acks_late=flag(False, "Acknowledge a message when its task has ended, not when it begins."),
    acks_on_failure_or_timeout=flag(
        True,
        "With late acknowledgement: also acknowledge what failed or ran out of time.",
        deprecate_by="6.0",
        remove_by="7.0",
        alt="task_acks_on_failure and task_acks_on_timeout",
    ),
    acks_on_failure=flag(
        None,
        "With late acknowledgement: acknowledge what failed (off rejects it for good); None takes"
        " `task_acks_on_failure_or_timeout`.",
        since="5.7",
    ),
    acks_on_timeout=flag(
        None,
        "With late acknowledgement: acknowledge what ran out of time (off puts it back on its"
        " queue); None takes `task_acks_on_failure_or_timeout`.",
        since="5.7",
    ),
    always_eager=flag(False, "Run calls at once in the calling process instead of sending them."),
    annotations=anything(
        None,
        "Attributes to set on tasks, by task name or `*`; or objects with `annotate(task)`.",
        since="2.5",
    ),
    compression=text(
        None, "Compression of task messages, such as gzip.", old={"celery_message_compression"}
    ),
    create_missing_queues=flag(
        True, "Make a queue that is named but not configured; off raises QueueNotFound."
    ),
    create_missing_queue_type=text(
        "classic", "Type of queues made on demand.", choices=QUEUE_TYPES, since="5.6"
    ),
    create_missing_queue_exchange_type=text(
        None,
        "Type of the exchange of queues made on demand; None is as the default exchange.",
        since="5.6",
    ),
    inherit_parent_priority=flag(
        False, "Calls made inside a task get the priority of its message.", since="4.2"
    ),
    default_delivery_mode=text(
        2,
        "Whether messages survive a restart of the broker: 2 (persistent) or 1 (transient).",
        choices=(1, 2, "transient", "persistent"),
    ),
    default_queue=text("celery", "Queue of calls that no route sends elsewhere.", needed=True),
    default_queue_type=text(
        "classic", "Type of the default queue.", choices=QUEUE_TYPES, since="5.5"
    ),
    default_exchange=text(None, "Exchange of queues without one; None is the queue's name."),
    default_exchange_type=text("direct", "Type of exchanges that name none."),
    default_routing_key=text(
        None, "Routing key of queues without one; None is the name of the default queue."
    ),
    default_rate_limit=text(
        None,
        "Rate limit of tasks without one: a number a second, or text like 100/m.",
        also=(int, float),
    ),
    default_priority=text(
        None, "Priority of messages of tasks without one.", reads="int", since="4.0"
    ),
    eager_propagates=flag(
        False,
        "Errors of calls that run eagerly are raised in the caller.",
        old={"celery_eager_propagates_exceptions"},
    ),
    ignore_result=flag(False, "Store no results, unless a task or a call wants its own."),
    store_eager_result=flag(
        False, "Results of calls that run eagerly go to the result backend too.", since="5.1"
    ),
    protocol=whole(
        2,
        "Version of the task messages that are sent.",
        choices=(1, 2),
        old={"celery_task_protocol"},
        since="4.0",
    ),
    publish_retry=flag(
        True,
        "Try again when sending fails because of the connection.",
        old={"celery_task_publish_retry"},
        since="2.2",
    ),
    publish_retry_policy=mapping(
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "How often and how fast sending is tried again, in seconds.",
        old={"celery_task_publish_retry_policy"},
        since="2.2",
    ),
    queues=mapping(
        None, "The queues a worker consumes from; None is the default queue.", reads="queues"
    ),
    queue_max_priority=whole(
        None, "Highest priority of RabbitMQ queues that do not set their own.", since="4.0"
    ),
    reject_on_worker_lost=flag(
        None,
        "With late acknowledgement: put a message back when the child that ran it died.",
        since="4.0",
    ),
    retry_on_worker_lost=flag(
        False,
        "Retry a task, within its limits, when the child that ran it died.",
        since="5.7",
    ),
    remote_tracebacks=flag(
        False, "Raise errors of tasks with the worker's traceback; needs the tblib extra."
    ),
    repr_maxlevels=whole(
        3, "How deep arguments are shown in logs and events; 0 or None is all.", since="5.7"
    ),
    routes=anything(None, "Where calls go: routers, or mappings of task names and patterns."),
    send_sent_event=flag(
        False,
        "Publish a task-sent event with each call.",
        old={"celery_send_task_sent_event"},
        since="2.2",
    ),
    serializer=text("json", "Serializer of task messages.", old={"celery_task_serializer"}),
    soft_time_limit=number(
        None,
        "Seconds a task may run before SoftTimeLimitExceeded is raised in it.",
        old={"celeryd_task_soft_time_limit"},
    ),
    time_limit=number(
        None,
        "Seconds a task may run before its process is killed.",
        old={"celeryd_task_time_limit"},
    ),
    store_errors_even_if_ignored=flag(False, "Store failures of tasks that store no results."),
    track_started=flag(False, "Store the state STARTED when a task begins."),
    allow_error_cb_on_chord_header=flag(
        False, "An errback of a chord is also linked to each task of its header.", since="5.3"
    ),
)

BROKER: dict[str, Any] = Namespace(
    url=text(
        None,
        "URL of the broker; several, in a list or with `;` between them, are tried in turn.",
        also=(list, tuple),
    ),
    read_url=text(None, "URL to consume from; None takes `broker_url`.", also=(list, tuple)),
    write_url=text(None, "URL to send to; None takes `broker_url`.", also=(list, tuple)),
    transport=target(None, "Transport when the URL does not name one."),
    transport_options=mapping({}, "Options for the transport.", since="2.2"),
    connection_timeout=number(4, "Seconds to wait for a connection."),
    connection_retry=flag(True, "Connect again when the connection is lost."),
    connection_retry_on_startup=flag(
        None,
        "Keep trying when the first connection fails; None takes `broker_connection_retry`.",
        since="5.3",
    ),
    connection_max_retries=whole(100, "Attempts to connect before giving up; None is for ever."),
    channel_error_retry=flag(
        False, "Treat errors of a channel like a lost connection.", since="5.3"
    ),
    failover_strategy=target(None, "Order in which several URLs are tried, by name or function."),
    heartbeat=whole(120, "Seconds between heartbeats on AMQP; 0 or None is off."),
    heartbeat_checkrate=whole(3.0, "Checks for the broker's heartbeat in each such time."),
    login_method=text(None, "AMQP login method."),
    native_delayed_delivery_queue_type=text(
        "quorum", "Type of the queues that hold delayed messages.", choices=QUEUE_TYPES, since="5.5"
    ),
    pool_limit=whole(10, "Connections kept for sending; 0 or None keeps none.", since="2.3"),
    pool_acquire_timeout=number(
        None, "Seconds to wait for a kept connection; None is without limit.", since="5.7"
    ),
    publish_timeout=number(
        10.0,
        "Seconds in which sending ends, well or with OperationalError; None waits for ever.",
    ),
    use_ssl=flag(False, "Connect with TLS: true, or a mapping of its options.", also=(dict,)),
    host=text(None, "Host or URL of the broker when there is no `broker_url`."),
    port=whole(None, "Port, over the one in the URL."),
    user=text(None, "User, over the one in the URL."),
    password=text(None, "Password, over the one in the URL.", also=(bytes,)),
    vhost=text(None, "Virtual host, over the one in the URL.", also=(int,)),
)

SECURITY: dict[str, Any] = Namespace(
    __old__=old_ns("celery_security"),
    certificate=text(None, "File with the certificate that messages are signed with.", since="2.5"),
    cert_store=text(None, "Pattern of the files with trusted certificates.", since="2.5"),
    key=text(None, "File with the private key.", since="2.5"),
    key_password=Option(
        None, type="bytes", meaning="Password of the private key, as bytes.", since="5.3"
    ),
    digest=text(DEFAULT_SECURITY_DIGEST, "Name of the digest of signatures.", since="4.3"),
)
