"""One file, many threads and processes: utils/sqlite.py."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from contract.processes import Forked
from kombu.exceptions import OperationalError

from taskq.exceptions import ImproperlyConfigured
from taskq.utils import sqlite as sqlite_connections
from taskq.utils import sqlite_location
from taskq.utils.sqlite import (
    Database,
    DatabaseFull,
    DatabaseLocked,
    DatabaseUnusable,
    Location,
    open_database,
    parse_url,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

STEPS = (("CREATE TABLE n (value INTEGER)",),)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = open_database(f"sqlite:///{tmp_path}/test.db")
    database.require("numbers", STEPS)
    return database


def add(connection: sqlite3.Connection, value: int) -> None:
    connection.execute("INSERT INTO n VALUES (?)", (value,))


def count_from_outside(path: str) -> int:
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
    code += "print(c.execute('SELECT count(*) FROM n').fetchone()[0])"
    return int(subprocess.check_output([sys.executable, "-c", code, path]))


# -- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///taskq.db", Location("/here/taskq.db")),
        ("sqlite:///a/b%20c.db", Location("/here/a/b c.db")),
        ("sqlite:////var/q.db", Location("/var/q.db")),
        ("sqlite:////q.db?synchronous=full&timeout=1.5", Location("/q.db", "FULL", 1.5)),
    ],
)
def test_urls(url: str, expected: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://taskq.db", "did you mean 'sqlite:///taskq.db'"),
        ("sqlite://", "did you mean 'sqlite:///taskq.db'"),
        ("sqlite:///", "names no file"),
        ("sqlite:///dir/", "names no file"),
        ("sqlite:///:memory:", "use memory://"),
        ("sqlite:///a.db?synchronos=FULL", "did you mean 'synchronous'"),
        ("sqlite:///a.db?synchronous=OFF", "expected NORMAL or FULL, got 'OFF'"),
        ("sqlite:///a.db?timeout=soon", "expected seconds .*, got 'soon'"),
    ],
)
def test_wrong_urls_teach(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        parse_url(url)


# -- the file


def test_only_the_owner_may_read_a_new_file(database: Database) -> None:
    assert os.stat(database.path).st_mode & 0o777 == 0o600
    assert os.stat(database.path + "-wal").st_mode & 0o777 == 0o600


def test_an_existing_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch(0o640)
    path.chmod(0o640)
    open_database(f"sqlite:///{path}").require("numbers", STEPS)
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match=f"no directory {tmp_path}/none; create it"):
        open_database(f"sqlite:///{tmp_path}/none/a.db").read("SELECT 1")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="is a directory"):
        open_database(f"sqlite:///{tmp_path}").read("SELECT 1")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(DatabaseUnusable, match=r"a\.txt is not a usable SQLite database") as raised:
        open_database(f"sqlite:///{path}").require("numbers", STEPS)
    assert isinstance(raised.value, OperationalError)
    assert path.read_text() == "Dear diary, " * 100


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr(sqlite_location, "MOUNTS", str(mounts))
    with pytest.raises(DatabaseUnusable, match=r"network file system \(nfs4\).*redis://"):
        open_database(f"sqlite:///{tmp_path}/a.db").read("SELECT 1")


def test_the_deepest_mount_counts(tmp_path: Path) -> None:
    mounts = f"a / ext4 x\nb {tmp_path} nfs x\nc {tmp_path}/deep\\040er xfs x\nd /tm tmpfs x\n"
    find = sqlite_location.find_file_system
    assert find(f"{tmp_path}/a.db", mounts) == "nfs"
    assert find(f"{tmp_path}/deep er/a.db", mounts) == "xfs"
    assert find("/tmpx/a.db", mounts) == "ext4"


def test_a_locked_file(database: Database) -> None:
    database = open_database(f"sqlite:///{database.path}?timeout=0.1")
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseLocked, match=r"test.db.*locked for 0.1 s.*\?timeout="):
        database.write(add, 1)
    with pytest.raises(DatabaseLocked, match=r"test.db.*locked for 0.1 s.*\?timeout="):
        database.write_one("INSERT INTO n VALUES (?)", (1,))
    # Reading goes on.
    assert database.read("SELECT count(*) FROM n") == [(0,)]
    holder.execute("ROLLBACK")
    holder.close()
    database.write(add, 1)
    database.write_one("INSERT INTO n VALUES (?)", (2,))
    assert count_from_outside(database.path) == 2


def test_a_single_statement_that_fails_changes_nothing(database: Database) -> None:
    database.write(lambda connection: connection.execute("CREATE UNIQUE INDEX u ON n (value)"))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        database.write_one("INSERT INTO n VALUES (1), (2), (1)", ())
    assert count_from_outside(database.path) == 0
    database.write(add, 1)


def test_a_full_file_stores_nothing_of_a_change(database: Database) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 10")
        add(connection, 1)
        connection.execute("INSERT INTO n VALUES (zeroblob(1000000))")

    with pytest.raises(DatabaseFull, match=r"test.db: there was no room to write .*free some"):
        database.write(fill)
    assert database.read("SELECT count(*) FROM n") == [(0,)]


def test_a_failed_change_is_rolled_back(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        add(connection, 1)
        raise KeyError("x")

    with pytest.raises(KeyError):
        database.write(fail)
    assert database.read("SELECT count(*) FROM n") == [(0,)]


def test_tables_made_by_a_newer_taskq_are_left_alone(database: Database, tmp_path: Path) -> None:
    database.write(lambda connection: connection.execute("UPDATE taskq_schema SET version = 7"))
    again = Database(Location(database.path))
    with pytest.raises(DatabaseUnusable, match="version 7, this taskq knows up to 1"):
        again.require("numbers", STEPS)


def test_later_steps_run_once(database: Database) -> None:
    again = Database(database.location)
    again.require("numbers", (*STEPS, ("ALTER TABLE n ADD COLUMN more TEXT",)))
    again.require("numbers", (*STEPS, ("ALTER TABLE n ADD COLUMN more TEXT",)))
    assert again.read("SELECT version FROM taskq_schema") == [(2,)]


def test_a_file_removed_under_us_is_made_anew(database: Database) -> None:
    database.write(add, 1)
    for suffix in ("", "-wal", "-shm"):
        os.unlink(database.path + suffix)
    database.write(add, 2)
    assert count_from_outside(database.path) == 1


# -- threads and forks


def test_threads_write_at_the_same_time(database: Database) -> None:
    def work() -> None:
        for _ in range(50):
            database.write(add, 1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_from_outside(database.path) == 300


def test_data_version_shows_others_writes(database: Database) -> None:
    version = database.data_version()
    assert database.data_version() == version
    thread = threading.Thread(target=database.write, args=(add, 1))
    thread.start()
    thread.join()
    assert database.data_version() != version


def test_data_version_changes_with_the_connection(database: Database) -> None:
    version = database.data_version()
    database.close()
    assert database.data_version() != version


def open_files(path: str) -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(path):
            found.append(target)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_connection_is_open_across_a_fork(database: Database) -> None:
    database.write(add, 1)
    assert open_files(database.path)

    def look(tell: object) -> None:
        tell(open_files(database.path))  # type: ignore[operator]

    with Forked(look) as child:
        assert child.hear() == []
    assert database.read("SELECT count(*) FROM n") == [(1,)]


def test_rows_survive_forks_in_the_middle_of_everything(database: Database) -> None:
    stop = threading.Event()
    added = 0

    def add_slowly(connection: sqlite3.Connection) -> None:
        cursor = connection.execute("SELECT value FROM n")
        cursor.fetchone()  # left open until the end of the change
        for value in range(5):
            add(connection, value)

    def keep_busy() -> None:
        nonlocal added
        while not stop.is_set():
            database.write(add_slowly)
            database.write_one("INSERT INTO n VALUES (?)", (5,))
            added += 6

    def work_in_child(tell: object) -> None:
        for _ in range(10):
            database.write(add, 2)
            database.write_one("INSERT INTO n VALUES (?)", (2,))
        tell(20)  # type: ignore[operator]

    database.write(add, 0)
    busy = threading.Thread(target=keep_busy)
    busy.start()
    forked = 0
    for _ in range(5):
        with Forked(work_in_child) as child:
            database.write(add, 1)
            database.close()
            forked += child.hear() + 1
            assert child.join() == 0
    stop.set()
    busy.join()
    database.close()
    assert count_from_outside(database.path) == 1 + added + forked


def test_forks_do_not_miss_connections_of_ending_threads(database: Database) -> None:
    stop = threading.Event()
    added: list[int] = []

    def add_one() -> None:
        database.write(add, 1)
        added.append(1)

    def start_threads() -> None:
        while not stop.is_set():
            threads = [threading.Thread(target=add_one) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def work_in_child(tell: object) -> None:
        found = open_files(database.path) if sys.platform == "linux" else []
        database.write(add, 2)
        tell(found)  # type: ignore[operator]

    starter = threading.Thread(target=start_threads)
    starter.start()
    try:
        for _ in range(20):
            with Forked(work_in_child) as child:
                assert child.hear() == []
                assert child.join() == 0
    finally:
        stop.set()
        starter.join()
    database.close()
    assert count_from_outside(database.path) == len(added) + 20
    gc.collect()
    assert len([handle for handle in sqlite_connections._handles if handle.connection]) == 0


class _Interrupt(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals")
def test_an_exception_of_a_signal_leaves_no_transaction_open(database: Database) -> None:
    def interrupt(*args: object) -> None:
        raise _Interrupt

    outside = sqlite3.connect(database.path, isolation_level=None, timeout=0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(150):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + number * 0.00001)
                while True:
                    database.write(add, 1)
            except _Interrupt:
                pass
            outside.execute("BEGIN IMMEDIATE")
            outside.execute("ROLLBACK")
    finally:
        signal.signal(signal.SIGALRM, before)
        outside.close()


def test_a_part_is_added_while_another_thread_opens(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.require("one", (("CREATE TABLE one (n)",),))
    migrate = sqlite_connections._migrate

    def add_a_part_meanwhile(*arguments: object) -> None:
        migrate(*arguments)
        database._parts["two"] = ()  # as the other thread's `require` ends

    monkeypatch.setattr(sqlite_connections, "_migrate", add_a_part_meanwhile)
    database.close()
    os.unlink(database.path)
    assert database.read("SELECT count(*) FROM one") == [(0,)]
