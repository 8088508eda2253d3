"""What stays in memory and on disk when many tasks have passed through one file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from contract.chaos import Chaos

STATUS = Path("/proc/self/status")


def read_rss(pid: int) -> int:
    """Resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} says nothing of its memory")


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_fifty_thousand_tasks_leave_nothing(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        worker = chaos.start()
        sizes: list[dict[str, int]] = []
        memory: list[int] = []
        for start in range(0, 50_000, 1000):
            # Unread results are the user's choice; here they are not kept.
            chaos.send("early", range(start, start + 1000), ignore_result=True)
            chaos.wait_until(lambda: chaos.count_rows()["message"] == 0, "an empty queue")
            files = [chaos.path, tmp_path / "chaos.db-wal"]
            sizes.append({file.name: file.stat().st_size for file in files})
            memory.append(read_rss(worker.pid))
        chaos.end(worker)
        chaos.check_empty()
        print(
            f"after 5,000 and 50,000 tasks: {sizes[4]} and {sizes[-1]} bytes on disk, "
            f"{memory[4]:,} and {memory[-1]:,} in memory"
        )
        assert chaos.count_runs().total() == 50_000
    for name, most in (("chaos.db", 4_000_000), ("chaos.db-wal", 64_000_000)):
        assert max(size[name] for size in sizes) < most, sizes
    # It is copied back at 16 MB, and begun again from its start.
    assert min(size["chaos.db-wal"] for size in sizes[-10:]) < 20_000_000, sizes
    assert memory[-1] < memory[4] * 1.1 + 2_000_000


@pytest.mark.long
def test_expired_results_make_room(tmp_path: Path) -> None:
    with Chaos(tmp_path) as chaos:
        backend = chaos.app.backend
        backend.expires = backend.failure_expires = 0.5
        backend._next_cleanup = 0.0
        deadline = time.monotonic() + 10
        stored = 0
        while time.monotonic() < deadline:
            backend.store_result(f"id-{stored}", "x" * 500, "SUCCESS")
            stored += 1
            if stored % 500 == 0:
                # What the clock does every few minutes.
                backend._next_cleanup = 0.0
        rows = backend.database.read("SELECT count(*) FROM taskq_result")[0][0]
        size = chaos.path.stat().st_size
        print(f"stored {stored:,}, kept {rows:,}, {size:,} bytes on disk")
    assert rows < stored / 4
