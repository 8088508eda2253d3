"""From the setting result_backend to a class."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from taskq import Celery
from taskq.backends import lookup
from taskq.backends.base import BaseBackend, DisabledBackend
from taskq.backends.lookup import BACKEND_ALIASES, by_name, by_url
from taskq.backends.memory import MemoryBackend
from taskq.exceptions import ImproperlyConfigured, UnknownBackend


class OwnBackend(BaseBackend):
    """A user's own."""


class Loader:
    override_backends: dict[str, str] = {}


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        (None, DisabledBackend),
        ("", DisabledBackend),
        ("disabled", DisabledBackend),
        ("memory", MemoryBackend),
        ("celery.backends.memory:MemoryBackend", MemoryBackend),
        ("taskq.backends.memory:MemoryBackend", MemoryBackend),
        ("celery.backends.base.DisabledBackend", DisabledBackend),
        (OwnBackend, OwnBackend),
    ],
)
def test_names(loader: Any, name: Any, cls: Any) -> None:
    assert by_name(name, loader) is cls
    assert by_url(name, loader) == (cls, None)


@pytest.mark.parametrize(
    ("url", "cls", "rest"),
    [
        ("memory://", MemoryBackend, "memory://"),
        ("cache+memory://", MemoryBackend, "memory://"),
        ("disabled://", DisabledBackend, "disabled://"),
    ],
)
def test_urls(loader: Any, url: str, cls: Any, rest: str) -> None:
    assert by_url(url, loader) == (cls, rest)


def test_sqlite_is_embedded(loader: Any) -> None:
    cls, url = by_url("sqlite:///some/where.db", loader)
    assert (cls.__name__, url) == ("SQLiteBackend", "sqlite:///some/where.db")


@pytest.mark.parametrize("backend", ["redsi", "redsi://localhost"])
def test_a_misspelled_name_is_told(loader: Any, backend: str) -> None:
    with pytest.raises(UnknownBackend, match="'redsi'; did you mean 'redis'"):
        by_url(backend, loader)


@pytest.mark.parametrize(
    "backend",
    ["redis", "rpc://", "db+postgresql://u:secret@h/x", "file:///tmp", "mongodb://h", "riak"],
)
def test_a_backend_of_celery_that_is_not_here(
    loader: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "_is_here", lambda path: "memory" in path)
    with pytest.raises(ImproperlyConfigured, match="does not have") as info:
        by_url(backend, loader)
    assert "memory" in str(info.value)
    assert "secret" not in str(info.value)


def test_every_alias_is_here_or_says_that_it_is_not(loader: Any) -> None:
    for name in BACKEND_ALIASES:
        try:
            assert isinstance(by_name(name, loader), type)
        except ImproperlyConfigured as exc:
            assert name in str(exc)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("no.such.module:Backend", "No module named"),
        ("taskq.backends.memory:Nothing", "Nothing"),
        ("json", "is a Python module, not a backend class"),
    ],
)
def test_a_path_that_leads_nowhere(loader: Any, path: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="Unknown result backend") as info:
        by_name(path, loader)
    assert why in str(info.value)


def test_an_error_inside_a_users_module_is_shown_as_it_is(
    loader: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_backend_broken.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        by_name("own_backend_broken:Backend", loader)


def test_override_backends_win(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_backends")
    module.OwnBackend = OwnBackend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_backends", module)
    loader.override_backends = {"redis": "own_backends:OwnBackend"}
    assert by_url("redis://localhost", loader) == (OwnBackend, "redis://localhost")


def test_entry_points(loader: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "shop_backends-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-backends\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[celery.result_backends]\nshop = taskq.backends.memory:MemoryBackend\n"
        "[taskq.result_backends]\nshop2 = taskq.backends.base:DisabledBackend\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lookup, "_extensions", {})
    assert by_url("shop://x", loader) == (MemoryBackend, "shop://x")
    assert by_name("shop2", loader) is DisabledBackend


class TestDisabled:
    def test_is_what_celery_has_by_default(self) -> None:
        app = Celery("none", set_as_current=False)
        assert isinstance(app.backend, DisabledBackend)
        assert app.backend.as_uri() == "disabled://"

    def test_keeps_nothing_quietly(self) -> None:
        backend = Celery("none", set_as_current=False).backend
        backend.store_result("a", 1, "SUCCESS")
        backend.mark_as_done("a", 1)
        backend.mark_as_started("a")
        backend.mark_as_failure("a", ValueError())
        backend.cleanup()
        backend.process_cleanup()

    def test_but_says_so_when_asked(self) -> None:
        app = Celery("none", set_as_current=False)
        result = app.AsyncResult("a")
        for ask in (
            lambda: result.state,
            lambda: result.result,
            lambda: result.get(timeout=0.1),
            result.ready,
            lambda: app.GroupResult("g", [result]).get(timeout=0.1),
            lambda: app.GroupResult("g", [result]).save(),
        ):
            with pytest.raises(NotImplementedError, match="No result backend is configured"):
                ask()
        with pytest.raises(NotImplementedError, match="chords requires a result backend"):
            app.backend.ensure_chords_allowed()
