"""Which pool a name stands for."""

from __future__ import annotations

import pytest

from taskq import concurrency
from taskq.concurrency.solo import TaskPool
from taskq.exceptions import ImproperlyConfigured, UnknownPool


def test_a_name_a_path_and_a_class_stand_for_a_pool() -> None:
    assert concurrency.get_implementation("solo") is TaskPool
    assert concurrency.get_implementation("celery.concurrency.solo:TaskPool") is TaskPool
    assert concurrency.get_implementation(TaskPool) is TaskPool


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UnknownPool, match="did you mean 'solo'"):
        concurrency.get_implementation("sollo")


def test_a_pool_of_later_versions_names_what_there_is() -> None:
    assert not concurrency.is_available("gevent")
    with pytest.raises(ImproperlyConfigured, match=r"gevent pool is not in this version.*solo"):
        concurrency.get_implementation("gevent")


def test_a_custom_pool_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(concurrency.ALIASES, "custom", None)
    with pytest.raises(ImproperlyConfigured, match="CELERY_CUSTOM_WORKER_POOL"):
        concurrency.get_implementation("custom")
    monkeypatch.setitem(concurrency.ALIASES, "custom", "taskq.concurrency.solo:TaskPool")
    assert concurrency.get_implementation("custom") is TaskPool


def test_all_names_of_celery_are_known() -> None:
    assert set(concurrency.get_available_pool_names()) == {
        "prefork", "eventlet", "gevent", "solo", "processes", "threads", "custom",
    }  # fmt: skip
