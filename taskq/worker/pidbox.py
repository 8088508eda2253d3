"""This file listens for remote control commands and has `worker/control.py` answer them."""

from __future__ import annotations

from typing import Any

from kombu.common import ignore_errors
from kombu.utils.encoding import safe_str

from taskq.utils.collections import AttributeDict
from taskq.utils.log import get_logger
from taskq.worker import control

__all__ = ("Pidbox",)

logger = get_logger(__name__)


class Pidbox:
    """The worker's mailbox for commands."""

    consumer: Any = None

    def __init__(self, c: Any) -> None:
        """Open a mailbox under the node name of consumer `c`."""
        self.c = c
        self.hostname = c.hostname
        self.node = c.app.control.mailbox.Node(
            safe_str(c.hostname),
            handlers=control.Panel.data,
            state=AttributeDict(app=c.app, hostname=c.hostname, consumer=c, tset=set),
        )

    def on_message(self, body: Any, message: Any) -> None:
        """Carry out one command; errors are logged, and replied to who waits."""
        try:
            self.node.handle_message(body, message)
        except KeyError as exc:
            logger.error("No such control command: %s", exc)
        except self.c.connection_errors:
            raise
        except Exception as exc:
            logger.error("Control command error: %r", exc, exc_info=exc)
            self.reset()

    def start(self, c: Any) -> None:
        """Listen on a channel of its own."""
        self.node.channel = c.connection.channel()
        self.consumer = self.node.listen(callback=self.on_message)
        self.consumer.on_decode_error = c.on_decode_error

    def reset(self) -> None:
        """Listen anew after an error on the channel."""
        self.stop(self.c)
        self.start(self.c)

    def stop(self, c: Any) -> None:
        """Listen no more."""
        self.on_stop()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            logger.debug("Canceling broadcast consumer...")
            ignore_errors(c, consumer.cancel)
            ignore_errors(c, consumer.channel.close)

    def on_stop(self) -> None:
        """Hook: about to stop."""

    def shutdown(self, c: Any) -> None:
        """Listen no more."""
        self.stop(c)
