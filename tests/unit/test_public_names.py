"""The table of public names, its twin for type checkers, and the names Celery's package has."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import taskq
from taskq import compat

SOURCE = Path(taskq.__file__).read_text()


def names_for_checkers() -> dict[str, str]:
    """name -> module, as the block under TYPE_CHECKING imports them."""
    (block,) = (
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )
    found = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        for alias in line.names:
            assert alias.asname == alias.name, "re-exported by the `as` of the same name"
            found[alias.name] = str(line.module)
    return found


def test_the_table_and_the_block_for_type_checkers_agree() -> None:
    assert names_for_checkers() == taskq.PUBLIC


def test_every_public_name_is_there() -> None:
    for name in taskq.__all__:
        assert getattr(taskq, name) is not None, name
        assert name in dir(taskq)
    for name in taskq.SUBMODULES:
        assert getattr(taskq, name).__name__ == f"taskq.{name}"


@pytest.mark.parametrize("address", sorted(compat.MOVED))
def test_moved_addresses_lead_somewhere(address: str) -> None:
    module = importlib.import_module(f"taskq.{address}")
    assert isinstance(module, compat.AliasModule), "a file answers; the row can go"
    for home in compat.MOVED[address]:
        importlib.import_module(f"taskq.{home}")


def test_oldest_names_mean_the_current_app() -> None:
    app = taskq.Celery("old", broker="memory://")
    from taskq.execute import send_task
    from taskq.registry import tasks

    assert tasks is app.tasks
    assert send_task.__self__ is app
    assert taskq.log.get_default_logger().name == "celery"
    with pytest.raises(AttributeError):
        taskq.messaging.nothing


LOGGERS = {
    "taskq.app.trace": "celery.app.trace",
    "taskq.apps.worker": "celery.apps.worker",
    "taskq.bootsteps": "celery.bootsteps",
    "taskq.concurrency.base": "celery.pool",
    "taskq.utils.dispatch.signal": "celery.utils.dispatch.signal",
    "taskq.worker.components": "celery.worker",
    "taskq.worker.consumer.consumer": "celery.worker.consumer.consumer",
    "taskq.worker.request": "celery.worker.request",
    "taskq.worker.strategy": "celery.worker.strategy",
    "taskq.worker.worker": "celery.worker",
}


@pytest.mark.parametrize("module", sorted(LOGGERS))
def test_loggers_carry_the_names_of_celery(module: str) -> None:
    assert importlib.import_module(module).logger.name == LOGGERS[module]
