"""protocol.py against messages recorded from Celery 5.7.0, and against messages that are wrong."""

from __future__ import annotations

import base64
import importlib.util
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from taskq import protocol
from taskq.exceptions import InvalidTaskError

RECORDED = Path(__file__).parent / "recorded"
_spec = importlib.util.spec_from_file_location("recorded_cases", RECORDED / "record.py")
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)

V2 = json.loads((RECORDED / "protocol2.json").read_text())
V1 = json.loads((RECORDED / "protocol1.json").read_text())
EVENTS = json.loads((RECORDED / "sent_events.json").read_text())

JSON_CASES = sorted(n for n in V2 if V2[n]["content-type"] == "application/json")
COMPRESSED = {"gzip", "bzip2"}  # compared in app/test_amqp.py
OSLO = ZoneInfo("Europe/Oslo")
UTC = timezone.utc


def make(name, protocol_number=2, **more):
    args, kwargs, call, _ = record.CASES[name]
    call = {"reply_to": record.REPLY_TO, "now": record.NOW, **call, **more}
    if protocol_number == 1:
        return protocol.as_task_v1(record.TASK_ID, "proj.work", args, kwargs, **call)
    call.setdefault("origin", record.ORIGIN)
    return protocol.as_task_v2(record.TASK_ID, "proj.work", args, kwargs, **call)


def body_text(raw):
    return base64.b64decode(raw["body"])


class TestAsTaskV2:
    @pytest.mark.parametrize("name", JSON_CASES)
    def test_headers_are_those_recorded_in_the_order_recorded(self, name):
        expected = dict(V2[name]["headers"])
        for header in {"compression", *(record.CASES[name][3].get("headers") or {})}:
            expected.pop(header, None)
        headers = json.loads(json.dumps(make(name).headers))
        if name in record.READABLE_REPR:
            headers.pop("argsrepr"), headers.pop("kwargsrepr")
            expected.pop("argsrepr"), expected.pop("kwargsrepr")
        assert list(headers) == list(expected)
        assert headers == expected

    def test_properties(self):
        message = make("plain")
        assert message.properties == {
            "correlation_id": record.TASK_ID,
            "reply_to": record.REPLY_TO,
        }

    def test_body_json_is_byte_for_byte_the_recorded_one(self):
        for name in ("plain", "no_arguments", "link", "link_error", "chain_member", "chord_member"):
            assert json.dumps(make(name).body).encode() == body_text(V2[name])

    @pytest.mark.parametrize("name", sorted(EVENTS))
    def test_sent_event(self, name):
        event = make(name, create_sent_event=True).sent_event
        assert event == EVENTS[name]
        assert list(event) == list(EVENTS[name])
        assert make(name).sent_event is None

    def test_text_of_plain_arguments_is_repr(self):
        args = ("it's", 'say "hi"', "back\\slash", "new\nline", 1, None, 2.5, True)
        assert make("plain").headers["argsrepr"] == "(1, 'two')"
        assert protocol.as_task_v2("i", "n", args, {"k": "'"}).headers["argsrepr"] == repr(args)

    def test_given_texts_are_kept_also_when_empty(self):
        headers = protocol.as_task_v2("i", "n", (1,), argsrepr="", kwargsrepr="").headers
        assert headers["argsrepr"] == headers["kwargsrepr"] == ""

    def test_depth_of_texts(self):
        deep = ([1, [2, [3, [4]]]],)
        assert protocol.as_task_v2("i", "n", deep).headers["argsrepr"] == "([1, [2, [...]]],)"
        unlimited = protocol.as_task_v2("i", "n", deep, repr_maxlevels=None)
        assert unlimited.headers["argsrepr"] == repr(deep)

    @pytest.mark.parametrize("args", ["abc", b"abc", 5, {1, 2}, range(3), {"a": 1}])
    def test_args_must_be_list_or_tuple(self, args):
        with pytest.raises(TypeError, match="task args must be a list or tuple"):
            protocol.as_task_v2("i", "n", args)
        with pytest.raises(TypeError, match="task args must be a list or tuple"):
            protocol.as_task_v1("i", "n", args)

    @pytest.mark.parametrize("kwargs", ["abc", [1], 5])
    def test_kwargs_must_be_a_mapping(self, kwargs):
        with pytest.raises(TypeError, match="task keyword arguments must be a mapping"):
            protocol.as_task_v2("i", "n", (), kwargs)

    def test_the_error_of_a_single_argument_shows_what_to_write(self):
        with pytest.raises(TypeError, match=r"write \('abc',\)"):
            protocol.as_task_v2("i", "n", "abc")

    def test_a_stamp_that_is_named_must_be_there(self):
        with pytest.raises(KeyError):
            protocol.as_task_v2("i", "n", stamped_headers=["tenant"])


class TestMoments:
    def eta(self, **call):
        return protocol.as_task_v2("i", "n", **call).headers["eta"]

    def test_seconds_are_elapsed_time_across_the_change_to_summer_time(self):
        now = datetime(2030, 3, 31, 1, 59, 30, tzinfo=OSLO)
        assert self.eta(countdown=60, now=now) == "2030-03-31T03:00:30+02:00"

    def test_seconds_are_elapsed_time_across_the_change_from_summer_time(self):
        now = datetime(2030, 10, 27, 2, 59, 30, tzinfo=OSLO)
        assert self.eta(countdown=60, now=now) == "2030-10-27T02:00:30+01:00"
        headers = protocol.as_task_v2("i", "n", expires=7200, now=now).headers
        assert headers["expires"] == "2030-10-27T03:59:30+01:00"

    def test_a_naive_now_is_utc_and_shown_in_the_zone(self):
        now = datetime(2030, 1, 1)
        assert self.eta(countdown=10, now=now) == "2030-01-01T00:00:10+00:00"
        assert self.eta(countdown=10, now=now, timezone=OSLO) == "2030-01-01T01:00:10+01:00"

    def test_countdown_zero_is_no_countdown(self):
        assert self.eta(countdown=0) is None

    def test_countdown_wins_over_eta(self):
        now = datetime(2030, 1, 1, tzinfo=UTC)
        assert self.eta(countdown=1, eta=now, now=now) == "2030-01-01T00:00:01+00:00"

    @pytest.mark.parametrize("value", ["a", timedelta(seconds=1), [1]])
    def test_a_countdown_that_is_no_number(self, value):
        with pytest.raises(TypeError, match="countdown must be a number of seconds"):
            self.eta(countdown=value, now=datetime(2030, 1, 1))

    def test_a_timedelta_is_told_what_to_write(self):
        with pytest.raises(TypeError, match="total_seconds"):
            self.eta(countdown=timedelta(seconds=1), now=datetime(2030, 1, 1))

    def test_a_countdown_out_of_range(self):
        with pytest.raises(ValueError, match="countdown is out of range: -2147483649"):
            self.eta(countdown=-(2**31) - 1, now=datetime(2030, 1, 1))
        with pytest.raises(OverflowError):
            self.eta(countdown=2**40, now=datetime(2030, 1, 1))

    @pytest.mark.parametrize("option", ["eta", "expires"])
    def test_something_that_is_no_moment(self, option):
        with pytest.raises(TypeError, match=f"{option} must be .*a datetime or ISO 8601 text"):
            protocol.as_task_v2("i", "n", **{option: [1]})

    def test_seconds_need_now(self):
        with pytest.raises(TypeError, match="now"):
            self.eta(countdown=1)

    def test_seconds_until(self):
        now = datetime(2030, 1, 1, 12, tzinfo=UTC)
        assert protocol.seconds_until(2.5, now) == 2.5
        assert protocol.seconds_until(datetime(2030, 1, 1, 12, 1), now) == 60
        assert protocol.seconds_until(datetime(2030, 1, 1, 12, 0, tzinfo=OSLO), now) == -3600
        assert protocol.seconds_until("2030-01-01T12:00:30Z", now) == 30
        with pytest.raises(ValueError, match="expires must be a moment in ISO 8601, not 'soon'"):
            protocol.seconds_until("soon", now)
        with pytest.raises(TypeError, match=r"not timedelta; use \.total_seconds"):
            protocol.seconds_until(timedelta(seconds=5), now)  # type: ignore[arg-type]


class TestProtocol1:
    @pytest.mark.parametrize("name", sorted(V1.keys() - COMPRESSED))
    def test_body_is_the_recorded_one(self, name):
        message = make(name, 1)
        assert message.headers == {}
        assert json.dumps(message.body).encode() == body_text(V1[name])

    def test_sent_event_has_no_lineage(self):
        event = make("plain", 1, create_sent_event=True).sent_event
        assert "root_id" not in event
        assert event["args"] == "(1, 'two')"

    def test_what_it_cannot_carry_is_dropped(self):
        message = protocol.as_task_v1("i", "n", chain=[1], ignore_result=True, shadow="s")
        assert "chain" not in message.body

    def test_reading_it(self):
        body, headers, decoded, utc = protocol.from_task_v1(
            json.loads(body_text(V1["group_member"])), {"x": 1}
        )
        assert body == ([], {}, dict.fromkeys(("callbacks", "errbacks", "chord", "chain")))
        assert (decoded, utc) == (True, True)
        assert headers["task"] == "proj.work"
        assert headers["group"] == "g-1"
        assert headers["headers"] == {"x": 1}
        assert headers["argsrepr"] == "[]"

    def test_reading_callbacks(self):
        read = json.loads(body_text(V1["link"]))
        (_, _, embed), _, _, _ = protocol.from_task_v1({**read, "utc": False, "chain": ["x"]})
        assert embed["callbacks"] == [record.SIGNATURE]
        assert embed["chain"] is None

    def test_the_older_name_of_the_group_wins(self):
        _, headers, _, utc = protocol.from_task_v1({"task": "n", "group": "g", "taskset": "t"})
        assert headers["group"] == "t"
        assert utc is True

    def test_reading_the_least_there_can_be(self):
        body, headers, _, _ = protocol.from_task_v1({"task": "n", "id": "i"})
        assert body[:2] == ((), {})
        assert "group" not in headers

    @pytest.mark.parametrize("body", [[1], "text", None, {"task": "n", "kwargs": [1]}])
    def test_reading_what_is_not_a_call(self, body):
        with pytest.raises(InvalidTaskError, match="must be a mapping"):
            protocol.from_task_v1(body)


class TestHybrid:
    def test_headers_win_and_the_body_fills_in(self):
        body, headers, decoded, utc = protocol.hybrid_to_proto2(
            {"task": "n", "id": "i", "eta": "from-headers", "custom": 1},
            {"args": [1], "kwargs": {"a": 2}, "eta": "from-body", "retries": 4, "root_id": "r",
             "callbacks": [3], "utc": False},
        )  # fmt: skip
        assert body == (
            [1],
            {"a": 2},
            {"callbacks": [3], "errbacks": None, "chord": None, "chain": None},
        )
        assert headers["eta"] == "from-headers"
        assert (headers["retries"], headers["root_id"], headers["custom"]) == (4, "r", 1)
        assert headers["timelimit"] == (None, None)
        assert (decoded, utc) == (True, False)

    def test_a_body_that_is_no_call(self):
        with pytest.raises(InvalidTaskError):
            protocol.hybrid_to_proto2({"task": "n"}, [[], {}, {}])


class TestReading:
    @pytest.mark.parametrize("name", [n for n in JSON_CASES if n not in COMPRESSED])
    def test_recorded_bodies_of_protocol_2(self, name):
        args, kwargs, embed = protocol.from_task_v2(json.loads(body_text(V2[name])))
        assert isinstance(args, list)
        assert isinstance(kwargs, dict)
        assert tuple(embed) == ("callbacks", "errbacks", "chain", "chord")

    @pytest.mark.parametrize(
        "body", [None, 5, "abc", [], [[], {}], [[], {}, {}, {}], ["args", {}, {}], [[], [], {}]]
    )
    def test_bodies_that_are_not_what_the_headers_say(self, body):
        with pytest.raises(InvalidTaskError):
            protocol.from_task_v2(body)

    def test_death_headers(self):
        headers = {"x-death": 1, "x-first-death-reason": 2, "x-last-death-queue": 3, "x-tenant": 4}
        assert protocol.strip_death_headers(headers) == {"x-tenant": 4}
