"""Errors say what happened, and cross process borders under Celery's names."""

from __future__ import annotations

import pickle
from datetime import datetime

import click
import kombu.exceptions
import pytest

from taskq import exceptions
from taskq.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    CeleryCommandException,
    CeleryError,
    ImproperlyConfigured,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    Retry,
    TaskError,
    UnknownBackend,
    UnknownPool,
    WorkerShutdown,
    WorkerTerminate,
)


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        (Retry("again", ValueError("x"), 3), "again"),
        (Retry(exc=ValueError("x"), when=3), "Retry in 3s: ValueError('x')"),
        (Retry(exc="lost text", when=3.5), "Retry in 3.5s: lost text"),
        (Retry(when=datetime(2026, 1, 1)), "Retry at 2026-01-01 00:00:00"),
        (Retry(), "Retry at None"),
    ],
)
def test_retry_says_why_and_when(retry: Retry, text: str) -> None:
    assert str(retry) == text


def test_retry_keeps_its_parts_through_pickle() -> None:
    copy = pickle.loads(pickle.dumps(Retry("m", KeyError("k"), 3, is_eager=True, sig=object())))
    assert (copy.message, repr(copy.exc), copy.excs, copy.when) == (
        "m",
        "KeyError('k')",
        "KeyError('k')",
        3,
    )
    assert copy.sig is None
    assert copy.is_eager is False


def test_retry_survives_an_error_that_cannot_be_shown() -> None:
    class Mute(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    assert str(Retry(exc=Mute("text"), when=1)) == "Retry in 1s: text"


def test_reject_shows_reason_and_requeue() -> None:
    reject = pickle.loads(pickle.dumps(Reject("why", requeue=True)))
    assert (reject.reason, reject.requeue) == ("why", True)
    assert repr(reject) == "reject requeue=True: why"
    assert Reject().requeue is False


def test_max_retries_exceeded_carries_the_call() -> None:
    error = MaxRetriesExceededError("no more", task_args=(1,), task_kwargs={"b": 2})
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.args, copy.task_args, copy.task_kwargs) == (("no more",), (1,), {"b": 2})
    assert MaxRetriesExceededError().task_args == []
    with pytest.raises(TypeError):
        MaxRetriesExceededError("a", nonsense=1)


def test_backend_errors_name_the_task() -> None:
    assert repr(BackendGetMetaError("a", task_id="t1")) == "BackendGetMetaError('a') task_id:t1"
    stored = BackendStoreError("a", state="SUCCESS", task_id="t1")
    assert repr(stored) == "BackendStoreError('a') state:SUCCESS task_id:t1"
    assert str(stored) == "a"
    assert not issubclass(BackendGetMetaError, CeleryError)


def test_not_registered_is_a_key_error_that_explains() -> None:
    error = NotRegistered("proj.add")
    assert isinstance(error, KeyError) and isinstance(error, TaskError)
    assert repr(error) == (
        "Task of kind 'proj.add' never registered, please make sure it's imported."
    )


def test_unknown_names_come_with_the_closest_known_one() -> None:
    error = UnknownBackend("redsi", ["redis", "rpc", "sqlite"])
    assert isinstance(error, ImproperlyConfigured)
    assert str(error) == "unknown result backend 'redsi'; did you mean 'redis'?"
    assert str(UnknownPool("zzz", ["solo", "prefork"])) == (
        "unknown worker pool 'zzz'; known are: prefork, solo"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_errors_of_libraries_are_the_libraries_own() -> None:
    assert exceptions.OperationalError is kombu.exceptions.OperationalError
    assert issubclass(CeleryCommandException, click.ClickException)
    assert CeleryCommandException("no", exit_code=69).exit_code == 69
    assert WorkerShutdown(3).code == 3
    assert issubclass(WorkerTerminate, SystemExit)
    assert exceptions.RetryTaskError is Retry
    assert exceptions.SystemTerminate is WorkerTerminate


def test_every_class_is_drawn_in_the_tree_of_the_docstring() -> None:
    drawn = exceptions.__doc__ or ""
    for name in exceptions.__all__:
        if isinstance(getattr(exceptions, name), type):
            assert name in drawn


def test_reraise_keeps_the_traceback_given() -> None:
    try:
        raise KeyError("first")
    except KeyError as exc:
        error, traceback = exc, exc.__traceback__
    with pytest.raises(KeyError) as caught:
        exceptions.reraise(KeyError, error, traceback)
    frames = [entry.name for entry in caught.traceback]
    assert "test_reraise_keeps_the_traceback_given" in frames
