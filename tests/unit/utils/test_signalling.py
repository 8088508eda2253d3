"""Signals call who is connected, and nothing that is gone; a broken receiver harms nobody."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import pytest

from taskq.utils import signalling
from taskq.utils.proxy import PromiseProxy, Proxy
from taskq.utils.signalling import Signal


@pytest.fixture
def signal() -> Signal:
    return Signal(providing_args={"a"}, name="test")


class Sender:
    pass


def test_nobody_listens(signal: Signal) -> None:
    assert signal.receivers == []
    assert not signal.has_listeners()
    assert signal.send(None) == []


def test_receivers_get_signal_sender_and_arguments(signal: Signal) -> None:
    @signal.connect
    def receiver(**kwargs: Any) -> Any:
        return kwargs

    sender = Sender()
    assert signal.send(sender, a=1) == [(receiver, {"signal": signal, "sender": sender, "a": 1})]
    assert signal.send_robust(sender, a=1)[0][1]["a"] == 1
    assert signal.has_listeners(sender)


def test_senders_match_by_identity_and_texts_by_value(signal: Signal) -> None:
    sender, other = Sender(), Sender()

    @signal.connect(sender=sender)
    def of_one(**kwargs: Any) -> str:
        return "one"

    @signal.connect(sender="proj.add")
    def of_text(**kwargs: Any) -> str:
        return "text"

    assert [answer for _, answer in signal.send(sender)] == ["one"]
    assert signal.send(other) == []
    assert [answer for _, answer in signal.send("".join(["proj", ".add"]))] == ["text"]
    assert signal.has_listeners(sender) and not signal.has_listeners(other)
    assert [answer for _, answer in signal.send(Proxy(lambda: sender))] == ["one"]


def test_a_lazy_sender_is_the_object_it_becomes(signal: Signal) -> None:
    task = Sender()
    lazy = PromiseProxy(lambda: task)

    @signal.connect(sender=lazy)
    def receiver(**kwargs: Any) -> str:
        return "heard"

    assert signal.send(task) == []
    assert lazy._get_current_object() is task
    assert signal.send(task) == [(receiver, "heard")]


def test_receivers_are_held_weakly_unless_asked_for(signal: Signal) -> None:
    signal.connect(lambda **kwargs: "weak")
    signal.connect(lambda **kwargs: "strong", weak=False)
    gc.collect()
    assert [answer for _, answer in signal.send(None)] == ["strong"]
    assert len(signal.receivers) == 1


def test_bound_methods_of_two_instances_are_two_receivers(signal: Signal) -> None:
    class Listener:
        def hear(self, **kwargs: Any) -> Listener:
            return self

    first, second = Listener(), Listener()
    signal.connect(first.hear)
    signal.connect(first.hear)
    signal.connect(second.hear)
    assert [answer for _, answer in signal.send(None)] == [first, second]
    del second
    gc.collect()
    assert signal.disconnect(first.hear)
    assert signal.receivers == []


def test_one_uid_is_connected_once(signal: Signal) -> None:
    def first(**kwargs: Any) -> str:
        return "first"

    def second(**kwargs: Any) -> str:
        return "second"

    signal.connect(first, dispatch_uid="u")
    signal.connect(second, dispatch_uid="u")
    assert [answer for _, answer in signal.send(None)] == ["first"]
    assert not signal.disconnect(dispatch_uid="u", sender="other")
    assert signal.disconnect(dispatch_uid="u")
    assert not signal.disconnect(dispatch_uid="u")


def test_a_receiver_that_raises_is_logged_and_answers_its_error(
    signal: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**kwargs: Any) -> None:
        raise KeyError("broken")

    def sound(**kwargs: Any) -> str:
        return "sound"

    signal.connect(broken)
    signal.connect(sound)
    with caplog.at_level(logging.ERROR):
        (_, error), (_, answer) = signal.send(None)
    assert repr(error) == "KeyError('broken')"
    assert answer == "sound"
    assert "KeyError('broken')" in caplog.text
    assert caplog.records[0].name == "celery.utils.dispatch.signal"


def test_receivers_must_accept_everything(signal: Signal) -> None:
    with pytest.raises(ValueError, match=r"must accept keyword arguments"):
        signal.connect(lambda sender: None)
    with pytest.raises(TypeError):
        signal.connect(3)


def test_a_retried_receiver_is_called_until_it_returns(
    signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    pauses: list[float] = []

    def retry_at_once(fun: Any, catch: Any, kwargs: Any, errback: Any) -> Any:
        intervals = iter([2.0, 4.0])
        while True:
            try:
                return fun(**kwargs)
            except catch as exc:
                pauses.append(errback(exc, intervals, len(pauses)))

    monkeypatch.setattr(signalling, "retry_over_time", retry_at_once)

    @signal.connect(retry=True)
    def third_time(**kwargs: Any) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("not yet")
        return len(calls)

    assert [answer for _, answer in signal.send(None)] == [3]
    assert pauses == [2.0, 4.0]
    assert signal.disconnect(third_time)


def test_receivers_may_come_and_go_while_others_send(signal: Signal) -> None:
    def steady(**kwargs: Any) -> str:
        return "steady"

    signal.connect(steady)

    def come_and_go() -> None:
        for _ in range(500):

            def passing(**kwargs: Any) -> None:
                pass

            signal.connect(passing)
            signal.disconnect(passing)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(500):
        assert (steady, "steady") in signal.send(None)
    for thread in threads:
        thread.join()
    assert len(signal.receivers) == 1
