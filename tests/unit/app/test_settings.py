"""Reading, changing, listing, checking and showing settings."""

from __future__ import annotations

import pickle
import sys
import types
from unittest import mock

import pytest

from taskq.app.censor import filter_hidden_settings, sanitize_url
from taskq.app.detection import detect_settings
from taskq.app.settings import Settings, misspelled_settings
from taskq.exceptions import CDeprecationWarning, ImproperlyConfigured


def settings(source=None, /, prefix=None, **changes):
    return detect_settings(source or {}, changes, prefix=prefix)


class TestReading:
    def test_layers(self):
        conf = settings({"worker_pool": "solo", "task_serializer": "yaml"}, worker_pool="threads")
        assert conf.worker_pool == conf["worker_pool"] == conf.get("worker_pool") == "threads"
        assert conf.task_serializer == "yaml"
        assert conf.result_serializer == "json"
        assert len(conf.maps) == 3 and conf.maps[0] is conf.changes

    @pytest.mark.parametrize("source", [{"CELERYD_POOL": "solo"}, {"worker_pool": "solo"}])
    def test_old_and_new_names(self, source):
        conf = settings(source)
        assert conf.worker_pool == conf.CELERYD_POOL == conf["CELERYD_POOL"] == "solo"
        assert "CELERYD_POOL" in conf and "worker_pool" in conf

    def test_names_only_the_guide_has(self):
        assert settings({"CELERY_TASK_TRACK_STARTED": True}).task_track_started is True

    def test_prefix(self):
        conf = settings(
            {"CELERY_WORKER_POOL": "solo", "CELERY_FOO": 3, "BROKER_URL": "old://", "DEBUG": 1},
            prefix="CELERY",
        )
        assert conf.worker_pool == conf["CELERY_WORKER_POOL"] == "solo"
        assert conf.foo == conf["foo"] == conf.CELERY_FOO == 3
        assert conf.broker_url == "old://"
        assert conf.get("DEBUG") == 1
        assert list(conf.without_defaults()) == ["worker_pool", "foo", "broker_url"]

    @pytest.mark.parametrize("prefix", ["celery", "CELERY_", "MY"])
    def test_spellings_of_the_prefix(self, prefix):
        stem = prefix.rstrip("_")
        name = f"{stem}_WORKER_POOL" if stem.isupper() else f"{stem}_worker_pool"
        assert settings({name: "solo"}, prefix=prefix).worker_pool == "solo"

    def test_unknown(self):
        conf = settings(worker_pool="solo")
        with pytest.raises(AttributeError, match="'worker_pol'; did you mean 'worker_pool'"):
            conf.worker_pol
        with pytest.raises(KeyError):
            conf["nope"]
        assert conf.get("nope", 5) == 5
        with pytest.raises(AttributeError, match="MY_NOPE"):
            settings(prefix="MY").nope
        with pytest.raises(KeyError, match="MY_NOPE"):
            settings(prefix="MY")["nope"]

    def test_undeclared_settings_have_a_value_only_as_attributes(self):
        conf = settings()
        assert conf.result_backend_thread_safe is False
        assert "result_backend_thread_safe" not in conf
        assert conf.get("result_backend_thread_safe", 7) == 7

    def test_second_read_is_a_plain_attribute_read(self):
        conf = settings({"task_serializer": "yaml"})
        assert conf.task_serializer
        calls = []
        sys.setprofile(lambda frame, event, arg: calls.append(event))
        try:
            conf.task_serializer
        finally:
            sys.setprofile(None)
        assert "call" not in calls

    def test_an_object_that_may_change_by_itself_is_read_each_time(self):
        source = types.SimpleNamespace(CELERY_TASK_ALWAYS_EAGER=False)
        conf = settings(source, prefix="CELERY")
        assert conf.task_always_eager is False
        source.CELERY_TASK_ALWAYS_EAGER = True
        assert conf.task_always_eager is True
        del source.CELERY_TASK_ALWAYS_EAGER
        assert conf.task_always_eager is False

    def test_defaults_are_not_shared(self):
        one, two = settings(), settings()
        one.beat_schedule["x"] = 1
        one.task_publish_retry_policy["max_retries"] = 99
        assert two.beat_schedule == {} and two.task_publish_retry_policy["max_retries"] == 3

    def test_parts(self):
        conf = settings(worker_concurrency=3)
        assert conf.find_option("concurrency")[:2] == ("worker", "concurrency")
        assert conf.find_value_for_key("concurrency") == 3
        assert conf.find_value_for_key("worker_concurrency") == 3
        assert conf.get_by_parts("", "enable", "utc") is True
        assert conf.first("broker_host", "worker_concurrency") == 3
        assert conf.first("broker_host") is None


class TestSettingsWithARule:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch):
        for name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
            for root in ("TASKQ", "CELERY"):
                monkeypatch.delenv(f"{root}_{name}", raising=False)

    def test_broker_url(self, monkeypatch):
        conf = settings(broker_host="host://")
        assert conf.broker_url == conf.broker_read_url == conf.broker_write_url == "host://"
        conf.broker_url = "set://"
        conf.broker_write_url = "write://"
        assert (conf.broker_url, conf.broker_read_url) == ("set://", "set://")
        assert conf.broker_write_url == "write://"
        monkeypatch.setenv("CELERY_BROKER_URL", "celery://")
        assert conf.broker_url == "celery://" and conf["broker_url"] == "set://"
        monkeypatch.setenv("TASKQ_BROKER_URL", "taskq://")
        assert conf.broker_url == "taskq://"
        monkeypatch.setenv("CELERY_BROKER_READ_URL", "read://")
        assert conf.broker_read_url == "read://"

    def test_an_application_s_default_gives_way_to_broker_host(self):
        conf = detect_settings({"broker_host": "h://"}, defaults={"broker_url": "sqlite:///x"})
        assert conf.broker_url == "h://"
        conf = detect_settings({}, defaults={"broker_url": "sqlite:///x"})
        assert conf.broker_url == "sqlite:///x" and not conf.value_set_for("broker_url")

    def test_result_backend(self, monkeypatch):
        conf = settings({"CELERY_RESULT_BACKEND": "rpc://"})
        assert conf.result_backend == "rpc://"
        monkeypatch.setenv("CELERY_RESULT_BACKEND", "env://")
        assert conf.result_backend == "env://"

    def test_queue_names(self):
        conf = settings(task_default_queue="q")
        assert conf.task_default_exchange == conf.task_default_routing_key == "q"
        conf.task_default_exchange = "ex"
        assert conf.task_default_exchange == "ex"

    def test_timezone(self):
        assert settings().timezone is None
        assert settings({"TIME_ZONE": "Asia/Tokyo"}).timezone == "Asia/Tokyo"


class TestChanging:
    def test_every_way_is_seen_at_once(self):
        conf = settings({"worker_pool": "source"})
        for change in (
            lambda: setattr(conf, "worker_pool", "a"),
            lambda: conf.update(worker_pool="b"),
            lambda: conf.update({"CELERYD_POOL": "c"}),
            lambda: conf.__setitem__("worker_pool", "d"),
            lambda: setattr(conf, "CELERYD_POOL", "e"),
            lambda: conf.pop("worker_pool"),
            lambda: conf.add_defaults({"worker_pool": "f"}),
            lambda: conf.add_defaults(lambda: {"worker_pool": "g"}),
            lambda: conf.swap_with(settings(worker_pool="h")),
            lambda: conf.clear(),
        ):
            before = conf.worker_pool
            change()
            assert conf.worker_pool != before
            assert "CELERYD_POOL" not in conf.changes
        assert conf.worker_pool == "prefork"

    def test_prefixed_names_are_the_same_setting(self):
        conf = settings({"CELERY_TASK_ACKS_LATE": False}, prefix="CELERY")
        conf.CELERY_TASK_ACKS_LATE = True
        assert conf.task_acks_late is True
        conf.task_acks_late = False
        assert conf.CELERY_TASK_ACKS_LATE is False and conf.changes == {"task_acks_late": False}

    def test_pop_and_delete(self):
        conf = settings({"worker_pool": "source"}, foo=1)
        assert conf.pop("foo") == 1 and conf.pop("foo", 7) == 7
        for key in ("foo", "worker_pool"):
            with pytest.raises(KeyError, match="not changed at run time"):
                conf.pop(key)
        conf.worker_pool = "x"
        del conf["worker_pool"]
        assert conf.worker_pool == "source"
        with pytest.raises(AttributeError):
            del conf.worker_pool

    def test_setdefault(self):
        conf = settings()
        assert conf.setdefault("bar", 4) == conf.bar == 4
        assert conf.setdefault("task_serializer", "yaml") == "json"

    def test_mock_patch_leaves_no_trace(self):
        conf = settings({"task_always_eager": False})
        assert not conf.task_always_eager
        with mock.patch.object(conf, "task_always_eager", True):
            assert conf.task_always_eager is True
        assert conf.task_always_eager is False

    def test_observers_hear_of_updates(self):
        heard = []
        conf = settings()
        conf.bind_to(lambda *args, **kwargs: heard.append((args, kwargs)))
        conf.update({"a": 1}, b=2)
        assert heard == [(({"a": 1},), {"b": 2})]

    def test_copy_has_its_own_changes(self):
        conf = settings(worker_pool="a")
        other = conf.copy()
        other.worker_pool = "b"
        assert conf.worker_pool == "a" and isinstance(other, Settings)

    def test_refresh(self):
        source = {"worker_pool": "a"}
        conf = settings(source)
        assert conf.worker_pool == "a"
        source["worker_pool"] = "b"
        conf.refresh()
        assert conf.worker_pool == "b"

    @pytest.mark.parametrize("kind", [dict, lambda d: types.SimpleNamespace(**d)])
    def test_pickle(self, kind):
        source = kind({"MY_WORKER_POOL": "solo"})
        conf = pickle.loads(pickle.dumps(settings(source, prefix="MY", foo=3)))
        assert conf.worker_pool == "solo" and conf.foo == 3 and conf.task_serializer == "json"


class TestMixedNames:
    @pytest.mark.parametrize(
        ("source", "rename"),
        [
            (
                {"worker_pool": 1, "task_serializer": 1, "CELERYD_CONCURRENCY": 4},
                "CELERYD_CONCURRENCY +-> worker_concurrency",
            ),
            (
                {"CELERYD_POOL": 1, "CELERY_TASK_SERIALIZER": 1, "worker_concurrency": 4},
                "worker_concurrency +-> CELERYD_CONCURRENCY",
            ),
            ({"CELERYD_POOL": 1, "worker_concurrency": 4}, "CELERYD_POOL +-> worker_pool"),
        ],
    )
    def test_are_refused(self, source, rename):
        with pytest.raises(ImproperlyConfigured, match=rename):
            settings(source)

    @pytest.mark.parametrize("more", [{}, {"task_serializer": "yaml"}, {"CELERYD_POOL": "yaml"}])
    def test_twins_are_not_mixed_and_the_new_name_wins(self, more):
        source = {"CELERYD_CONCURRENCY": 5, "worker_concurrency": 4, **more}
        assert settings(source).worker_concurrency == 4

    def test_with_a_prefix_all_go(self):
        conf = settings({"CELERY_WORKER_POOL": "solo", "CELERYD_CONCURRENCY": 3}, prefix="CELERY")
        assert (conf.worker_pool, conf.worker_concurrency) == ("solo", 3)

    def test_old_names_are_known_and_warned_of(self):
        conf = settings({"CELERYD_POOL": "solo", "FOO": 1})
        assert conf.deprecated_settings == {"CELERYD_POOL"}
        with pytest.warns(CDeprecationWarning, match="worker_pool"):
            assert conf.maybe_warn_deprecated_settings() is True
        assert settings({"worker_pool": "solo"}).maybe_warn_deprecated_settings() is False

    def test_prefixed_new_names_are_not_old(self):
        conf = settings({"CELERY_ACCEPT_CONTENT": ["json"]}, prefix="CELERY")
        assert conf.deprecated_settings == set()


class TestWrongValues:
    def test_name_expected_and_got(self):
        conf = settings({"worker_prefetch_multiplier": "four", "accept_content": 5})
        with pytest.raises(
            ImproperlyConfigured,
            match=r"worker_prefetch_multiplier: expected a whole number, got 'four' \(str\)",
        ):
            conf.worker_prefetch_multiplier
        with pytest.raises(ImproperlyConfigured, match="accept_content: expected a list of texts"):
            conf["accept_content"]
        assert conf.task_serializer == "json"

    def test_all_are_checked_by_finalize(self):
        with pytest.raises(ImproperlyConfigured, match="task_protocol: expected 1 or 2, got 3"):
            settings({"task_protocol": 3}).finalize()
        conf = settings({"task_protocol": 1, "unknown": object()})
        assert conf.finalize() is conf

    def test_secrets_are_not_told(self):
        with pytest.raises(ImproperlyConfigured) as caught:
            settings(redis_password=12345).redis_password
        assert "12345" not in str(caught.value)
        with pytest.raises(ImproperlyConfigured) as caught:
            settings(broker_pool_limit="redis://:hunter2@h").broker_pool_limit
        assert "hunter2" not in str(caught.value)

    def test_they_can_still_be_listed(self):
        assert settings(task_protocol=3).table() == {"task_protocol": 3}

    def test_misspelled(self):
        conf = settings({"worker_prefetch_multiplyer": 1, "task_acks_lat": True, "plugin_x": 1})
        assert misspelled_settings(conf) == [
            ("worker_prefetch_multiplyer", "worker_prefetch_multiplier"),
            ("task_acks_lat", "task_acks_late"),
        ]
        conf = settings({"CELERY_TAKS_ACKS_LATE": 1, "DEBUG": 1}, prefix="CELERY")
        assert misspelled_settings(conf) == [("CELERY_TAKS_ACKS_LATE", "CELERY_TASK_ACKS_LATE")]
        assert misspelled_settings(settings({"CELERYD_POOOL": 1})) == [
            ("CELERYD_POOOL", "CELERYD_POOL")
        ]


class TestShowing:
    def test_table_and_humanize(self):
        conf = settings(
            {"broker_url": "amqp://u:pw@h//", "FOO": 1, "result_backend": "redis://:pw@h/1"},
            redis_password="pw",
            beat_schedule={"a": {"kwargs": {"api_key": "pw", "n": 1}}},
        )
        text = conf.humanize()
        assert "pw" not in text.replace("password", "") and "FOO: 1" in text
        assert "amqp://u:********@h//" in text
        assert conf.table()["beat_schedule"] == {"a": {"kwargs": {"api_key": "*" * 8, "n": 1}}}
        assert conf.table(censored=False)["redis_password"] == "pw"
        assert len(conf.table(with_defaults=True)) == len(conf)
        assert "pw" not in repr(conf).replace("password", "")

    def test_a_module_shows_only_its_settings(self):
        module = types.ModuleType("proj_settings")
        module.__dict__.update(worker_pool="solo", os=sys, _private=1, FOO=2)
        assert settings(module).table() == {"worker_pool": "solo", "FOO": 2}

    def test_value_set_for(self):
        conf = settings({"CELERYD_POOL": "solo"}, foo=1)
        assert conf.value_set_for("worker_pool") and conf.value_set_for("CELERYD_POOL")
        assert conf.value_set_for("foo")
        assert not conf.value_set_for("task_serializer") and not conf.value_set_for("nope")

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://u:p@h/1", "redis://u:********@h/1"),
            ("redis://:p@h", "redis://:********@h"),
            ("memory://", "memory://"),
            ("sqlite:////tmp/x.db?synchronous=FULL", "sqlite:////tmp/x.db?synchronous=FULL"),
            (
                "amqp://a:p@h:1//;amqp://b:q@i:2//",
                "amqp://a:********@h:1//;amqp://b:********@i:2//",
            ),
            ("redis://:p/q@h:1/0", "redis://:********@h:1/0"),
            ("redis://h:6379/x@y", "redis://h:6379/x@y"),
            ("db+postgresql://h/d?password=x&a=1", "db+postgresql://h/d?password=********&a=1"),
            (
                "azureblockblob://AccountName=n;AccountKey=x;EndpointSuffix=s",
                "azureblockblob://AccountName=n;AccountKey=********;EndpointSuffix=s",
            ),
            (None, None),
            (5, 5),
        ],
    )
    def test_sanitize_url(self, url, shown):
        assert sanitize_url(url) == shown

    def test_hidden_settings(self):
        shown = filter_hidden_settings(
            {"security_key": None, 1: 2, "urls": ["a://u:p@h"], "x": [{"token": 1}]}
        )
        assert shown == {
            "security_key": "*" * 8, 1: 2, "urls": ["a://u:********@h"], "x": [{"token": "*" * 8}],
        }  # fmt: skip
