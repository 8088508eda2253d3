"""What depends on what comes after it."""

from __future__ import annotations

import io

import pytest

from taskq.utils.graph import CycleError, DependencyGraph, GraphFormatter


def graph() -> DependencyGraph:
    return DependencyGraph([("a", ["b", "c"]), ("b", ["c"]), ("c", [])])


def test_dependencies_come_first() -> None:
    assert graph().topsort() == ["c", "b", "a"]


def test_nodes_and_edges() -> None:
    nodes = graph()
    nodes.add_arc("z")
    nodes.add_edge("z", "a")
    assert (len(nodes), nodes["z"], "z" in nodes) == (4, ["a"], True)
    assert list(nodes.edges()) == ["a", "b", "z"]
    assert (nodes.valency_of("a"), nodes.valency_of("c")) == (3, 0)
    other = DependencyGraph(nodes)
    other.connect(DependencyGraph({"q": ["z"]}))
    assert dict(other.items())["q"] == ["z"]
    with pytest.raises(KeyError):
        nodes.add_edge("unknown", "a")


def test_a_circle_is_shown() -> None:
    with pytest.raises(CycleError, match="a -> b -> a"):
        DependencyGraph({"a": ["b"], "b": ["a"]}).topsort()


def test_a_deep_chain_needs_no_stack() -> None:
    deep = DependencyGraph({n: [n + 1] for n in range(5000)})
    assert deep.topsort()[0] == 4999


def test_as_text() -> None:
    assert repr(graph()).splitlines()[:4] == ["a(3)", "     b(1)", "          c(0)", "     c(0)"]


def test_as_a_drawing() -> None:
    out = io.StringIO()
    graph().to_dot(out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "digraph dependencies {"
    assert lines[-1] == "}"
    assert [line.split("[")[0].strip() for line in lines[2:-1]] == [
        '"a"',
        '"a" -> "b"',
        '"a" -> "c"',
        '"b"',
        '"b" -> "c"',
        '"c"',
    ]


def test_a_formatter_of_ones_own() -> None:
    class Upper(GraphFormatter):
        def label(self, obj: object) -> str:
            return str(obj).upper()

    formatter = Upper(root="r", type="graph", id="ID", indent=1)
    assert formatter.head(x=1).decode().startswith("    graph ID {")
    assert b'"X" [' in formatter.node("x", color="red")
    assert b'"A" -- "B"' in formatter.edge("a", "b")
    assert formatter.tail() == b"    }"
    assert formatter.attr("k", "v") == 'k="v"'
    assert DependencyGraph(formatter=formatter).format("x") == "X"
