"""The table of settings: complete, of one mind with Celery's, and readable."""

from __future__ import annotations

import json
import runpy
import warnings
from datetime import timedelta
from pathlib import Path

import pytest

from taskq.app import defaults
from taskq.app.option import Namespace, Option, to_bool
from taskq.exceptions import CPendingDeprecationWarning

TESTS = Path(__file__).parents[2]
CELERY = json.loads((TESTS / "unit/recorded/settings_of_celery_5_7.json").read_text())


def as_json(value):
    if isinstance(value, timedelta):
        return value.total_seconds()
    return "inf" if value == float("inf") else json.loads(json.dumps(value))


#: Settings Celery does not have.
OURS = {"broker_publish_timeout", "worker_eta_in_broker"}


def test_has_every_setting_of_celery_and_few_others():
    assert set(defaults.OPTIONS) == set(CELERY) | OURS


@pytest.mark.parametrize("name", CELERY)
def test_row_agrees_with_celery(name):
    kind, default, old, declared = CELERY[name]
    option = defaults.OPTIONS[name]
    assert (option.type, as_json(option.default)) == (kind, default)
    assert defaults.OLD_NAME_OF.get(name) == old
    assert (name in defaults.DEFAULTS) is declared
    assert option.meaning and "\n" not in option.meaning
    assert option.read(option.default) == option.default


def test_names_of_settings_are_the_keys_of_the_defaults():
    assert set(defaults.DEFAULTS) == defaults.SETTING_KEYS
    assert dict(defaults.flatten(defaults.NAMESPACES)) == defaults.OPTIONS
    assert not set(defaults.GUIDE_NAMES) & set(defaults.OLD_NAMES)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("url",), ("broker", "url")),
        (("url", "database"), ("database", "url")),
        (("broker_url", "worker"), (None, "broker_url")),
        (("BROKER_URL",), (None, "broker_url")),
        (("concurrency",), ("worker", "concurrency")),
        (("enable_utc",), (None, "enable_utc")),
        (("worker",), (None, "worker")),
    ],
)
def test_find(args, found):
    assert defaults.find(*args)[:2] == found


def test_find_unknown():
    with pytest.raises(KeyError):
        defaults.find("nope")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("worker_prefetch_multiplier", "4", 4),
        ("worker_prefetch_multiplier", 4.0, 4.0),
        ("worker_concurrency", "auto", "auto"),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "", None),
        ("task_acks_late", "yes", True),
        ("task_acks_late", "Off", False),
        ("task_acks_late", "", False),
        ("task_acks_late", 1, 1),
        ("result_expires", "3600", 3600.0),
        ("result_expires", timedelta(hours=1), timedelta(hours=1)),
        ("result_expires", None, None),
        ("broker_url", ["a://", "b://"], ["a://", "b://"]),
        ("broker_use_ssl", {"ca": 1}, {"ca": 1}),
        ("imports", "proj.tasks", "proj.tasks"),
        ("accept_content", {"json"}, {"json"}),
        ("task_queues", ["a"], ["a"]),
        ("task_default_delivery_mode", "2", 2),
        ("task_default_queue_type", "Quorum", "quorum"),
        ("worker_redirect_stdouts_level", 30, 30),
        ("worker_redirect_stdouts_level", "info", "INFO"),
        ("worker_pool", Option, Option),
        ("beat_schedule_filename", Path("x"), Path("x")),
        ("task_default_rate_limit", 10, 10),
        ("broker_pool_limit", None, None),
    ],
)
def test_values_celery_takes_are_taken(name, given, read):
    assert defaults.OPTIONS[name].read(given) == read


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("worker_prefetch_multiplier", "four", "a whole number"),
        ("worker_prefetch_multiplier", None, "a whole number"),
        ("worker_concurrency", "many", "a whole number or 'auto'"),
        ("accept_content", 5, "a list of texts"),
        ("accept_content", "json", "a list of texts"),
        ("task_acks_late", "maybe", "true or false"),
        ("task_acks_late", [1], "true or false"),
        ("result_expires", "soon", "a number or a timedelta"),
        ("task_protocol", 3, "1 or 2"),
        ("task_default_queue", None, "text"),
        ("task_default_queue", 5, "text"),
        ("task_default_queue_type", "stream", "'classic' or 'quorum'"),
        ("worker_pool_start_method", "forkserver", "'fork' or 'spawn'"),
        ("beat_schedule", ["x"], "a mapping"),
        ("task_queues", "default", "a list of queues or a mapping of them"),
        ("security_key_password", 5, "bytes"),
    ],
)
def test_other_values_say_what_was_expected(name, given, expected):
    with pytest.raises(ValueError, match="^" + expected):
        defaults.OPTIONS[name].read(given)


def test_options_of_others():
    option = Option(5, type="int", old={"x_{0}"})
    assert option.to_python("7") == 7
    assert repr(option) == "<Option: type->int default->5>"
    assert Namespace(a=Option(1), b=option, __old__={"y_{0}"})["a"].old == {"y_{0}"}
    assert option.old == {"x_{0}"}
    assert to_bool("YES") is True
    with pytest.raises(TypeError, match="maybe"):
        to_bool("maybe")


def test_deprecated_settings_with_a_value_warn():
    class Source:
        task_acks_on_failure_or_timeout = False

    with pytest.warns(CPendingDeprecationWarning, match="task_acks_on_failure and"):
        assert defaults.find_deprecated_settings(Source) is Source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defaults.find_deprecated_settings(object())


def test_the_reference_is_that_of_the_table():
    docs = TESTS.parent / "docs"
    page = runpy.run_path(str(docs / "build_reference.py"))["build"]()
    assert (docs / "reference/settings.md").read_text() == page, "run `make docs`"
