"""Objects by name, in Celery's spelling and ours."""

from __future__ import annotations

import collections
import os
import sys
import types
from pathlib import Path

import pytest

import taskq.exceptions
from taskq.utils import imports
from taskq.utils.imports import NotAPackage, symbol_by_name


@pytest.mark.parametrize(
    "name",
    [
        "taskq.exceptions:Retry",
        "taskq.exceptions.Retry",
        "celery.exceptions:Retry",
        "celery.exceptions.Retry",
    ],
)
def test_both_spellings_mean_ours(name: str) -> None:
    known = "celery" in sys.modules
    assert symbol_by_name(name) is taskq.exceptions.Retry
    assert ("celery" in sys.modules) is known


def test_aliases_packages_and_things_that_are_no_names() -> None:
    assert symbol_by_name(dict) is dict
    assert symbol_by_name("short", {"short": "celery.exceptions:Retry"}) is taskq.exceptions.Retry
    assert symbol_by_name("celery.exceptions") is taskq.exceptions
    assert symbol_by_name("os:path") is os.path


def test_what_cannot_be_found_is_an_error_or_the_default() -> None:
    with pytest.raises(ModuleNotFoundError):
        symbol_by_name("no_such_module.x:Y")
    with pytest.raises(AttributeError):
        symbol_by_name("celery.exceptions:Nope")
    assert symbol_by_name("no_such_module.x:Y", default=5) == 5


def test_home_module_swaps_the_root_only() -> None:
    assert imports.home_module("celery") == "taskq"
    assert imports.home_module("celery.app.task") == "taskq.app.task"
    assert imports.home_module("celery_proj.tasks") == "celery_proj.tasks"
    assert imports.home_module("proj.celery") == "proj.celery"


def test_instantiate() -> None:
    made = imports.instantiate("collections:Counter", "aab")
    assert made == collections.Counter("aab")


def test_qualname() -> None:
    assert imports.qualname(Path) == f"{Path.__module__}.Path"
    assert imports.qualname(collections.Counter()) == "collections.Counter"


def test_a_plain_module_is_told_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(NotAPackage):
        imports.find_module("json.decoder.JSONDecoder")
    with pytest.raises(ModuleNotFoundError):
        imports.find_module("no_such_module")
    assert imports.find_module("xml.dom.minidom").__name__ == "xml.dom.minidom"


def test_the_working_directory_can_be_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_in_cwd.py").write_text("value = 1\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    module = imports.import_from_cwd("only_in_cwd")
    try:
        assert module.value == 1
        (tmp_path / "only_in_cwd.py").write_text("value = 22\n")
        assert imports.reload_from_cwd(module).value == 22
        assert imports.module_file(module) == str(tmp_path / "only_in_cwd.py")
        assert sys.path == path
    finally:
        del sys.modules["only_in_cwd"]


def test_a_removed_working_directory_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert imports.import_from_cwd("json").__name__ == "json"


def test_names_of_tasks() -> None:
    app = types.SimpleNamespace(main="proj")
    assert imports.gen_task_name(app, "add", "shop.tasks") == "shop.tasks.add"
    assert imports.gen_task_name(app, "add", "__main__") == "proj.add"
    assert (
        imports.gen_task_name(types.SimpleNamespace(main=None), "add", "__main__") == "__main__.add"
    )
    assert imports.gen_task_name(app, "add", None) == "proj.add"


def test_entry_points_of_both_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[celery.test_group]\nold = collections:Counter\nbad = no_such_module:X\n"
        "[taskq.test_group]\nnew = collections:OrderedDict\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert dict(imports.load_extension_class_names("celery.test_group")) == {
        "old": "collections:Counter",
        "bad": "no_such_module:X",
        "new": "collections:OrderedDict",
    }
    with pytest.warns(UserWarning, match="no_such_module:X"):
        loaded = dict(imports.load_extension_classes("celery.test_group"))
    assert loaded == {"old": collections.Counter, "new": collections.OrderedDict}
