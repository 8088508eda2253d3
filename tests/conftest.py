"""Nothing that one test makes current is seen by the next."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from kombu.transport.memory import Channel, Transport

from taskq import _state
from taskq.app import trace

pytest_plugins = ["servers.fixtures"]

_NAMES = ("default_app", "_latest_app", "_make_default_app")


@pytest.fixture(autouse=True)
def fresh_process_state() -> Iterator[None]:
    """Current apps, shared tasks and the in-memory broker are as they were before the test."""
    kept = {name: getattr(_state, name) for name in _NAMES}
    finalizers = dict(_state._on_app_finalizers)
    token = _state._current_app.set(None)
    yield
    _state._current_app.reset(token)
    for name, value in kept.items():
        setattr(_state, name, value)
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)
    Channel.queues.clear()
    Transport.global_state.clear()


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Levels and handlers are as they were, whatever a worker in this process has set up."""
    loggers = [logging.getLogger(), *_loggers_of_ours()]
    kept = [(each, each.level, each.propagate, each.handlers[:]) for each in loggers]
    before = set(loggers)
    logs_success = trace._logs_success
    yield
    trace._logs_success = logs_success
    for each in _loggers_of_ours():
        if each not in before:
            each.setLevel(logging.NOTSET)
            each.propagate = True
            each.handlers[:] = []
    for logger, level, propagate, handlers in kept:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


def _loggers_of_ours() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.items()
    return [
        each
        for name, each in known
        if name.partition(".")[0] == "celery" and isinstance(each, logging.Logger)
    ]
