"""The settings of workers, beat, remote control and events: rows of the table in `defaults.py`."""

from __future__ import annotations

from typing import Any

from taskq.app.option import (
    OLD_NS,
    OLD_NS_BEAT,
    OLD_NS_WORKER,
    Namespace,
    Option,
    anything,
    flag,
    mapping,
    number,
    path,
    target,
    text,
    whole,
)

__all__ = [
    "BEAT", "CONTROL", "DEFAULT_POOL", "DEFAULT_PROCESS_LOG_FMT", "DEFAULT_TASK_LOG_FMT",
    "EVENT", "EVENTS", "WORKER",
]  # fmt: skip

DEFAULT_POOL = "prefork"
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = (
    "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
)

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL", "NOTSET")


def _daemon_options(program: str) -> dict[str, Option]:
    rows = {
        "executable": text(None, f"Python to run a detached {program} with."),
        "gid": text(None, f"Group a detached {program} runs as.", also=(int,)),
        "logfile": path(None, f"File {program} writes its log to."),
        "pidfile": path(None, f"File {program} writes its process id to."),
        "uid": text(None, f"User a detached {program} runs as.", also=(int,)),
        "umask": text(None, f"File mode mask of a detached {program}, in octal.", also=(int,)),
    }
    for row in rows.values():
        row.declared = False
        row.since = "5.4"
    return rows


WORKER: dict[str, Any] = Namespace(
    __old__=OLD_NS_WORKER,
    agent=target(None, "Class of the worker's agent."),
    autoscaler=target(
        "celery.worker.autoscale:Autoscaler", "Class that grows and shrinks the pool.", since="2.2"
    ),
    cancel_long_running_tasks_on_connection_loss=flag(
        False,
        "Stop tasks with late acknowledgement when the broker is lost: it will send them again.",
        since="5.1",
    ),
    soft_shutdown_timeout=number(
        0.0, "Seconds tasks have to end after a cold shutdown was asked for.", since="5.5"
    ),
    enable_soft_shutdown_on_idle=flag(
        False, "Wait that long also when no task is running.", since="5.5"
    ),
    concurrency=anything(
        None,
        "Tasks run at a time; None is one per CPU, 'auto' heeds the container's limit.",
        reads="count",
    ),
    consumer=target("celery.worker.consumer:Consumer", "Class of the worker's consumer."),
    direct=flag(
        False, "Give each worker a queue of its own, NODENAME.dq.", old={"celery_worker_direct"}
    ),
    disable_rate_limits=flag(False, "Ignore all rate limits.", old={"celery_disable_rate_limits"}),
    deduplicate_successful_tasks=flag(
        False, "Skip a message that comes again though its task has succeeded.", since="5.1"
    ),
    enable_remote_control=flag(
        True, "Listen to remote control.", old={"celery_enable_remote_control"}
    ),
    hijack_root_logger=flag(True, "Take the root logger over, without its handlers.", since="2.2"),
    log_color=flag(None, "Colour the log; None is only on a terminal."),
    log_datefmt=text(None, "How times look in the log, as for strftime.", since="5.7"),
    log_format=text(DEFAULT_PROCESS_LOG_FMT, "Lines of the worker's log."),
    lost_wait=number(
        10.0,
        "Seconds to wait for the last answer of a child that died.",
        old={"celeryd_worker_lost_wait"},
    ),
    max_memory_per_child=whole(
        None, "KiB of memory at which a child is replaced after its task.", since="4.0"
    ),
    max_tasks_per_child=whole(None, "Tasks after which a child is replaced."),
    pool=target(DEFAULT_POOL, "Pool that runs tasks, by alias or class."),
    pool_putlocks=flag(True, "Hand no more tasks to the pool than it has children."),
    pool_restarts=flag(False, "Let remote control restart the pool."),
    pool_start_method=text(
        "fork", "How children are started.", choices=("fork", "spawn"), since="5.7"
    ),
    proc_alive_timeout=number(4.0, "Seconds a new child has to say that it is up."),
    prefetch_multiplier=whole(
        4, "Messages taken ahead for each task that can run at a time; 0 is all.", needed=True
    ),
    eta_in_broker=flag(
        True, "Let tasks that wait over 5 seconds wait in the broker, where it can keep them."
    ),
    eta_task_limit=whole(None, "Messages held at most for a later time.", since="5.6"),
    enable_prefetch_count_reduction=flag(
        True, "After a reconnect, take fewer messages ahead while old tasks still run.", since="5.4"
    ),
    disable_prefetch=flag(
        False, "Take a message only when a task can run at once; Redis only.", since="5.6"
    ),
    redirect_stdouts=flag(True, "Log what tasks print.", old={"celery_redirect_stdouts"}),
    redirect_stdouts_level=text(
        "WARNING",
        "Level it is logged at.",
        choices=LOG_LEVELS,
        also=(int,),
        old={"celery_redirect_stdouts_level"},
    ),
    send_task_events=flag(
        False, "Publish events of tasks, as -E does.", old={"celery_send_events"}
    ),
    state_db=path(None, "File that keeps revoked ids over a restart."),
    task_log_datefmt=text(None, "How times look in the log of tasks.", since="5.7"),
    task_log_format=text(DEFAULT_TASK_LOG_FMT, "Lines that tasks log."),
    timer=target(None, "Class of the worker's timer."),
    timer_precision=number(1.0, "Longest time, in seconds, between looks at the timer."),
    detect_quorum_queues=flag(
        True, "Set the prefetch count by consumer when a queue is a quorum queue.", since="5.5"
    ),
    **_daemon_options("worker"),
)

BEAT: dict[str, Any] = Namespace(
    __old__=OLD_NS_BEAT,
    enable_remote_control=flag(False, "Let beat answer to ping.", since="5.7"),
    remote_control_max_tick_age=number(
        None,
        "Seconds without a look at the schedule after which beat no longer answers; 0 is never,"
        " None is twice the longest sleep, at least 60.",
        since="5.7",
    ),
    max_loop_interval=number(
        0, "Longest sleep, in seconds, between looks at the schedule; 0 lets the scheduler choose."
    ),
    schedule=mapping({}, "Entries of the schedule by name."),
    scheduler=target("celery.beat:PersistentScheduler", "Class of the scheduler."),
    schedule_filename=path("celerybeat-schedule", "File the scheduler keeps last runs in."),
    sync_every=whole(0, "Sent tasks after which that file is written; 0 goes by time alone."),
    cron_starting_deadline=whole(
        None, "Seconds a missed crontab run is still made up for; None is always.", since="5.3"
    ),
    **_daemon_options("beat"),
)

CONTROL: dict[str, Any] = Namespace(
    queue_ttl=number(300.0, "Seconds a remote control message lives."),
    queue_expires=number(10.0, "Seconds an unused remote control queue lives."),
    queue_exclusive=flag(True, "Remote control queues belong to one connection.", since="5.6"),
    queue_durable=flag(
        False, "Remote control queues survive a restart of the broker.", since="5.6"
    ),
    exchange=text("celery", "First part of the names of remote control exchanges.", since="4.4"),
)

EVENT: dict[str, Any] = Namespace(
    __old__={"celery_event_{0}"},
    queue_expires=number(60.0, "Seconds an unused queue of a monitor lives."),
    queue_ttl=number(5.0, "Seconds an event lives."),
    queue_prefix=text("celeryev", "First part of the names of monitors' queues."),
    queue_exclusive=flag(True, "A monitor's queue belongs to its connection.", since="5.6"),
    queue_durable=flag(False, "A monitor's queue survives a restart of the broker.", since="5.6"),
    serializer=text("json", "Serializer of events."),
    exchange=text("celeryev", "Exchange events are published to.", since="4.4"),
)

EVENTS: dict[str, Any] = Namespace(__old__=OLD_NS, **_daemon_options("events"))
