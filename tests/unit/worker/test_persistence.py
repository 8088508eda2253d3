"""The file of revoked ids: read and written as Celery does, and a damaged one is explained."""

from __future__ import annotations

import dbm
import dbm.dumb
import logging
import os
import shelve
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.clocks import LamportClock

from taskq.exceptions import ImproperlyConfigured
from taskq.utils.collections import LimitedSet
from taskq.utils.serialization import pickle_loads
from taskq.worker import persistence
from taskq.worker.persistence import Persistent

#: As Celery 5.7.0 pickles it: its moments are seconds since the machine was started.
OF_CELERY = (
    b"ccelery.utils.collections\nLimitedSet\n"
    b"(I50000\nF10800.0\n(dVone\nF%f\nsVtwo\nF%f\nsI0\ntR."
)


def new_state() -> Any:
    return SimpleNamespace(revoked=LimitedSet(maxlen=50000, expires=10800))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "w.db")


def test_ids_and_the_clock_outlive_the_worker(path: str) -> None:
    state, clock = new_state(), LamportClock(7)
    first = Persistent(state, path, clock)
    revoked_at = time.time() - 0.5 * time.monotonic()
    state.revoked.add("a", now=revoked_at)
    state.revoked.add("b")
    first.save()

    state, clock = new_state(), LamportClock()
    state.revoked.add("b", now=1)
    state.revoked.add("c")
    Persistent(state, path, clock)
    assert set(state.revoked) == {"a", "b", "c"}
    assert clock.value > 7
    moments = state.revoked.as_dict()
    assert moments["a"] == pytest.approx(revoked_at, abs=1)
    # What is known here already stays as it is.
    assert moments["b"] == 1


def test_a_file_of_celery_is_read_and_what_we_write_is_such_a_file(path: str) -> None:
    since_start = time.monotonic()
    pickled = OF_CELERY % (since_start / 2, since_start + 10_000)
    with shelve.open(path, protocol=4) as shelf:
        shelf.update(zrevoked=zlib.compress(pickled), clock=22, __proto__=3)
    state, clock = new_state(), LamportClock()
    kept = Persistent(state, path, clock)
    moments = state.revoked.as_dict()
    assert moments["one"] == pytest.approx(time.time() - since_start / 2, abs=5)
    # A moment that has not come yet was before a reboot: no older than now.
    assert moments["two"] == pytest.approx(time.time(), abs=5)
    assert clock.value > 22

    kept.save()
    with shelve.open(path, "r", protocol=4) as shelf:
        assert (shelf["clock"] > 22, shelf["__proto__"]) == (True, 3)
        text = zlib.decompress(shelf["zrevoked"])
    assert b"celery.utils.collections:LimitedSet" in text
    assert b"taskq" not in text, "Celery is to read it where no taskq is"
    written = pickle_loads(text)
    assert written.as_dict()["one"] == pytest.approx(since_start / 2, abs=5)


def test_only_changes_are_saved(path: str) -> None:
    state = new_state()
    kept = Persistent(state, path)
    kept.save_changes()
    with dbm.open(path, "r") as db:
        assert b"zrevoked" not in db
    state.revoked.add("a")
    kept.save_changes()
    other = new_state()
    Persistent(other, path)
    assert list(other.revoked) == ["a"]


def test_nothing_is_forgotten_for_its_age_or_number(path: str) -> None:
    state = new_state()
    kept = Persistent(state, path)
    state.revoked.add("old", now=time.time() - 0.9 * time.monotonic())
    kept.save()
    other = SimpleNamespace(revoked=LimitedSet(maxlen=50000, expires=0.001))
    Persistent(other, path)
    assert list(other.revoked) == ["old"]


def test_the_file_does_not_grow_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "WASTE_BYTES", 4096)
    dbm.dumb.open(path, "c").close()
    state = new_state()
    kept = Persistent(state, path)
    for number in range(40):
        state.revoked.update(os.urandom(16).hex() for _ in range(20))
        kept.save()
        assert os.path.getsize(f"{path}.dat") < 4096 + 60_000, number
    other = new_state()
    Persistent(other, path)
    assert set(other.revoked) == set(state.revoked)


def _no_database(path: str) -> None:
    Path(path).write_text("garbage")


def _damaged_index(path: str) -> None:
    Path(f"{path}.dat").touch()
    Path(f"{path}.dir").write_text("garbage")


def _damaged_set(path: str) -> None:
    with shelve.open(path) as shelf:
        shelf["zrevoked"] = b"garbage"


def _foreign_object(path: str) -> None:
    with shelve.open(path) as shelf:
        shelf["clock"] = Path("x")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_no_database, "db type could not be determined"),
        (_damaged_index, "malformed node"),
        (_damaged_set, "incorrect header check"),
        (_foreign_object, "is not expected there"),
    ],
)
def test_a_file_that_cannot_be_read(path: str, damage: Any, why: str) -> None:
    damage(path)
    with pytest.raises(ImproperlyConfigured) as refused:
        Persistent(new_state(), path)
    said = str(refused.value)
    assert f"the state file {path!r} (--statedb, worker_state_db) cannot be read" in said
    assert why in said
    assert "move this one away" in said


def test_a_file_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be opened: No such file or directory"):
        Persistent(new_state(), str(tmp_path / "nowhere" / "w.db"))


def test_what_cannot_be_saved_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "away"
    folder.mkdir()
    state = new_state()
    kept = Persistent(state, str(folder / "w.db"))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    state.revoked.add("a")
    with caplog.at_level(logging.ERROR):
        kept.save_changes()
        kept.save_changes()
    assert caplog.text.count("Cannot save revoked ids") == 1
    folder.mkdir()
    kept.save_changes()
    other = new_state()
    Persistent(other, str(folder / "w.db"))
    assert list(other.revoked) == ["a"]
