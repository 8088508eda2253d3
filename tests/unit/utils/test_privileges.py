"""Users and groups by name, and what root may not do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from taskq.exceptions import SecurityError, SecurityWarning
from taskq.utils import privileges

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_users_and_groups_by_name_or_number() -> None:
    assert privileges.parse_uid("root") == privileges.parse_uid("0") == privileges.parse_uid(0) == 0
    assert privileges.parse_gid(0) == privileges.parse_gid("0") == 0
    with pytest.raises(KeyError, match="User does not exist: nobody-here"):
        privileges.parse_uid("nobody-here")
    with pytest.raises(KeyError, match="Group does not exist: nobody-here"):
        privileges.parse_gid("nobody-here")


@is_root
@pytest.mark.parametrize("accepted", ["pickle", "application/x-python-serialize"])
def test_root_may_not_accept_pickle(accepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    with pytest.raises(SecurityError, match="C_FORCE_ROOT"):
        privileges.check_privileges({"json", accepted})
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    with pytest.warns(SecurityWarning, match="superuser"):
        privileges.check_privileges({accepted})


@is_root
def test_root_is_warned() -> None:
    with pytest.warns(SecurityWarning, match="uid=0"):
        privileges.check_privileges(["json"])


@is_root
def test_privileges_are_dropped_for_good() -> None:
    code = (
        "import os; from taskq.utils.privileges import maybe_drop_privileges\n"
        "maybe_drop_privileges(uid='nobody')\n"
        "maybe_drop_privileges(uid='nobody')  # as the process in the background does again\n"
        "print(os.getuid() != 0, os.getgid() != 0, 0 in os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]
