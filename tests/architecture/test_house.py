"""The house rules of docs/architecture.md, held by reading the source."""

from __future__ import annotations

import ast
import statistics

from architecture import house

#: step of the stairs -> module prefixes; longest prefix wins
STAIRS = {
    8: ("bin", "contrib", "compat", "__main__"),
    7: ("worker", "concurrency", "beat"),
    6: ("app",),
    5: ("backends", "transports", "events", "security"),
    4: ("canvas", "result", "result_document", "result_sets", "schedules"),
    3: ("_state", "context", "joining"),
    2: ("signals", "protocol", "bootsteps"),
    1: ("exceptions", "states", "platforms", "utils", "version"),
}
GROUND_MAY_IMPORT = {"kombu", "vine", "billiard", "dateutil", "click", "tzlocal"}
#: packages of the extras: the only ones an import inside a function may name
OPTIONAL = {
    "cryptography", "setproctitle", "tblib", "pydantic", "redis", "sqlalchemy", "django", "gevent",
    "eventlet", "yaml", "msgpack", "ephem", "pymongo", "boto3", "pymemcache", "IPython", "bpython",
    "zstandard", "asgiref", "hiredis",
}  # fmt: skip


def step_of(name: str) -> int:
    below = name.partition(".")[2]
    first = below.split(".")[0]
    for step, prefixes in STAIRS.items():
        if first in prefixes:
            return step
    raise AssertionError(f"{name} stands on no step: add it to the stairs on purpose")


def own_imports(module: house.Module) -> list[house.Import]:
    return [i for i in module.imports if i.target.partition(".")[0] == "taskq"]


def test_every_module_stands_on_a_step() -> None:
    for name in house.modules():
        if name != "taskq":
            step_of(name)


def test_imports_walk_downstairs() -> None:
    wrong = [
        f"{name}:{i.line} (step {step_of(name)}) imports {i.target} (step {step_of(i.target)})"
        for name, module in house.modules().items()
        if name != "taskq"
        for i in own_imports(module)
        if i.target != "taskq" and step_of(i.target) > step_of(name)
    ]
    assert wrong == []


def test_nothing_inside_imports_the_package_root() -> None:
    wrong = [
        f"{name}:{i.line}"
        for name, module in house.modules().items()
        for i in own_imports(module)
        if i.target == "taskq"
    ]
    assert wrong == []


def test_no_circles_and_few_levels() -> None:
    graph = {
        name: {i.target for i in own_imports(module)} - {name, "taskq"}
        for name, module in house.modules().items()
        if name != "taskq"
    }
    level: dict[str, int] = {}

    def level_of(name: str, path: tuple[str, ...]) -> int:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in level:
            below = [level_of(other, (*path, name)) for other in sorted(graph[name])]
            level[name] = 1 + max(below, default=0)
        return level[name]

    for name in graph:
        level_of(name, ())
    assert max(level.values()) <= MAX_LEVELS, sorted(level.items(), key=lambda kv: kv[1])[-5:]


#: longest chain of imports, module by module
MAX_LEVELS = 18


def test_an_import_inside_a_function_is_an_optional_package() -> None:
    wrong = [
        f"{name}:{i.line} {i.target}"
        for name, module in house.modules().items()
        for i in module.imports
        if i.in_function and i.target.partition(".")[0] not in OPTIONAL
    ]
    assert wrong == []


def test_ground_knows_only_its_libraries() -> None:
    wrong = [
        f"{name}:{i.line} {i.target}"
        for name, module in house.modules().items()
        if name != "taskq" and step_of(name) == 1
        for i in module.imports
        if not i.in_function
        and not house.is_standard_library(i.target)
        and i.target.partition(".")[0] not in GROUND_MAY_IMPORT | {"taskq"}
    ]
    assert wrong == []


def test_one_place_opens_sqlite() -> None:
    users = {
        name
        for name, module in house.modules().items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and (getattr(node, "attr", None) or getattr(node, "id", None)) == "connect"
        and "sqlite3" in ast.unparse(node)
    }
    assert users == {"taskq.utils.sqlite"}


def test_a_file_has_one_noun_in_it() -> None:
    sizes = {name: module.lines for name, module in house.modules().items()}
    assert {name: n for name, n in sizes.items() if n > 500} == {}
    assert statistics.median(sizes.values()) <= 220
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= 430


def test_functions_are_short_and_flat() -> None:
    rows = [
        (f"{name}.{node.name}", house.function_lines(node), house.nesting(node))
        for name, module in house.modules().items()
        for node in house.functions(module)
    ]
    assert [(name, lines) for name, lines, _ in rows if lines > 60] == []
    assert [(name, deep) for name, _, deep in rows if deep > 4] == []
    lengths = [lines for _, lines, _ in rows]
    assert statistics.median(lengths) <= 7
    assert statistics.quantiles(lengths, n=10)[-1] <= 25


def test_broad_except_only_at_the_edges() -> None:
    found = sorted({
        name
        for name, module in house.modules().items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    })
    assert found == sorted(EDGES), "a broad except stands only where EDGES says why"


#: module -> why it may catch everything
EDGES: dict[str, str] = {
    "taskq.app.models": "a user's model may raise anything while it is tried; it is sent as it is",
    "taskq.app.retry": "whatever keeps a retry from being sent, its first message is rejected",
    "taskq.app.trace": "the tracer's edge, and its dispatch of hooks",
    "taskq.backends.awaiting": "the thread's edge: who awaits a result is told what broke",
    "taskq.backends.documents": "a result may raise anything while written; kombu says what",
    "taskq.backends.error_coding": "the constructor of a user's exception may raise anything",
    "taskq.backends.marking": "errbacks are hooks; a store judges its own errors before a retry",
    "taskq.backends.redis_reader": "the thread's edge: who waits for a result is told what broke",
    "taskq.backends.rpc_mailbox": "a dead connection fails in any way when taken apart",
    "taskq.bin.main": "importing the user's application may raise anything; it is shown",
    "taskq.bootsteps": "a user's step that fails to stop must not keep the others from stopping",
    "taskq.concurrency.base": "what ends a run without being an error is reported as a lost worker",
    "taskq.concurrency.event_loop": "errors of a coroutine are handed over, not the loop's",
    "taskq.concurrency.heritage": "pickling an application may run the user's code",
    "taskq.concurrency.job": "callbacks are hooks: one job's must not stop the pool",
    "taskq.concurrency.process_answers": "unpickling an answer may run the user's code",
    "taskq.concurrency.process_child": "the child's edge: a job's errors are answers",
    "taskq.concurrency.process_pool": "pickling a job may run the user's code; the thread's loop",
    "taskq.concurrency.thread": "the edge of a thread: a job's errors are answers",
    "taskq.transports.redis_line": "a half-read reply must not stay on the line",
    "taskq.utils.producer": "a user's serializer may raise anything; it becomes an EncodeError",
    "taskq.utils.serialization": "users' exception classes raise anything while made or pickled",
    "taskq.utils.signalling": "hook dispatch",
    "taskq.utils.threads": "the loop of a background thread",
    "taskq.utils.timer2": "the loop of the timer thread",
    "taskq.worker.consumer.broker_link": "a dead connection fails in any way when taken apart",
    "taskq.worker.consumer.consumer": "the loop's edge: operations that were asked for",
    "taskq.worker.consumer.delivery": "the delivery's edge: a bad message must not stop a worker",
    "taskq.worker.loops": "the loop's edge",
    "taskq.worker.persistence": "a damaged file makes any part of dbm or pickle stumble; said so",
    "taskq.worker.pidbox": "control commands are hooks; one that fails is answered and logged",
    "taskq.worker.request": "a task's hook, called in the lost child's place",
    "taskq.worker.worker": "the loop's edge: messages go back before the process ends",
}

