"""This file says how a program is put together from steps that start, close and stop in order.

The worker and its consumer are each a `Blueprint`; users add `Step` classes to them through
`app.steps['worker']` and `app.steps['consumer']`. On the journey of a task nothing of this is
called: it only builds what the journey then uses.

How it works. A blueprint collects step classes (its own, the user's, and whatever those require),
sorts them so that every step comes after what it `requires` and the one marked `last` comes last,
creates each with the parent, and asks it whether it wants to be included. Included
start/stop steps are `parent.steps`; they are started in order and stopped in reverse.

    initializing -> RUN -> CLOSE -> TERMINATE
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Event
from typing import Any, ClassVar

from kombu.common import ignore_errors

from taskq.utils.graph import DependencyGraph, GraphFormatter
from taskq.utils.imports import symbol_by_name
from taskq.utils.log import get_logger
from taskq.utils.serialization import wire_module

__all__ = (
    "CLOSE", "RUN", "TERMINATE", "Blueprint", "ConsumerStep", "StartStopStep", "Step",
    "StepFormatter",
)  # fmt: skip

RUN = 1
CLOSE = 2
TERMINATE = 3

logger = get_logger(__name__)

StepClass = type["Step"]


class StepType(type):
    """Names every step class after its place, as Celery spells it, and compares by that name."""

    name: Any = None
    requires: Any = None

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> StepType:
        """Give the class its full name unless its body says another."""
        module = wire_module(attrs["__module__"])
        attrs.setdefault("name", f"{module}.{attrs.get('__qualname__', name)}")
        return super().__new__(cls, name, bases, attrs)

    def __str__(cls) -> str:
        return str(cls.name)

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """One part of a program, created with its parent; override `create`."""

    name: ClassVar[str]
    label: str | None = None
    #: True: the step is made only when `include_if` says so, and says so in its documentation.
    conditional: bool = False
    #: Steps, or "module:Class" names of steps, that come before this one.
    requires: ClassVar[Sequence[Any]] = ()
    #: True: everything else comes before this step.
    last: bool = False
    enabled: bool = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Prepare the step; `kwargs` are the options given to the program."""

    def include_if(self, parent: Any) -> Any:
        """Tell whether this step takes part; by default when `enabled`."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Make an object of a class given as such or by name."""
        return symbol_by_name(name)(*args, **kwargs)

    def include(self, parent: Any) -> bool:
        """Create what the step provides if it takes part; True when it did."""
        if not self.include_if(parent):
            return False
        self.create(parent)
        return True

    def create(self, parent: Any) -> Any:
        """Make what this step provides (and return it, if it is started and stopped)."""

    def info(self, obj: Any) -> Any:
        """Give facts of this step for `inspect stats`."""

    @property
    def alias(self) -> str:
        """Short name for log lines."""
        return self.label or self.name.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"


class StartStopStep(Step):
    """A step whose `create` gives an object that is started and stopped with the program."""

    #: What `create` returned.
    obj: Any = None

    def start(self, parent: Any) -> Any:
        """Start the object, if there is one."""
        if self.obj:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        """Stop the object, if there is one."""
        if self.obj:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Stop taking on work; called before any step is stopped."""

    def terminate(self, parent: Any) -> Any:
        """Stop at once: the object's `terminate` if it has one, else `stop`."""
        if self.obj:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None

    def include(self, parent: Any) -> bool:
        """Create the object and join the parent's list of steps; True when it did."""
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        parent.steps.append(self)
        return True


class ConsumerStep(StartStopStep):
    """A step that consumes messages of its own; override `get_consumers`."""

    requires = ("celery.worker.consumer:Connection",)
    #: The kombu consumers while the step runs.
    consumers: Sequence[Any] | None = None

    def get_consumers(self, channel: Any) -> Sequence[Any]:
        """Give the kombu consumers to start on this channel."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_consumers(channel)")

    def start(self, c: Any) -> None:
        """Open a channel and consume on it."""
        self.consumers = self.get_consumers(c.connection.channel())
        for consumer in self.consumers or []:
            consumer.consume()

    def stop(self, c: Any) -> None:
        """Cancel the consumers and close their channels."""
        self._close(c, cancel=True)

    def shutdown(self, c: Any) -> None:
        """Close the channels; the broker cancels what consumed on them."""
        self._close(c, cancel=False)

    def _close(self, c: Any, cancel: bool) -> None:
        channels = {}
        for consumer in self.consumers or []:
            if cancel:
                ignore_errors(c.connection, consumer.cancel)
            if consumer.channel:
                channels[id(consumer.channel)] = consumer.channel
        for channel in channels.values():
            ignore_errors(c.connection, channel.close)
        self.consumers = None


class StepFormatter(GraphFormatter):
    """How a blueprint's graph is drawn: with marks at what runs the others, or may be left out."""

    blueprint_prefix = "\u29c9"
    conditional_prefix = "\u2218"
    blueprint_scheme: ClassVar[dict[str, Any]] = {
        "shape": "parallelogram", "color": "slategray4", "fillcolor": "slategray3",
    }  # fmt: skip

    def label(self, obj: Any) -> Any:
        """Give the short name of a step, with its mark."""
        if obj is None:
            return None
        prefix = self.blueprint_prefix if obj.last else ""
        if not prefix and obj.conditional:
            prefix = self.conditional_prefix
        return prefix + (obj.label or str(obj.name).rpartition(".")[2])

    def node(self, obj: Any, **attrs: Any) -> bytes:
        """Draw a step."""
        return self.draw_node(obj, self.blueprint_scheme if obj.last else self.node_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        """Draw that `a` comes after `b`; what comes after everything has no arrows."""
        if a.last:
            attrs.update(arrowhead="none", color="darkseagreen3")
        return self.draw_edge(a, b, self.edge_scheme, attrs)


class Blueprint:
    """Steps in order, and the state of the program they make up."""

    #: Draws `graph` (`blueprint.graph.to_dot(file)`).
    GraphFormatter = StepFormatter
    name: str | None = None
    state: int | None = None
    #: How many of the parent's steps have been started.
    started: int = 0
    default_steps: ClassVar[Iterable[Any]] = ()
    state_to_name: ClassVar[dict[int, str]] = {
        0: "initializing", RUN: "running", CLOSE: "closing", TERMINATE: "terminating",
    }  # fmt: skip

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], Any] | None = None,
        on_close: Callable[[], Any] | None = None,
        on_stopped: Callable[[], Any] | None = None,
    ) -> None:
        """Collect step classes or their names beside `default_steps`; nothing is created yet."""
        self.name = name or self.name or type(self).__qualname__
        # A dict keeps the order in which steps were named: it decides where `requires` does not.
        self.types = dict.fromkeys([*self.default_steps, *(steps or ())])
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []
        #: Step class -> the classes it comes after.
        self.graph = DependencyGraph(formatter=self.GraphFormatter())

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Create all steps with the parent and this program's options, in order."""
        self._debug("Preparing bootsteps.")
        classes = self.claim_steps()
        self._debug("Building graph...")
        needs = _require(classes)
        order = _sort(needs)
        self.graph = self._draw(needs, order)
        self.order = [cls(parent, **kwargs) for cls in order]
        self.steps = {step.name: step for step in self.order}
        self._debug("New boot order: {%s}", ", ".join(step.alias for step in self.order))
        for step in self.order:
            step.include(parent)
        return self

    def _draw(
        self, needs: dict[StepClass, list[StepClass]], order: list[StepClass]
    ) -> DependencyGraph:
        root = order[-1] if order and order[-1].last else None
        graph = DependencyGraph(formatter=self.GraphFormatter(root=root))
        for cls in order:
            graph.add_arc(cls)
            after = order[:-1] if cls is root else needs[cls]
            for need in dict.fromkeys(after):
                graph.add_edge(cls, need)
        return graph

    def claim_steps(self) -> dict[str, StepClass]:
        """Load every step named to this blueprint: name -> class."""
        return dict(self.load_step(step) for step in self.types)

    def load_step(self, step: Any) -> tuple[str, StepClass]:
        """Resolve a step class given as such or by name."""
        cls = symbol_by_name(step)
        return cls.name, cls

    def start(self, parent: Any) -> None:
        """Start the parent's steps in order."""
        self.state = RUN
        if self.on_start:
            self.on_start()
        for number, step in enumerate(parent.steps, 1):
            self._debug("Starting %s", step.alias)
            self.started = number
            step.start(parent)
            logger.debug("^-- substep ok")

    def close(self, parent: Any) -> None:
        """Tell all steps, in order, to take on no more work."""
        if self.on_close:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop what was started, last first; a second call does nothing."""
        if self.state in (CLOSE, TERMINATE):
            return
        if self.state != RUN or self.started != len(parent.steps):
            # Not fully up: there is nothing in flight, and half-made steps must not be stopped.
            self.state = TERMINATE
            self.shutdown_complete.set()
            return
        self.close(parent)
        self.state = CLOSE
        what = "terminate" if terminate else "stop"
        described = "terminating" if terminate else "stopping"
        self.restart(parent, what, description=described, propagate=False)
        if self.on_stopped:
            self.on_stopped()
        self.state = TERMINATE
        self.shutdown_complete.set()

    def restart(
        self,
        parent: Any,
        method: str = "stop",
        description: str = "restarting",
        propagate: bool = False,
    ) -> None:
        """Stop the steps, last first, so that they can be started again."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: Sequence[Any] = (),
    ) -> None:
        """Call one method of every step that has it; with propagate=False errors are logged."""
        described = description or method.replace("_", " ")
        steps = list(parent.steps)
        for step in reversed(steps) if reverse else steps:
            function = getattr(step, method, None)
            if function is None:
                continue
            self._debug("%s %s...", described.capitalize(), step.alias)
            try:
                function(parent, *args)
            except Exception as exc:
                if propagate:
                    raise
                logger.exception("Error on %s %s: %r", described, step.alias, exc)

    def join(self, timeout: float | None = None) -> None:
        """Wait (seconds) until the program has stopped."""
        self.shutdown_complete.wait(timeout)

    def human_state(self) -> str:
        """Give the state as a word."""
        return self.state_to_name[self.state or 0]

    def info(self, parent: Any) -> dict[str, Any]:
        """Merge what the steps tell about themselves."""
        facts: dict[str, Any] = {}
        for step in parent.steps:
            facts.update(step.info(parent) or {})
        return facts

    def connect_with(self, other: Blueprint) -> None:
        """Add another blueprint's graph behind this one's last step."""
        self.graph.connect(other.graph)
        if self.order and other.order:
            self.graph.add_edge(type(other.order[0]), type(self.order[-1]))

    def __getitem__(self, name: Any) -> Any:
        """Find a step by its class or full name; KeyError when it is not part of the program."""
        return self.steps[name if isinstance(name, str) else name.name]

    @property
    def alias(self) -> str:
        """Short name for log lines."""
        return str(self.name).rpartition(".")[2] or str(self.name)

    def _debug(self, message: str, *args: Any) -> None:
        logger.debug("| %s: " + message, self.alias, *args)


def _require(classes: dict[str, StepClass]) -> dict[StepClass, list[StepClass]]:
    """Map each step, and what it needs that nobody named, to the steps it comes after."""
    waiting = list(classes.values())
    graph: dict[StepClass, list[StepClass]] = {}
    while waiting:
        cls = waiting.pop(0)
        if cls not in graph:
            graph[cls] = [symbol_by_name(need) for need in cls.requires]
            waiting.extend(graph[cls])
    return graph


def _sort(graph: dict[StepClass, list[StepClass]]) -> list[StepClass]:
    """Order the steps so that each follows what it requires; otherwise as they were named."""
    final = [cls for cls in graph if cls.last]
    waiting = [cls for cls in graph if not cls.last] + final
    order: list[StepClass] = []
    while waiting:
        for cls in waiting:
            needs = [need for need in graph[cls] if need is not cls]
            if all(need in order for need in needs):
                break
        else:
            names = ", ".join(cls.name for cls in waiting)
            raise ValueError(f"these steps require each other in a circle: {names}")
        waiting.remove(cls)
        order.append(cls)
    return order
