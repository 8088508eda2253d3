"""The rest of the Tasks guide's examples: exceptions, classes, tips, and those that need processes.

test_guide_examples.py has those before, test_tasks_django.py those with models.
"""

import errno
import importlib

import pytest
from celery import Task, states
from celery.app import task
from celery.exceptions import Ignore, Reject
from servers.fixtures import rabbitmq_vhost  # noqa: F401 # a fixture


class PlainError(Exception):
    pass


class ForgetfulError(Exception):
    """The guide's bad one: does not say what it was made with."""

    def __init__(self, status_code):
        self.status_code = status_code


class HttpError(Exception):
    def __init__(self, status_code, headers=None, body=None):
        self.status_code = status_code
        self.headers = headers
        self.body = body

        super(HttpError, self).__init__(status_code, headers, body)  # noqa: UP008


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_100_guide_pickleable_exceptions(app, worker, serializer):
    app.conf.update(result_serializer=serializer, result_accept_content=["json", "pickle"])
    made = {
        "plain": lambda: PlainError("no"),
        "forgetful": lambda: ForgetfulError(status_code=404),
        "complete": lambda: HttpError(404, body="gone"),
    }

    @app.task
    def fail(which):
        raise made[which]()

    found = {which: worker.finish(fail.delay(which)).result for which in made}
    assert (type(found["plain"]), found["plain"].args) == (PlainError, ("no",))
    complete = found["complete"]
    assert type(complete) is HttpError
    assert (complete.status_code, complete.headers, complete.body) == (404, None, "gone")
    assert type(found["forgetful"]) is not PlainError
    assert getattr(found["forgetful"], "status_code", None) is None


def test_101_guide_ignore(app, worker):
    revoked, ran = set(), []

    @app.task(bind=True)
    def some_task(self):
        if self.request.id in revoked:
            raise Ignore()
        ran.append(self.request.id)

    revoked.add("unwanted")
    unwanted = some_task.apply_async(task_id="unwanted")
    wanted = worker.finish(some_task.delay())
    assert (unwanted.state, wanted.state, ran) == ("PENDING", "SUCCESS", [wanted.id])


def test_101_guide_ignore_with_a_state(app, worker):
    @app.task(bind=True)
    def get_tweets(self, user):
        timeline = [f"hello from {user}"]
        if not self.request.called_directly:
            self.update_state(state=states.SUCCESS, meta=timeline)
        raise Ignore()

    assert worker.finish(get_tweets.delay("ann")).get() == ["hello from ann"]


def test_102_guide_reject(app, worker, sent, eventually):
    errors = {"big": MemoryError(), "full": OSError(errno.ENOMEM, "full"), "odd": KeyError("odd")}

    @app.task(bind=True, acks_late=True)
    def render_scene(self, path):
        try:
            raise errors[path]

        # if the file is too big to fit in memory
        # we reject it so that it's redelivered to the dead letter exchange
        # and we can manually inspect the situation.
        except MemoryError as exc:
            raise Reject(exc, requeue=False)
        except OSError as exc:
            if exc.errno == errno.ENOMEM:
                raise Reject(exc, requeue=False)

        # For any other error we retry after 10 seconds.
        except Exception as exc:
            # Without `exc=` it would be the arguments of the next run.
            raise self.retry(exc=exc, countdown=10)

    for path in ("big", "full"):
        result = worker.finish(render_scene.delay(path))
        assert result.state == "FAILURE"
    result = render_scene.delay("odd")
    eventually(lambda: result.state == "RETRY", "it is sent again")
    assert [message.headers["id"] for message in sent[2:]] == [result.id] * 2


def test_103_guide_requeue(app, worker, capsys, rabbitmq_vhost):  # noqa: F811
    # Brokers that are simulated do not say that a message comes again.
    app.conf.update(
        broker_url=rabbitmq_vhost.url, broker_connection_retry_on_startup=True,
        task_default_queue="compat.requeues", broker_transport_options={},
    )  # fmt: skip
    runs = []

    @app.task(bind=True, acks_late=True)
    def requeues(self):
        runs.append(self.request.id)
        if not self.request.delivery_info["redelivered"]:
            raise Reject("no reason", requeue=True)
        print("received two times")

    result = worker.finish(requeues.delay())
    assert runs == [result.id] * 2
    assert "received two times" in capsys.readouterr().out


def test_106_guide_custom_classes(app, worker):
    @app.task
    def add(x, y):
        return x + y

    class _AddTask(app.Task):
        name = "add-by-class"

        def run(self, x, y):
            return x + y

    # The guide takes it from the registry at once; classes are registered by hand since 4.0.
    app.register_task(_AddTask())
    by_class = app.tasks[_AddTask.name]
    for each in (add, by_class):
        assert worker.finish(each.delay(2, 2)).get() == 4
        assert each(2, 2) == 4


def test_106_guide_instantiation(app, worker):
    made = []

    class NaiveAuthenticateServer(Task):
        name = "authenticate"

        def __init__(self):
            made.append(self)
            self.users = {"george": "password"}

        def run(self, username, password):
            try:
                return self.users[username] == password
            except KeyError:
                return False

    server = app.register_task(NaiveAuthenticateServer())
    calls = [("george", "password"), ("george", "x"), ("ann", "x")]
    assert [worker.finish(server.delay(*each)).get() for each in calls] == [True, False, False]
    assert len(made) == 1


DATABASE_TASK = """
from types import SimpleNamespace
from celery import Task

class Database:
    connected = 0

    @classmethod
    def connect(cls):
        cls.connected += 1
        return SimpleNamespace(table=SimpleNamespace(all=lambda: ["row 1", "row 2"]))

class DatabaseTask(Task):
    _db = None

    @property
    def db(self):
        if self._db is None:
            self._db = Database.connect()
        return self._db
"""


@pytest.mark.parametrize("app_wide", [False, True])
def test_107_guide_database_task(app, worker, tmp_path, monkeypatch, app_wide):
    monkeypatch.syspath_prepend(tmp_path)
    module = f"guide_database_{app_wide}".lower()
    (tmp_path / f"{module}.py").write_text(DATABASE_TASK)
    database = importlib.import_module(module)
    if app_wide:
        # What `Celery('tasks', task_cls=...)` sets.
        app.task_cls = f"{module}:DatabaseTask"
    processed = []

    @app.task(bind=True, **({} if app_wide else {"base": database.DatabaseTask}))
    def process_rows(self: task):
        for row in self.db.table.all():
            processed.append(row)  # noqa: PERF402

    for _ in range(2):
        worker.finish(process_rows.delay())
    assert processed == ["row 1", "row 2"] * 2
    assert isinstance(process_rows, database.DatabaseTask)
    assert database.Database.connected == 1


def test_108_guide_handlers(app, worker, capsys):
    class MyTask(Task):
        def before_start(self, task_id, args, kwargs):
            print(f"Task {task_id} starting with args {args}")

        def on_success(self, retval, task_id, args, kwargs):
            state = self.AsyncResult(task_id).state
            print(f"Task {task_id} succeeded with result: {retval} {state}")

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            state = self.AsyncResult(task_id).state
            print(f"Task {task_id} failed: {exc} {state}")

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            print(f"Task {task_id} finished with status: {status}")

    @app.task(base=MyTask)
    def my_task(x, y):
        return x + y

    good, bad = (worker.finish(my_task.delay(*args)) for args in [(2, 2), (2, None)])
    worker.stop()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Task ")]
    assert said == [
        f"Task {good.id} starting with args [2, 2]",
        f"Task {good.id} succeeded with result: 4 SUCCESS",
        f"Task {good.id} finished with status: SUCCESS",
        f"Task {bad.id} starting with args [2, None]",
        f"Task {bad.id} failed: {bad.result} FAILURE",
        f"Task {bad.id} finished with status: FAILURE",
    ]


def test_001_guide_registry(app):
    @app.task(name="proj.add")
    def add(x, y): ...

    assert {"celery.backend_cleanup", "celery.group", "proj.add"} <= set(app.tasks)
    assert repr(app.tasks["celery.backend_cleanup"]).startswith("<@task: celery.backend_cleanup")


def test_161_guide_ignored_results(app, worker):
    done = []

    @app.task(ignore_result=True)
    def something():
        done.append("something")

    @app.task
    def mytask(x, y):
        return x + y

    ignored = something.delay()
    result = mytask.apply_async((1, 2), ignore_result=True)
    assert result.get() is None
    result = mytask.apply_async((1, 2), ignore_result=False)
    assert worker.finish(result).get() == 3
    assert (done, ignored.state) == (["something"], "PENDING")


def test_115_guide_chain_instead_of_waiting(app, worker, eventually):
    stored = []

    def update_page_info(url):
        # fetch_page -> parse_page -> store_page
        chain = fetch_page.s(url) | parse_page.s() | store_page_info.s(url)
        chain()

    @app.task()
    def fetch_page(url):
        return f"page of {url}"

    @app.task()
    def parse_page(page):
        return page.upper()

    @app.task(ignore_result=True)
    def store_page_info(info, url):
        stored.append((url, info))

    worker.start()
    update_page_info("/x")
    eventually(lambda: stored, "the page's info is stored")
    assert stored == [("/x", "PAGE OF /X")]


def test_115_guide_waiting_allowed(app):
    app.conf.task_always_eager = True
    stored = []

    @app.task
    def update_page_info(url):
        page = fetch_page.delay(url).get(disable_sync_subtasks=False)
        info = parse_page.delay(page).get(disable_sync_subtasks=False)
        store_page_info.delay(url, info)

    @app.task
    def fetch_page(url):
        return f"page of {url}"

    @app.task
    def parse_page(page):
        return page.upper()

    @app.task
    def store_page_info(url, info):
        stored.append((url, info))

    assert update_page_info.delay("/x").state == "SUCCESS"
    assert stored == [("/x", "PAGE OF /X")]


#: Three examples in one program: its loggers propagate, its requests tell, a task waits.
PROGRAM = """
import logging, time
import celery
from celery import Task
from celery.worker.request import Request

logger = logging.getLogger("my.package")

@celery.signals.after_setup_logger.connect
def on_after_setup_logger(**kwargs):
    logger = logging.getLogger("celery")
    logger.propagate = True
    logger = logging.getLogger("celery.app.trace")
    logger.propagate = True

class MyRequest(Request):
   "A minimal custom request to log failures and hard time limits."

   def on_timeout(self, soft, timeout):
       super(MyRequest, self).on_timeout(soft, timeout)
       if not soft:
          logger.warning("A hard timeout was enforced for task %s", self.task.name)

   def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
       super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
       logger.warning("Failure detected for task %s", self.task.name)

class MyTask(Task):
   Request = MyRequest  # you can use a FQN "my.package:MyRequest"

@app.task(base=MyTask, time_limit=0.2)
def some_longrunning_task():
   time.sleep(600)

@app.task(base=MyTask)
def some_failing_task():
   raise KeyError("no")

@app.task
def update_page_info(url):
    page = fetch_page.delay(url).get()
    info = parse_page.delay(page).get()
    store_page_info.delay(url, info)

@app.task
def fetch_page(url):
    return f"page of {url}"

@app.task
def parse_page(page):
    return page.upper()

@app.task
def store_page_info(url, info):
    return [url, info]
"""


def test_113_guide_program(program):
    running = program(PROGRAM)
    refused = running.call("update_page_info", "/x")
    running.call("some_failing_task")
    assert "Never call result.get() within a task" in str(running.finish(refused).result)
    parsed = running.finish(running.call("parse_page", "page"))
    running.wait_for_log(f"Task proj.parse_page[{parsed.id}] succeeded in")
    running.wait_for_log("Failure detected for task proj.some_failing_task")
    assert running.finish(running.call("some_longrunning_task")).state == "FAILURE"
    running.wait_for_log("A hard timeout was enforced for task proj.some_longrunning_task")


OWN_LOGGING = """
import logging
import celery

@celery.signals.setup_logging.connect
def on_setup_logging(**kwargs):
    logging.basicConfig(format="OWN %(message)s", level="INFO")
"""


def test_029_guide_own_logging(program):
    running = program(OWN_LOGGING, pool="solo")
    lines = [line for line in running.log.splitlines() if " ready." in line]
    assert lines and all(line.startswith("OWN ") for line in lines)
