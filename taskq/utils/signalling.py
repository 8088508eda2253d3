"""Signal: many listeners for one thing that happens; home of Celery's utils.dispatch.

Code on the way of a task reads `signal.receivers` (a plain list, empty when nobody listens) before
it builds the arguments of a send.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from kombu.utils.functional import retry_over_time

from taskq.utils.log import get_logger
from taskq.utils.proxy import PromiseProxy, Proxy

__all__ = ("Signal",)

logger = get_logger("taskq.utils.dispatch.signal")

Receiver = Callable[..., Any]

_ANY_SENDER = None


class Signal:
    """Something that happens, and who wants to know.

    Arguments:
        providing_args: names of the arguments receivers get; documentation.
        use_caching: kept for Celery's signature.
        name: shown in logs.

    How it works
        `receivers` is a list of ((receiver key, sender key), receiver or weak reference). It is
        replaced, never changed, so a send needs no lock. Senders match by identity; receivers
        without a sender hear every sender. A receiver that raises is logged, and its exception
        stands in its place in the answer of `send`.
    """

    #: ((receiver key, sender key), receiver or weak reference to it); empty: nobody listens.
    receivers: list[tuple[tuple[Any, Any], Any]] = []

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,
        name: str | None = None,
    ) -> None:
        self.receivers = []
        self.providing_args = set(providing_args or ())
        self.lock = threading.Lock()
        self.use_caching = use_caching
        self.name = name

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Call `receiver` at every send; also a decorator, with or without arguments.

        Arguments:
            receiver: a callable that accepts **kwargs.
            sender: only sends of this sender.
            weak: keep no receiver alive; lambdas and closures need False.
            dispatch_uid: connecting twice under one uid connects once.
            retry: call a receiver that raises again, with growing pauses, until it returns.

        Raises:
            ValueError: the receiver does not accept keyword arguments.
        """
        if args and callable(args[0]):
            return self._connect(*args, **kwargs)
        if args:
            raise TypeError(f"a receiver is a callable, not {args[0]!r}")

        def decorate(receiver: Receiver) -> Receiver:
            return self._connect(receiver, **kwargs)

        return decorate

    def _connect(
        self,
        receiver: Receiver,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Receiver:
        if not _accepts_kwargs(receiver):
            raise ValueError(
                f"Signal receiver must accept keyword arguments: add **kwargs to {receiver!r}"
            )
        if isinstance(sender, PromiseProxy):
            # The task behind it does not exist yet, and identity is that of the task.
            sender.__then__(self._connect_evaluated, receiver, sender, weak, dispatch_uid, retry)
            return receiver
        self._add(receiver, sender, weak, dispatch_uid, retry)
        return receiver

    def _connect_evaluated(
        self, receiver: Receiver, sender: Any, weak: bool, dispatch_uid: Any, retry: bool
    ) -> None:
        self._add(receiver, sender._get_current_object(), weak, dispatch_uid, retry)

    def _add(
        self, receiver: Receiver, sender: Any, weak: bool, dispatch_uid: Any, retry: bool
    ) -> None:
        key = (_receiver_key(receiver, dispatch_uid), _sender_key(sender))
        if retry:
            held: Any = _until_it_succeeds(receiver)
        elif weak:
            held = _weak_reference(receiver, self._forget)
        else:
            held = receiver
        with self.lock:
            # A dead receiver's id may be this one's now.
            alive = [item for item in self.receivers if not _is_dead(item[1])]
            if all(known != key for known, _ in alive):
                alive.append((key, held))
            self.receivers = alive

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Any = None,
    ) -> bool:
        """Stop calling `receiver` for `sender`; says whether it was connected."""
        key = (_receiver_key(receiver, dispatch_uid), _sender_key(sender))
        with self.lock:
            left = [item for item in self.receivers if item[0] != key]
            found = len(left) < len(self.receivers)
            self.receivers = left
        return found

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether a send of `sender` would call anybody."""
        return bool(self.receivers) and bool(self._live_receivers(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call all receivers for `sender`; gives (receiver, its answer or its exception) of each.

        No receiver can fail the caller or keep the others from being called.
        """
        if not self.receivers:
            return []
        responses: list[tuple[Receiver, Any]] = []
        for receiver in self._live_receivers(sender):
            try:
                response = receiver(signal=self, sender=sender, **named)
            except Exception as exc:  # hook dispatch is an edge
                logger.exception("Signal handler %r raised: %r", receiver, exc)
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        wanted = _sender_key(sender)
        live = []
        for (_, sender_key), held in self.receivers:
            if sender_key is _ANY_SENDER or sender_key == wanted:
                receiver = held() if isinstance(held, weakref.ref) else held
                if receiver is not None:
                    live.append(receiver)
        return live

    def _forget(self, reference: weakref.ref[Any]) -> None:
        """A receiver has been collected.

        This can run anywhere, also in a thread that holds the lock just now: then the dead
        reference stays until the next change, and sends pass over it.
        """
        if self.lock.acquire(blocking=False):
            try:
                self.receivers = [item for item in self.receivers if item[1] is not reference]
            finally:
                self.lock.release()

    def __repr__(self) -> str:
        return f"<Signal: {self.name} providing_args={self.providing_args!r}>"

    def __str__(self) -> str:
        return repr(self)


def _is_dead(held: Any) -> bool:
    return isinstance(held, weakref.ref) and held() is None


def _receiver_key(receiver: Any, dispatch_uid: Any) -> Any:
    if dispatch_uid is not None:
        return ("uid", dispatch_uid)
    # A bound method is a new object at every look: its instance and function are what stays.
    if hasattr(receiver, "__func__"):
        return (id(receiver.__self__), id(receiver.__func__))
    return id(receiver)


def _sender_key(sender: Any) -> Any:
    """What sends and receivers match by: identity, except that equal texts are one sender."""
    if sender is None:
        return _ANY_SENDER
    if isinstance(sender, Proxy):
        sender = sender._get_current_object()
    return sender if isinstance(sender, str) else id(sender)


def _accepts_kwargs(receiver: Receiver) -> bool:
    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        # Builtins do not say; they are trusted.
        return True
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _weak_reference(
    receiver: Receiver, when_gone: Callable[[weakref.ref[Any]], None]
) -> weakref.ref[Any]:
    if inspect.ismethod(receiver):
        return weakref.WeakMethod(receiver, when_gone)
    return weakref.ref(receiver, when_gone)


def _until_it_succeeds(receiver: Receiver) -> Receiver:
    """`receiver`, called again after 2, 4, 6 ... 30 s for as long as it raises."""

    def log_and_wait(exc: Exception, intervals: Any, retries: int) -> float:
        pause: float = next(intervals)
        logger.error("Signal handler %r raised: %r; trying again in %ss", receiver, exc, pause)
        return pause

    def retrying_receiver(**kwargs: Any) -> Any:
        return retry_over_time(receiver, Exception, kwargs=kwargs, errback=log_and_wait)

    return retrying_receiver
