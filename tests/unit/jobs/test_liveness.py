"""Locks of files end with the process that holds them, and with nothing else."""

import subprocess
import sys
from pathlib import Path

from dncbm.jobs.liveness import FileLocks, process_locked

_HOLD = """
import sys, multiprocessing, time
from pathlib import Path
from dncbm.jobs.liveness import FileLocks
locks = FileLocks(Path(sys.argv[1]))
assert locks.hold("a")
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


_TRY = """
import sys
from pathlib import Path
from dncbm.jobs.liveness import FileLocks, process_locked
assert not FileLocks(Path(sys.argv[1])).hold("a")
assert process_locked(Path(sys.argv[1]) / "a") is None
"""


def test_a_killed_holder_frees_its_lock_though_its_children_live(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    locks = FileLocks(tmp_path)
    with locks.claimed("a") as dead:
        assert not dead
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        assert Path(f"/proc/{child}").exists()
        with locks.claimed("a") as dead:
            assert dead
        assert not (tmp_path / "a").exists()
    finally:
        subprocess.run(["kill", "-9", str(child)], check=True)


def test_what_we_hold_ourselves_is_never_dead(tmp_path: Path) -> None:
    locks = FileLocks(tmp_path)
    assert locks.hold("a")
    with locks.claimed("a") as dead:
        assert not dead
    subprocess.run([sys.executable, "-c", _TRY, str(tmp_path)], check=True)
    locks.close()
    process_locked(tmp_path / "a").close()
