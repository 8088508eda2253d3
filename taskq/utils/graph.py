"""What depends on what: start order of steps, trees of results, and their drawing for Graphviz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from textwrap import dedent
from typing import Any

from kombu.utils.encoding import bytes_to_str, safe_str

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class DOT:
    """Pieces of the dot language."""

    HEAD = dedent("""
        {IN}{type} {id} {{
        {INp}graph [{attrs}]
    """)
    ATTR = "{name}={value}"
    NODE = '{INp}"{0}" [{attrs}]'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    ATTRSEP = ", "
    DIRS = {"graph": "--", "digraph": "->"}
    TAIL = "{IN}}}"


class CycleError(Exception):
    """Things depend on each other in a circle, so none can be first."""


class DependencyGraph:
    """Nodes, each with the list of those it depends on.

    Arguments:
        it: a graph, a mapping or pairs of (node, nodes it depends on).
        formatter: a GraphFormatter for to_dot.
    """

    def __init__(self, it: Any = None, formatter: Any = None) -> None:
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add a node, depending on nothing yet."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:
        """`A` depends on `B`; `A` must be a node already."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Take over the nodes of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Any) -> None:
        """Add nodes and what they depend on."""
        pairs = it.items() if isinstance(it, (Mapping, DependencyGraph)) else it
        tuples = [(node, list(deps)) for node, deps in pairs]
        for node, _ in tuples:
            self.add_arc(node)
        for node, deps in tuples:
            for dep in deps:
                self.add_edge(node, dep)

    def topsort(self) -> list[Any]:
        """The nodes so that each comes after all it depends on.

        Raises:
            CycleError: no such order exists; the message shows the circle.
        """
        order: list[Any] = []
        done: set[Any] = set()
        for root in self.adjacent:
            if root not in done:
                self._visit(root, order, done)
        return order

    def _visit(self, root: Any, order: list[Any], done: set[Any]) -> None:
        """Depth first, without recursion: trees of results can be deep."""
        path = [root]
        on_path = {root}
        branches = [iter(self.adjacent.get(root, ()))]
        while path:
            for dep in branches[-1]:
                if dep in on_path:
                    circle = [*path[path.index(dep) :], dep]
                    raise CycleError("depends on itself: " + " -> ".join(map(str, circle)))
                if dep not in done:
                    path.append(dep)
                    on_path.add(dep)
                    branches.append(iter(self.adjacent.get(dep, ())))
                    break
            else:
                branches.pop()
                node = path.pop()
                on_path.discard(node)
                done.add(node)
                if node in self.adjacent:
                    order.append(node)

    def valency_of(self, obj: Any) -> int:
        """How many edges lead away from `obj`, directly and further on."""
        return sum(self._edges_below(obj).values())

    def _edges_below(self, obj: Any) -> Counter[Any]:
        edges: Counter[Any] = Counter()
        todo = [obj]
        while todo:
            deps = self.adjacent.get(todo.pop(), [])
            edges.update(deps)
            todo.extend(deps)
        return edges

    def edges(self) -> Iterator[Any]:
        """The nodes that depend on something."""
        return (node for node, deps in self.items() if deps)

    def to_dot(self, fh: Any, formatter: Any = None) -> None:
        """Write the graph to a file, in the dot language.

        Arguments:
            formatter: a GraphFormatter of one's own.
        """
        draw = formatter or self.formatter
        seen: set[str] = set()

        def write(line: bytes) -> None:
            print(bytes_to_str(line), file=fh)

        def write_once(fun: Any, label: str, node: Any) -> None:
            if label not in seen:
                write(fun(node))
                seen.add(label)

        write(draw.head())
        for node, deps in self.items():
            if not deps:
                write_once(draw.terminal_node, draw.label(node), node)
            for dep in deps:
                write_once(draw.node, draw.label(node), node)
                write(draw.edge(node, dep))
        write(draw.tail())

    def format(self, obj: Any) -> str:
        """What a node is called in the drawing."""
        return str(self.formatter.label(obj)) if self.formatter else str(obj)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """(node, nodes it depends on)."""
        return self.adjacent.items()

    iteritems = items

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """A node and all below it, one line each."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        for other in self.adjacent.get(obj, ()):
            text = fmt.format(other, self.valency_of(other))
            lines.append("     " * level + text)
            below = self.repr_node(other, level + 1).split("\n")[1:]
            lines.extend(below)
        return "\n".join(lines)


class GraphFormatter:
    """How a graph looks in the dot language; subclass it for other colours.

    Arguments:
        root: attribute of the drawing.
        type: `digraph` or `graph`.
        id: name of the drawing.
        indent: how far it is nested in another.
        inw: one level of indentation.
        scheme: attributes of everything.
    """

    _attr = DOT.ATTR.strip()
    _node = DOT.NODE.strip()
    _edge = DOT.EDGE.strip()
    _head = DOT.HEAD.strip()
    _tail = DOT.TAIL.strip()
    _attrsep = DOT.ATTRSEP
    _dirs = dict(DOT.DIRS)

    scheme: Mapping[str, Any] = {
        "shape": "box",
        "arrowhead": "vee",
        "style": "filled",
        "fontname": "HelveticaNeue",
    }
    edge_scheme: Mapping[str, Any] = {
        "color": "darkseagreen4",
        "arrowcolor": "black",
        "arrowsize": 0.7,
    }
    node_scheme: Mapping[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Mapping[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Mapping[str, Any] = {"bgcolor": "mintcream"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = self._dirs[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = dict(self.scheme, **scheme)
        self.graph_scheme = dict(self.graph_scheme, root=self.label(self.root))

    def attr(self, name: str, value: Any) -> str:
        """`name="value"`."""
        return self._attr.format(name=name, value=f'"{value}"')

    def attrs(self, d: Mapping[str, Any] | None, scheme: Mapping[str, Any] | None = None) -> str:
        """All attributes in one text."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return self._attrsep.join(safe_str(self.attr(k, v)) for k, v in merged.items())

    def head(self, **attrs: Any) -> bytes:
        """First lines of the drawing."""
        return self.FMT(
            self._head, id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme)
        )

    def tail(self) -> bytes:
        """Last line of the drawing."""
        return self.FMT(self._tail)

    def label(self, obj: Any) -> Any:
        """What a node is called."""
        return obj

    def node(self, obj: Any, **attrs: Any) -> bytes:
        """A node that depends on others."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> bytes:
        """A node that depends on nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        """An arrow from `a` to `b`."""
        return self.draw_edge(a, b, **attrs)

    def _enc(self, s: str) -> bytes:
        return s.encode("utf-8", "ignore")

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> bytes:
        """`fmt` filled in, as bytes."""
        return self._enc(fmt.format(*args, **{**kwargs, "IN": self.IN, "INp": self.INp}))

    def draw_edge(
        self, a: Any, b: Any, scheme: Mapping[str, Any] | None = None, attrs: Any = None
    ) -> bytes:
        """One line for an arrow."""
        return self.FMT(
            self._edge,
            self.label(a),
            self.label(b),
            dir=self.direction,
            attrs=self.attrs(attrs, self.edge_scheme if scheme is None else scheme),
        )

    def draw_node(
        self, obj: Any, scheme: Mapping[str, Any] | None = None, attrs: Any = None
    ) -> bytes:
        """One line for a node."""
        return self.FMT(self._node, self.label(obj), attrs=self.attrs(attrs, scheme))
