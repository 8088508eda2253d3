"""The queues an application knows."""

from __future__ import annotations

import pytest
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from taskq.app.queues import Queues
from taskq.exceptions import InvalidQueueName


def facts(queue):
    return queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key


class TestDeclared:
    def test_from_a_mapping(self):
        queues = Queues(
            {
                "a": {"exchange": "e", "exchange_type": "topic", "routing_key": "k.#"},
                "b": {"exchange": "e", "binding_key": "bk"},
                "c": {},
                "d": Queue("own"),
            }
        )
        assert facts(queues["a"]) == ("a", "e", "topic", "k.#")
        assert facts(queues["b"]) == ("b", "e", "direct", "bk")
        assert facts(queues["c"]) == ("c", "", "direct", "c")
        assert list(queues) == ["a", "b", "c", "own"]

    def test_from_a_list(self):
        assert list(Queues([Queue("a"), Queue("b")])) == ["a", "b"]
        assert Queues() == Queues([]) == {}

    def test_defaults_fill_in_what_queues_do_not_say(self):
        queues = Queues(
            [Queue("a"), Queue("b", Exchange("own"), "k"), Queue("c", routing_key="x")],
            default_exchange=Exchange("main", "topic"),
            default_routing_key="all",
        )
        assert facts(queues["a"]) == ("a", "main", "topic", "all")
        assert facts(queues["b"]) == ("b", "own", "direct", "k")
        assert facts(queues["c"]) == ("c", "main", "topic", "x")

    def test_several_bindings_are_kept(self):
        queue = Queue("a", bindings=[binding(Exchange("x"), "k")])
        queues = Queues([queue], default_exchange=Exchange("main"), default_routing_key="all")
        assert [b.exchange.name for b in queues["a"].bindings] == ["x"]

    def test_max_priority(self):
        queues = Queues(
            [Queue("a"), Queue("b", queue_arguments={"x-max-priority": 7})], max_priority=5
        )
        assert queues["a"].queue_arguments == {"x-max-priority": 5}
        assert queues["b"].queue_arguments == {"x-max-priority": 7}
        assert queues["new"].queue_arguments == {"x-max-priority": 5}
        assert queues.add("more").queue_arguments == {"x-max-priority": 5}

    def test_aliases(self):
        queues = Queues([Broadcast("news"), Queue("a", alias="other")], create_missing=False)
        assert queues["other"].name == "a"
        assert queues["news"].exchange.type == "fanout"
        assert queues["news"].name.startswith("bcast.")

    @pytest.mark.parametrize("name", ["", None, 5, b"x", "a\0", "x" * 256])
    def test_impossible_names(self, name):
        with pytest.raises(InvalidQueueName, match="cannot be the name of a queue"):
            Queues()[name]
        with pytest.raises(ValueError):
            Queues({name: {}})


class TestCreated:
    def test_direct_and_named_alike(self):
        queues = Queues([Queue("a")], default_exchange=Exchange("main", "topic"))
        assert facts(queues["new"]) == ("new", "new", "direct", "new")
        assert "new" in queues

    def test_off(self):
        with pytest.raises(KeyError):
            Queues(create_missing=False)["new"]

    def test_new_missing_does_not_add(self):
        queues = Queues()
        assert queues.new_missing("new").name == "new"
        assert not queues

    def test_quorum(self):
        queues = Queues(create_missing_queue_type="quorum")
        assert queues["new"].queue_arguments == {"x-queue-type": "quorum"}
        assert Queues(create_missing_queue_type="classic")["new"].queue_arguments is None
        with pytest.raises(ValueError, match="Invalid queue type 'junk'"):
            Queues(create_missing_queue_type="junk")["new"]

    def test_exchange(self):
        topic = Queues(
            create_missing_queue_exchange_type="topic", autoexchange=lambda name: Exchange("auto")
        )
        assert facts(topic["new"]) == ("new", "new", "topic", "new")
        auto = Queues(autoexchange=lambda name: Exchange(f"auto.{name}", "fanout"))
        assert facts(auto["new"]) == ("new", "auto.new", "fanout", "new")


class TestSelection:
    def make(self):
        return Queues([Queue("a"), Queue("b"), Queue("c")])

    def test_all_without_one(self):
        queues = self.make()
        assert list(queues.consume_from) == ["a", "b", "c"]
        queues["d"]
        assert list(queues.consume_from) == ["a", "b", "c", "d"]

    def test_select(self):
        queues = self.make()
        queues.select(["a", "new"])
        assert list(queues.consume_from) == ["a", "new"]
        assert "new" in queues
        queues.select([])
        queues.select(None)
        assert list(queues.consume_from) == ["a", "new"]
        queues.select("b")
        assert list(queues.consume_from) == ["b"]

    def test_deselect(self):
        queues = self.make()
        queues.deselect(None)
        queues.deselect(["a"])
        assert list(queues.consume_from) == ["b", "c"]
        queues.select(["a", "b"])
        queues.deselect("a")
        queues.deselect("c")
        assert list(queues.consume_from) == ["b"]

    def test_select_add(self):
        queues = self.make()
        assert queues.select_add("n").routing_key == "n"
        assert list(queues.consume_from) == ["a", "b", "c", "n"]
        queues.select(["a"])
        queues.select_add("m", exchange="x")
        assert list(queues.consume_from) == ["a", "m"]


class TestFormat:
    def test_one_line_each(self):
        queues = Queues([Queue("b", Exchange("e", "topic"), "k"), Queue("a")])
        assert queues.format() == (
            ".> a                exchange=(direct) key=\n"
            ".> b                exchange=e(topic) key=k"
        ).replace("key=\n", f"key={queues['a'].routing_key}\n")

    def test_indented(self):
        queues = Queues([Queue("a"), Queue("b")])
        first, second = queues.format(indent=4).splitlines()
        assert first.startswith("    .> a") and second.startswith("    .> b")
        first, second = queues.format(indent=4, indent_first=False).splitlines()
        assert first.startswith(".> a") and second.startswith("    .> b")

    def test_none(self):
        assert Queues().format() == ""
