"""Worker processes end with the run that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MINING = """
from deconv1d.mining.executors import executor_of
from test_executors import Waiter
next(executor_of("process", Waiter, 1).run([{folder!r}]))
"""
STUDY = """
from multiprocessing import get_context
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from reference_models.run_all import _begin
from test_executors import wait
begin = (1, Path({folder!r}) / "log.txt")
ProcessPoolExecutor(1, get_context("spawn"), _begin, begin).submit(wait, {folder!r}).result()
"""


class Waiter:
    """A worker that is at its task for minutes."""

    def __call__(self, folder: str) -> None:
        wait(folder)


def wait(folder: str) -> None:
    """Says which process it is in, and stays there."""
    part = Path(folder) / "part"
    part.write_text(str(os.getpid()))
    part.rename(Path(folder) / "pid")
    time.sleep(600)


def is_alive(pid: int) -> bool:
    # Of a process that has ended and that nobody waited for, the state is Z.
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("program", [MINING, STUDY], ids=["mining", "study"])
def test_a_worker_does_not_outlive_a_killed_run(tmp_path, program):
    if program is STUDY:
        pytest.importorskip("pyarrow")
    script = tmp_path / "run.py"
    main = program.format(folder=str(tmp_path)).strip().replace("\n", "\n    ")
    script.write_text(f"if __name__ == '__main__':\n    {main}\n")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    run = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": paths})
    while not (tmp_path / "pid").exists():  # however busy the machine is
        assert run.poll() is None
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    assert is_alive(worker)
    run.send_signal(signal.SIGKILL)
    run.wait()
    ended = time.monotonic() + 60
    while is_alive(worker) and time.monotonic() < ended:
        time.sleep(0.05)
    alive = is_alive(worker)
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive
