"""Mining on a Ray cluster: machines are lost, the driver is killed, the bytes are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command import ROOT
from test_mine_into import contents, mined, sound, tiny

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray")
soundfile = pytest.importorskip("soundfile")

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent


def slow():
    """A worker that takes half a second for each shard, so that there is time for a kill."""
    from deconv1d.mining.shards import Miner

    if not hasattr(Miner, "quick"):
        Miner.quick = Miner.__call__
        Miner.__call__ = lambda self, task: (time.sleep(0.5), self.quick(task))[1]
    return tiny()


def mined_slowly(out, data):
    from deconv1d.mining.run import mine_into

    options = {"batch": 2, "shard_clips": 8, "executor": "ray", "workers": 2}
    return mine_into(out, [str(data)], slow, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number in range(60):
        length = (300, 300, 411)[number % 3]
        soundfile.write(root / f"{number:02d}.wav", sound(number, length), 1000)
    return root


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    paths = f"{TESTS}{os.pathsep}{ROOT}"
    monkeypatch.setenv("PYTHONPATH", paths)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_is_killed_does_not_change_the_bytes(folder, cluster, tmp_path):
    mined(tmp_path / "serial", folder)
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    shards, killed = tmp_path / "ray" / "shards", []

    def kill():
        for _ in range(6000):
            if shards.exists() and len(list(shards.glob("*.parquet"))) >= 2:
                cluster.remove_node(second, allow_graceful=False)
                killed.append(len(list(shards.glob("*.parquet"))))
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    mined_slowly(tmp_path / "ray", folder)
    killer.join()
    assert killed
    assert killed[0] < 8
    assert contents(tmp_path / "ray") == contents(tmp_path / "serial")


DRIVER = """
import sys, time
import ray
ray.init(address={address!r}, log_to_driver=False)
from test_mine_ray import mined_slowly
mined_slowly({out!r}, {data!r})
"""


def test_a_driver_that_is_killed_goes_on_with_the_missing_shards(
    folder, cluster, tmp_path, monkeypatch
):
    from deconv1d.mining import work

    mined(tmp_path / "serial", folder)
    out = tmp_path / "ray"
    code = DRIVER.format(address=cluster.address, out=str(out), data=str(folder))
    driver = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(out.glob("shards/*.parquet"))) < 3:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {path.name for path in out.glob("shards/*.parquet")}
    assert 3 <= len(before) < 8
    ray.init(address=cluster.address, log_to_driver=False)
    written, write = [], work.write_whole
    monkeypatch.setattr(
        work, "write_whole", lambda path, c: (written.append(Path(path).name), write(path, c))
    )
    mined_slowly(out, folder)
    again = {name for name in written if name.endswith(".parquet")}
    assert again == {f"{n:06d}.parquet" for n in range(8)} - before
    assert contents(out) == contents(tmp_path / "serial")
