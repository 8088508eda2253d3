"""Where calls go: routers, their order, and how queue names become queues."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from kombu import Exchange, Queue

from taskq.app import Celery
from taskq.app.queues import Queues
from taskq.app.routes import MapRoute, Router, expand_router_string, prepare
from taskq.exceptions import ImproperlyConfigured, QueueNotFound


def make_app(**settings):
    app = Celery("routes", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return app


def route(app, name="t", options=None, **kwargs):
    return app.amqp.router.route(options or {}, name, **kwargs)


def queue_of(app, name="t", options=None):
    return route(app, name, options)["queue"].name


class ToImages:
    calls: list = []

    def route_for_task(self, name, args=None, kwargs=None):
        self.calls.append((name, args, kwargs))
        return {"queue": "images", "priority": 3}


@pytest.fixture
def module(monkeypatch):
    module = ModuleType("routers_of_a_user")
    module.ToImages = ToImages
    module.instance = ToImages()
    module.function = lambda name, args, kwargs, options, task=None, **kw: "from-function"
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    return module.__name__


class TestMapRoute:
    def test_exact_name_before_patterns(self):
        routes = MapRoute({"a.*": "glob", "a.b": {"queue": "exact", "priority": 1}})
        assert routes("a.b") == {"queue": "exact", "priority": 1}
        assert routes("a.c") == {"queue": "glob"}
        assert routes("xa.c") is None
        assert routes("A.c") is None

    def test_patterns_in_order(self):
        assert MapRoute([("a.*", "first"), ("a.b*", "second")])("a.bc") == {"queue": "first"}

    def test_a_glob_matches_the_whole_name(self):
        assert MapRoute({"*.done": "q"})("a.done.not") is None

    def test_expressions(self):
        routes = MapRoute([(re.compile(r"(image|video)\.\w+"), "media")])
        assert routes("video.cut") == {"queue": "media"}
        assert routes("my.video.cut") is None

    def test_only_a_star_makes_a_glob(self):
        routes = MapRoute({"a?": "q", "e[ab]": "r"})
        assert routes("a1") is None
        assert routes("a?") == {"queue": "q"}
        assert routes("e[ab]") == {"queue": "r"}

    def test_the_answer_is_a_copy(self):
        routes = MapRoute({"t": {"queue": "q"}})
        routes("t")["queue"] = "changed"
        assert routes("t") == {"queue": "q"}

    @pytest.mark.parametrize("wrong", [5, None, ["a"]])
    def test_a_route_that_is_none(self, wrong):
        with pytest.raises(TypeError, match="the route of 't' in task_routes must be"):
            MapRoute({"t": wrong})("t")


class TestPrepare:
    def test_nothing(self):
        assert prepare(None) == ()
        assert prepare([]) == []

    @pytest.mark.parametrize(
        "value",
        [
            {"a": "b"},
            [{"a": "b"}],
            ({"a": "b"},),
            [[("a", "b")]],
            ([("a", "b")],),
            [("a", "b")],
            (("a", "b"),),
        ],
    )
    def test_all_forms_of_a_mapping_and_of_pairs(self, value):
        (router,) = prepare(value)
        assert router("a") == {"queue": "b"}

    def test_pairs_with_expressions_and_options(self):
        (router,) = prepare([("x", {"queue": "q"}), (re.compile("y"), "r")])
        assert router("y1") == {"queue": "r"}

    def test_paths_callables_and_lists_of_these(self, module):
        first, second, third = prepare([f"{module}:function", {"a": "b"}, f"{module}.ToImages"])
        assert first("t", (), {}, {}) == "from-function"
        assert isinstance(second, MapRoute)
        assert isinstance(third, ToImages)

    def test_one_callable(self):
        router = lambda *args, **kwargs: None  # noqa: E731
        assert prepare(router) == [router]

    @pytest.mark.parametrize("wrong", [5, [5], [None]])
    def test_what_is_no_router(self, wrong):
        with pytest.raises(ImproperlyConfigured, match="task_routes: expected"):
            prepare(wrong)

    def test_expand_router_string(self, module):
        assert isinstance(expand_router_string(f"{module}:ToImages"), ToImages)
        assert isinstance(expand_router_string(f"{module}:instance"), ToImages)
        assert expand_router_string({"a": 1}) == {"a": 1}
        with pytest.raises(ImportError):
            expand_router_string("there.is.no:such")


class TestOrder:
    def test_without_routes_the_default_queue(self):
        assert queue_of(make_app()) == "celery"
        assert queue_of(make_app(task_default_queue="main")) == "main"

    def test_first_router_with_an_answer_wins(self):
        routes = [lambda *a, **k: None, {"t": "second"}, {"t": "third"}]
        assert queue_of(make_app(task_routes=routes)) == "second"

    def test_an_empty_answer_ends_the_search_too(self):
        assert queue_of(make_app(task_routes=[lambda *a, **k: {}, {"t": "second"}])) == "celery"

    def test_what_a_router_is_called_with(self):
        seen = []

        def router(name, args, kwargs, options, task=None, **kw):
            seen.append((name, args, kwargs, dict(options), task))

        app = make_app(task_routes=router)
        route(app, "t", {"priority": 1}, args=(1,), kwargs={"k": 2}, task_type="T")
        assert seen == [("t", (1,), {"k": 2}, {"priority": 1}, "T")]

    def test_objects_with_route_for_task(self, module):
        app = make_app(task_routes=f"{module}:ToImages")
        options = route(app, "t", args=(1,), kwargs={"k": 2})
        assert (options["queue"].name, options["priority"]) == ("images", 3)
        assert ToImages.calls[-1] == ("t", (1,), {"k": 2})
        assert queue_of(make_app(task_routes=[ToImages])) == "images"

    def test_options_of_the_call_win_over_the_route(self):
        app = make_app(
            task_routes={"t": {"queue": "q", "priority": 2, "exchange": "e", "serializer": "yaml"}}
        )
        options = route(app, options={"priority": 9, "queue": "mine"})
        assert options["queue"].name == "mine"
        assert options["priority"] == 9
        assert options["exchange"] == "e"
        assert options["serializer"] == "yaml"

    def test_none_is_not_an_option_of_the_call(self):
        app = make_app(task_routes={"t": {"queue": "q", "priority": 2}})
        options = route(app, options={"priority": None, "queue": None})
        assert (options["queue"].name, options["priority"]) == ("q", 2)
        assert queue_of(make_app(), options={"queue": None}) == "celery"

    def test_a_route_without_queue_does_not_get_the_default_one(self):
        app = make_app(task_routes={"t": {"exchange": "e", "routing_key": "k"}})
        assert route(app) == {"exchange": "e", "routing_key": "k"}

    def test_an_exchange_of_the_call_keeps_the_default_queue(self):
        options = route(make_app(), options={"exchange": "e", "routing_key": "k"})
        assert options["queue"].name == "celery"

    def test_the_options_given_are_not_changed(self):
        given = {"queue": "q"}
        route(make_app(), options=given)
        assert given == {"queue": "q"}

    def test_queue_objects_are_used_as_they_are(self):
        queue = Queue("own", Exchange("x", "topic"), "k")
        assert route(make_app(), options={"queue": queue})["queue"] is queue


class TestQueuesOfRoutes:
    def test_unknown_names_are_created(self):
        app = make_app(task_routes={"t": "fresh"})
        queue = route(app)["queue"]
        assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == (
            "fresh",
            "direct",
            "fresh",
        )
        assert app.amqp.queues["fresh"] is queue

    def test_unless_that_is_off(self):
        app = make_app(
            task_create_missing_queues=False,
            task_queues=[Queue("images"), Queue("celery")],
            task_routes={"t": "imagse"},
        )
        with pytest.raises(QueueNotFound, match="did you mean 'images'"):
            route(app)
        with pytest.raises(KeyError, match="Queue 'nowhere' missing from task_queues"):
            route(app, "z", {"queue": "nowhere"})
        assert queue_of(app, "z", {"queue": "images"}) == "images"

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 256, "\u00e9" * 128, 5, b"bytes"])
    def test_impossible_names(self, name):
        with pytest.raises(ImproperlyConfigured, match="cannot be the name of a queue"):
            route(make_app(), options={"queue": name})
        with pytest.raises(ValueError, match="cannot be the name of a queue"):
            route(make_app(task_routes={"t": {"queue": name}}))

    def test_the_longest_name(self):
        assert queue_of(make_app(), options={"queue": "x" * 255}) == "x" * 255

    def test_routes_are_read_again_when_the_setting_changes(self):
        app = make_app(task_routes={"t": "first"})
        router = app.amqp.router
        assert queue_of(app) == "first"
        app.conf.task_routes = {"t": "second"}
        assert queue_of(app) == "second"
        assert app.amqp.router is router

    def test_flush_routes_reads_a_setting_changed_in_place(self):
        app = make_app(task_routes={"t": "first"})
        assert queue_of(app) == "first"
        app.conf.task_routes["t"] = "second"
        app.amqp.flush_routes()
        assert queue_of(app) == "second"


class TestBareRouter:
    def test_defaults(self):
        router = Router()
        assert (router.queues, router.routes, router.app, router.create_missing) == (
            {},
            [],
            None,
            False,
        )

    def test_with_queues(self):
        router = Router(prepare({"t": "a"}), Queues([Queue("a")]))
        assert router.route({}, "t")["queue"].name == "a"
        with pytest.raises(QueueNotFound):
            Router(prepare({"t": "b"}), Queues([Queue("a")], create_missing=False)).route({}, "t")

    def test_expand_destination(self):
        router = Router(queues=Queues())
        assert router.expand_destination("q")["queue"].name == "q"
        assert router.expand_destination({"queue": None, "priority": 1}) == {"priority": 1}
        for nonsense in (5, ["q"], ("q", 1)):
            with pytest.raises(TypeError, match="a router must return the name of a queue"):
                router.expand_destination(nonsense)
        assert router.lookup_route("t") is None


def test_a_router_sees_the_options_of_the_task_and_of_the_call():
    seen = []

    def look(name, args, kwargs, options, task=None, **_):
        seen.append((options.get("serializer"), options.get("ignore_result", "not said")))

    app = Celery("routed", broker="memory://", backend=None, set_as_current=False)
    app.conf.task_routes = (look,)
    plain = app.task(lambda: None, name="plain", lazy=False, ignore_result=True)
    plain.delay()
    plain.apply_async(serializer="pickle", ignore_result=False)
    app.send_task("unknown")
    app.send_task("unknown", serializer="pickle", ignore_result=None)
    assert seen == [
        ("json", True),
        ("pickle", False),
        (None, "not said"),
        ("pickle", None),
    ]
    app.close()
