"""This file holds the tasks every application has: `celery.*`, by their names on the wire.

They are made when an application is finalised, one set for each. Workflows that are sent as
messages of their own (by older clients) and beat's daily cleanup arrive here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskq._state import connect_on_app_finalize
from taskq.canvas import maybe_signature
from taskq.result import result_from_tuple

if TYPE_CHECKING:
    from taskq.app.base import App

__all__ = ()


@connect_on_app_finalize
def add_backend_cleanup_task(app: App) -> Any:
    """`celery.backend_cleanup`: removes expired results; beat sends it every day."""

    @app.task(name="celery.backend_cleanup", shared=False, lazy=False)
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


@connect_on_app_finalize
def add_accumulate_task(app: App) -> Any:
    """`celery.accumulate`: gives its arguments, or the one at `index`."""

    @app.task(bind=True, name="celery.accumulate", shared=False, lazy=False)
    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return args if index is None else args[index]

    return accumulate


@connect_on_app_finalize
def add_map_task(app: App) -> Any:
    """`celery.map`: calls a task with each item, in this one run."""

    @app.task(name="celery.map", shared=False, lazy=False)
    def xmap(task: Any, it: Any) -> list[Any]:
        function = maybe_signature(task, app=app).type
        return [function(item) for item in it]

    return xmap


@connect_on_app_finalize
def add_starmap_task(app: App) -> Any:
    """`celery.starmap`: calls a task with each list of arguments, in this one run."""

    @app.task(name="celery.starmap", shared=False, lazy=False)
    def xstarmap(task: Any, it: Any) -> list[Any]:
        function = maybe_signature(task, app=app).type
        return [function(*item) for item in it]

    return xstarmap


@connect_on_app_finalize
def add_group_task(app: App) -> Any:
    """`celery.group`: sends the members of a group; for clients that send groups as a message."""

    @app.task(bind=True, name="celery.group", shared=False, lazy=False)
    def group(
        self: Any,
        tasks: Any,
        result: Any,
        group_id: str,
        partial_args: Any,
        add_to_parent: bool = True,
    ) -> Any:
        with app.producer_or_acquire() as producer:
            for task in tasks:
                maybe_signature(task, app=app).clone(partial_args).apply_async(
                    group_id=group_id, producer=producer, add_to_parent=False
                )
        outcome = result_from_tuple(result, app)
        parent = app.current_worker_task
        if add_to_parent and parent is not None:
            parent.add_trail(outcome)
        return outcome.as_tuple()

    return group


@connect_on_app_finalize
def add_chain_task(app: App) -> Any:
    """`celery.chain`: chains travel inside the messages of their steps, never as one."""

    @app.task(name="celery.chain", shared=False, lazy=False)
    def chain(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("chain is not a real task")

    return chain
