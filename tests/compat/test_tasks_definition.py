"""Behaviours 1 to 18: how functions and classes become tasks, and what they are called."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import pytest
import sides
from celery import Celery, Task, shared_task
from celery.exceptions import DuplicateTaskNameWarning, NotRegistered


def test_001_options_become_attributes(app):
    class Adder:
        def add(self, x, y):
            return x + y

    @app.task(rate_limit="7/m", tenant="acme")
    def add(x, y):
        return x + y

    from_callable = app.task(Adder().add, name="adder", max_retries=7)
    assert isinstance(add, Task)
    assert (add.__class__.rate_limit, add.__class__.tenant, add.tenant) == ("7/m", "acme", "acme")
    assert (from_callable(1, 2), from_callable.max_retries) == (3, 7)


def test_002_with_and_without_parentheses(app):
    @app.task
    def one():
        return 1

    @app.task()
    def two():
        return 2

    assert (one(), two()) == (1, 2)
    with pytest.raises(TypeError, match=r"argument 1 to @task\(\) must be a callable"):
        app.task("not callable")
    with pytest.raises(TypeError, match="takes exactly 1 argument"):
        app.task(one, two)


@pytest.mark.parametrize(
    "use", [lambda app, task: task.name, lambda app, task: repr(task), lambda app, _: app.tasks]
)
def test_003_the_decorator_is_lazy(app, use):
    named = []

    class Naming(type(app)):
        def gen_task_name(self, name, module):
            named.append(name)
            return super().gen_task_name(name, module)

    mine = Naming("mine", broker="memory://", set_as_current=False)

    @mine.task
    def add(x, y):
        return x + y

    assert named == []
    use(mine, add)
    assert "add" in named


def test_003_a_task_of_a_finalized_app_is_made_at_once(app):
    app.finalize()

    @app.task(name="late")
    def late():
        pass

    assert "late" in app.tasks


def test_004_shared_task_is_the_current_apps():
    @shared_task(name="shared.where")
    def where():
        return where.app.main

    @shared_task
    def bare():
        return bare.name

    for name in ("one", "two"):
        each = Celery(name, broker="memory://")
        assert where() == name
        assert each.tasks["shared.where"].app is each
        assert bare() == f"{__name__}.bare"


def test_005_shared_task_twice_is_refused():
    with pytest.raises(TypeError, match="shared_task"):

        @shared_task
        @shared_task
        def add(x, y):
            return x + y


def test_006_the_task_decorator_goes_outermost(app):
    def doubled(fun):
        @functools.wraps(fun)
        def wrapper(*args):
            return 2 * fun(*args)

        return wrapper

    @app.task
    @doubled
    @doubled
    def add(x, y):
        return x + y

    assert (add(1, 2), add.apply((1, 2)).get(), add.name) == (12, 12, f"{__name__}.add")


def test_007_bind_passes_the_task(app, worker):
    @app.task(bind=True)
    def whoami(self, x):
        return [self.name, self is app.tasks[self.name], self.request.id, x]

    result = worker.finish(whoami.delay(3))
    assert result.result == [whoami.name, True, result.id, 3]
    assert whoami(4) == [whoami.name, True, None, 4]


def test_008_base_gives_the_handlers(app, worker):
    seen = []

    class Watched(Task):
        def on_failure(self, exc, task_id, args, kwargs, einfo):
            seen.append((self.name, repr(exc), task_id, list(args), kwargs, str(einfo)))

    @app.task(base=Watched)
    def boom(x, y):
        raise KeyError("boom")

    result = worker.finish(boom.delay(1, y=2))
    [(name, exc, task_id, args, kwargs, text)] = seen
    assert isinstance(boom, Watched)
    assert (name, exc, task_id) == (boom.name, "KeyError('boom')", result.id)
    assert (args, kwargs) == ([1], {"y": 2})
    assert "raise KeyError" in text


def test_009_default_names(app, tmp_path):
    @app.task
    def add(x, y):
        return x + y

    assert add.name == f"{__name__}.add"
    script = tmp_path / "script.py"
    script.write_text(
        f"{sides.AS_CELERY}from celery import Celery\n"
        "for main in ('proj', None):\n"
        "    app = Celery(main, broker='memory://')\n"
        "    @app.task(shared=False)\n"
        "    def add(): pass\n"
        "    print(add.name)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["proj.add", "__main__.add"]


def test_010_a_name_of_ones_own(app, sent):
    @app.task(name="sum-of-two-numbers")
    def add(x, y):
        return x + y

    add.delay(1, 2)
    assert (add.name, sent[0].name) == ("sum-of-two-numbers", "sum-of-two-numbers")
    assert sent[0].headers["task"] == "sum-of-two-numbers"


def test_011_gen_task_name(app):
    class Short(Celery):
        def gen_task_name(self, name, module):
            return super().gen_task_name(name, module.removesuffix(".tasks"))

    mine = Short("main", broker="memory://", set_as_current=False)

    def test():
        pass

    test.__module__ = "moduleB.tasks"
    assert mine.task(test).name == "moduleB.test"


def test_012_one_instance_per_process(app, worker):
    made = []

    class Counting(Task):
        def __init__(self):
            made.append(type(self).__name__)
            self.runs = 0

    @app.task(base=Counting, bind=True)
    def count(self):
        self.runs += 1
        return self.runs

    results = [worker.finish(count.delay()).result for _ in range(3)]
    assert (results, made) == ([1, 2, 3], ["count"])


class Loud(Task):
    """Named by path in test_013."""

    loud = True


def test_013_task_cls(app):
    assert Celery.task_cls == "celery.app.task:Task"
    for given in (f"{__name__}:Loud", Loud):
        mine = Celery("mine", task_cls=given, broker="memory://", set_as_current=False)

        @mine.task(shared=False)
        def quiet():
            pass

        assert isinstance(quiet, Loud)
        assert quiet.loud


def test_014_class_based_tasks(app, worker):
    class Multiply(Task):
        def run(self, x, y):
            return x * y

    class Named(Task):
        name = "named.by.itself"

        def run(self):
            return self.name

    multiply, named = app.register_task(Multiply()), app.register_task(Named())
    assert multiply.name == f"{__name__}.Multiply"
    assert app.tasks[multiply.name] is multiply
    assert worker.finish(multiply.delay(3, 4)).result == 12
    assert worker.finish(named.delay()).result == "named.by.itself"
    with pytest.raises(NotImplementedError, match="must define the run method"):
        Task().run()


def test_015_duplicate_names(app):
    @app.task(name="same", shared=False)
    def first():
        return 1

    @app.task(name="same", shared=False)
    def second():
        return 2

    with pytest.warns(DuplicateTaskNameWarning, match="'same'.*(?s:.)*first(?s:.)*second"):
        app.finalize()
    assert app.tasks["same"]() == 1
    assert second() == 1


def test_015_the_same_callable_twice_is_no_duplicate(app, recwarn):
    def add(x, y):
        return x + y

    assert app.task(add, name="once").name == app.task(add, name="once").name
    app.finalize()
    assert not [each for each in recwarn if issubclass(each.category, DuplicateTaskNameWarning)]


def test_016_the_registry(app):
    @app.task(name="mine")
    def mine():
        pass

    assert app.tasks["mine"] == mine
    builtin = ("accumulate", "backend_cleanup", "chain", "group", "map", "starmap")
    assert {f"celery.{name}" for name in builtin} <= app.tasks.keys()


def test_017_unknown_names(app):
    with pytest.raises(NotRegistered) as caught:
        app.tasks["nobody"]
    assert isinstance(caught.value, KeyError)
    assert caught.value.args == ("nobody",)
    assert app.tasks.get("nobody") is None


def test_018_repr(app):
    @app.task(name="proj.add")
    def add(x, y):
        return x + y

    assert re.fullmatch(r"<@task: proj\.add of tests at 0x[0-9a-f]+>", repr(add))
