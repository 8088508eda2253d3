"""The examples of the Tasks guide, in its order, run as they stand there.

Only what an example leaves open (a database, a service, how a task goes wrong) is filled in.
test_guide_examples_classes.py has the rest.
"""

import importlib
import socket
import sys
from datetime import datetime, timedelta, timezone
from typing import Optional
from urllib.request import urlopen

import celery
import pytest
from celery import Task, shared_task
from celery.utils.log import get_task_logger
from pydantic import BaseModel

logger = get_task_logger(__name__)


class Objects:
    """A table of models, as far as the guide asks: it keeps what is created."""

    def __init__(self):
        self.created = []

    def create(self, **fields):
        self.created.append(fields)


class User:
    objects = Objects()


class FailWhaleError(Exception):
    pass


class Twitter:
    """Fails as often as it is told to, then does what it is asked."""

    FailWhaleError = FailWhaleError

    class LoginError(Exception):
        pass

    def __init__(self, failures=0, error=FailWhaleError):
        self.failures, self.error, self.calls = failures, error, []

    def update_status(self, tweet):
        self.calls.append(tweet)
        if len(self.calls) <= self.failures:
            raise self.error("over capacity")
        return [tweet]

    refresh_timeline = update_status


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write modules, given as `name=source` with `__` for a dot; they go with the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**sources):
        for name, source in sources.items():
            file = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(exist_ok=True)
            file.write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_001_guide_timeouts_of_requests(app, worker):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"

        @app.task
        def fetch():
            read_timeout = 0.05
            return urlopen(url, timeout=read_timeout)

        result = worker.finish(fetch.delay())
    assert (result.state, type(result.result).__name__) == ("FAILURE", "TimeoutError")


def test_001_guide_basics(app, worker):
    @app.task
    def create_user(username, password):
        User.objects.create(username=username, password=password)

    @app.task(serializer="yaml", name="create_user_by_yaml")
    def create_other(username, password):
        User.objects.create(username=username, password=password)

    app.conf.accept_content = ["json", "yaml"]
    User.objects.created.clear()
    for each in (create_user, create_other):
        worker.finish(each.delay("ann", password="x"))
    assert User.objects.created == [{"username": "ann", "password": "x"}] * 2
    assert create_other.serializer == "yaml"


def test_002_guide_shared_task(app, worker):
    @shared_task
    def add(x, y):
        return x + y

    assert worker.finish(add.delay(2, 2)).get() == 4
    assert add.app is app


def test_003_guide_multiple_decorators(app, worker):
    def decorator1(fun):
        def one(x, y):
            return [1, fun(x, y)]

        return one

    def decorator2(fun):
        def two(x, y):
            return [2, fun(x, y)]

        return two

    @app.task
    @decorator2
    @decorator1
    def add(x, y):
        return x + y

    assert worker.finish(add.delay(2, 2)).get() == [2, [1, 4]]


def test_004_guide_bound_tasks(app, worker, caplog):
    @app.task(bind=True)
    def add(self, x, y):
        logger.info(self.request.id)

    with caplog.at_level("INFO"):
        result = worker.finish(add.delay(2, 2))
    assert result.id in [each.getMessage() for each in caplog.records if each.name == __name__]


def test_005_guide_task_inheritance(app, worker, capsys):
    class MyTask(celery.Task):
        def on_failure(self, exc, task_id, args, kwargs, einfo):
            print("{0!r} failed: {1!r}".format(task_id, exc))  # noqa: UP030, UP032

    @app.task(base=MyTask)
    def add(x, y):
        raise KeyError()

    result = worker.finish(add.delay(2, 2))
    worker.stop()
    assert f"{result.id!r} failed: KeyError()" in capsys.readouterr().out


def test_007_guide_names(app, modules):
    @app.task(name="sum-of-two-numbers")
    def add(x, y):
        return x + y

    assert add.name == "sum-of-two-numbers"

    @app.task(name="tasks.add")
    def named_by_hand(x, y):
        return x + y

    assert named_by_hand.name == "tasks.add"

    source = (
        "from celery import current_app as app\n\n@app.task\ndef add(x, y):\n    return x + y\n"
    )
    modules(guide_tasks=source)
    assert importlib.import_module("guide_tasks").add.name == "guide_tasks.add"


MY_CELERY = """
from celery import Celery

class MyCelery(Celery):

    def gen_task_name(self, name, module):
        if module.endswith('.tasks'):
            module = module[:-6]
        return super().gen_task_name(name, module)

app = MyCelery('main', set_as_current=False)
"""
TASKS = "from guide_app import app\n\n@app.task\ndef {}(): ...\n"


def test_010_guide_automatic_naming(modules):
    modules(
        guide_app=MY_CELERY,
        moduleA__tasks=TASKS.format("taskA") + TASKS.format("taskB"),
        moduleB__tasks=TASKS.format("test"),
    )
    first = importlib.import_module("moduleA.tasks")
    second = importlib.import_module("moduleB.tasks")
    names = [first.taskA.name, first.taskB.name, second.test.name]
    assert names == ["moduleA.taskA", "moduleA.taskB", "moduleB.test"]


def test_019_guide_dump_context(app, worker, capsys):
    @app.task(bind=True)
    def dump_context(self, x, y):
        shown = "Executing task id {0.id}, args: {0.args!r} kwargs: {0.kwargs!r}"
        print(shown.format(self.request))

    result = worker.finish(dump_context.delay(1, y=2))
    said = f"Executing task id {result.id}, args: [1] kwargs: {{'y': 2}}"
    assert said in capsys.readouterr().out


def test_026_guide_logging(app, worker, caplog):
    @app.task
    def add(x, y):
        logger.info("Adding {0} + {1}".format(x, y))  # noqa: UP030, UP032
        return x + y

    with caplog.at_level("INFO"):
        assert worker.finish(add.delay(2, 3)).get() == 5
    assert "Adding 2 + 3" in caplog.messages


def test_028_guide_redirect(app, worker, caplog):
    @app.task(bind=True)
    def add(self, x, y):
        old_outs = sys.stdout, sys.stderr
        rlevel = self.app.conf.worker_redirect_stdouts_level
        try:
            self.app.log.redirect_stdouts_to_logger(logger, rlevel)
            print("Adding {0} + {1}".format(x, y))  # noqa: UP030, UP032
            return x + y
        finally:
            sys.stdout, sys.stderr = old_outs

    before = sys.stdout
    assert worker.finish(add.delay(2, 3)).get() == 5
    found = [(each.name, each.levelname) for each in caplog.records if "Adding 2" in each.msg]
    assert found == [(__name__, "WARNING")]
    assert sys.stdout is before


def test_030_guide_argument_checking(app, worker, sent):
    @app.task
    def add(x, y):
        return x + y

    @app.task(typing=False, name="untyped")
    def untyped(x, y):
        return x + y

    assert worker.finish(add.delay(8, 8)).get() == 16
    with pytest.raises(TypeError):
        add.delay(8)
    assert len(sent) == 1
    result = worker.finish(untyped.delay(8))
    assert (result.state, type(result.result)) == ("FAILURE", TypeError)


def test_034_guide_hiding_arguments(app, sent):
    @app.task
    def add(x, y): ...

    @app.task
    def charge(account, card): ...

    account = "ann"
    add.apply_async((2, 3), argsrepr="(<secret-x>, <secret-y>)")
    charge.s(account, card="1234 5678 1234 5678").set(
        kwargsrepr=repr({"card": "**** **** **** 5678"})
    ).delay()
    assert sent[0].headers["argsrepr"] == "(<secret-x>, <secret-y>)"
    assert sent[1].headers["kwargsrepr"] == "{'card': '**** **** **** 5678'}"
    assert sent[1].kwargs == {"card": "1234 5678 1234 5678"}


@pytest.mark.parametrize("error", [Twitter.FailWhaleError, Twitter.LoginError])
@pytest.mark.parametrize("failures", [2, 9])
def test_036_guide_retry(app, worker, error, failures):
    twitter = Twitter(failures, error)

    @app.task(bind=True)
    def send_twitter_status(self, oauth, tweet):
        try:
            twitter.update_status(tweet)
        except (Twitter.FailWhaleError, Twitter.LoginError) as exc:
            raise self.retry(exc=exc)

    assert send_twitter_status.default_retry_delay == 180
    send_twitter_status.default_retry_delay = 0
    result = worker.finish(send_twitter_status.delay("key", "hello"))
    assert len(twitter.calls) == min(failures, 3) + 1
    assert result.state == ("SUCCESS" if failures == 2 else "FAILURE")


def test_041_guide_the_given_error_ends_it(app, worker):
    @app.task(bind=True, max_retries=1, default_retry_delay=0)
    def login(self):
        self.retry(exc=Twitter.LoginError())

    result = worker.finish(login.delay())
    assert type(result.result).__name__ == "LoginError"


def test_045_guide_custom_retry_delay(app, worker, sent, eventually):
    @app.task(bind=True, default_retry_delay=30 * 60)  # retry in 30 minutes.
    def add(self, x, y):
        try:
            raise ZeroDivisionError
        except Exception as exc:
            if x:
                # overrides the default delay to retry after 1 minute
                raise self.retry(exc=exc, countdown=60)
            raise self.retry(exc=exc)

    for x, delay in [(1, timedelta(minutes=1)), (0, timedelta(minutes=30))]:
        sent.clear()
        before = datetime.now(timezone.utc)
        add.delay(x, 2)
        worker.thread or worker.start()
        eventually(lambda: len(sent) == 2, "it is sent again")
        after = datetime.now(timezone.utc)
        assert before <= datetime.fromisoformat(sent[1].headers["eta"]) - delay <= after


def autoretried(app, twitter, **options):
    @app.task(autoretry_for=(FailWhaleError,), default_retry_delay=0, **options)
    def refresh_timeline(user):
        return twitter.refresh_timeline(user)

    return refresh_timeline


def by_hand(app, twitter):
    @app.task(default_retry_delay=0)
    def refresh_timeline(user):
        try:
            twitter.refresh_timeline(user)
        except FailWhaleError as exc:
            raise refresh_timeline.retry(exc=exc, max_retries=5)

    return refresh_timeline


@pytest.mark.parametrize(
    ("build", "options", "calls"),
    [
        (autoretried, {}, 4),
        (autoretried, {"retry_kwargs": {"max_retries": 5}}, 6),
        (by_hand, {}, 6),
    ],
)
def test_051_guide_autoretry(app, worker, build, options, calls):
    twitter = Twitter(failures=9)
    result = worker.finish(build(app, twitter, **options).delay("ann"))
    assert (len(twitter.calls), type(result.result)) == (calls, FailWhaleError)


def test_051_guide_autoretry_for_all(app, worker):
    twitter = Twitter(failures=2, error=OSError)

    @app.task(autoretry_for=(Exception,), default_retry_delay=0)
    def x():
        return twitter.refresh_timeline("ann")

    assert worker.finish(x.delay()).get() == ["ann"]


def test_054_guide_backoff(app, worker, sent, eventually):
    class RequestException(OSError):
        pass

    @app.task(autoretry_for=(RequestException,), retry_backoff=True)
    def x():
        raise RequestException

    before = datetime.now(timezone.utc)
    x.delay()
    worker.start()
    eventually(lambda: len(sent) > 1, "it is sent again")
    after = datetime.now(timezone.utc)
    # The first delay is a random one of up to a second.
    eta = sent[1].headers["eta"]
    assert eta is None or before <= datetime.fromisoformat(eta) <= after + timedelta(seconds=1)


def test_056_guide_class_that_retries(app):
    class BaseTaskWithRetry(Task):
        autoretry_for = (TypeError,)
        max_retries = 5
        retry_backoff = True
        retry_backoff_max = 700
        retry_jitter = False

    waits = []

    class Watched(BaseTaskWithRetry):
        def retry(self, *args, **options):
            waits.append(options.get("countdown"))
            return super().retry(*args, **options)

    @app.task(base=Watched)
    def x():
        raise TypeError

    assert type(x.apply().result) is TypeError
    assert waits == [1, 2, 4, 8, 16, 32]


class ArgModel(BaseModel):
    value: int


class ReturnModel(BaseModel):
    value: str


def test_061_guide_pydantic(app, worker):
    @app.task(pydantic=True)
    def x(arg: ArgModel) -> ReturnModel:
        # args/kwargs type hinted as Pydantic model will be converted
        assert isinstance(arg, ArgModel)

        # The returned model will be converted to a dict automatically
        return ReturnModel(value=f"example: {arg.value}")

    assert worker.finish(x.delay({"value": 1})).get() == {"value": "example: 1"}


def test_061_guide_pydantic_optional(app, worker):
    @app.task(pydantic=True)
    def x(arg: Optional[ArgModel] = None) -> Optional[ReturnModel]:  # noqa: UP045
        if arg is None:
            return None
        return ReturnModel(value=f"example: {arg.value}")

    assert worker.finish(x.delay()).get() is None
    assert worker.finish(x.delay({"value": 1})).get() == {"value": "example: 1"}


def test_074_guide_throws(app, worker, caplog):
    class HttpNotFound(Exception):
        pass

    @app.task(throws=(KeyError, HttpNotFound))
    def get_foo():
        raise KeyError("foo")

    with caplog.at_level("INFO"):
        assert worker.finish(get_foo.delay()).state == "FAILURE"
        worker.stop()
    found = [each for each in caplog.records if "KeyError" in each.getMessage()]
    assert [(each.levelname, each.exc_info) for each in found] == [("INFO", None)]


def test_098_guide_custom_states(app, worker):
    seen = []

    class Watched(app.Task):
        def update_state(self, *args, **options):
            super().update_state(*args, **options)
            result = self.AsyncResult(self.request.id)
            seen.append((result.state, result.info))

    @app.task(bind=True, base=Watched)
    def upload_files(self, filenames):
        for i, file in enumerate(filenames):  # noqa: B007
            if not self.request.called_directly:
                self.update_state(state="PROGRESS", meta={"current": i, "total": len(filenames)})

    upload_files(["a", "b"])
    assert seen == []
    worker.finish(upload_files.delay(["a", "b"]))
    assert seen == [("PROGRESS", {"current": i, "total": 2}) for i in range(2)]
