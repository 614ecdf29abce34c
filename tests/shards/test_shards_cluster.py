"""Clusters for real: two Ray nodes, a Dask scheduler with its workers, one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conversion_runs import command, run, visible_files
from voc_on_disk import VocRoot

from vocdist.errors import UserError
from vocdist.shards.engine import run_tasks

IMAGES = 120
# Shards of one sample: there is always one more to be killed before.
SMALL = "samples_per_shard=1"
PATIENCE_S = 240


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return VocRoot(tmp_path_factory.mktemp("cluster") / "voc").fill(IMAGES).path


@pytest.fixture(scope="module")
def local(root, tmp_path_factory, hashes) -> dict[str, str]:
    """What this machine alone makes of it."""
    output = tmp_path_factory.mktemp("local") / "test"
    done = run(root, output, SMALL, "workers=1")
    assert done.returncode == 0, done.stderr
    return hashes(output)


@pytest.fixture(scope="module")
def two_ray_nodes() -> Iterator[dict[str, str]]:
    """Environment that leads to a Ray cluster of two nodes with a CPU each."""
    pytest.importorskip("ray", reason="pip install 'vocdist[ray]'")
    # A process of its own: what Ray starts in threads and warns of is not this test's.
    code = (
        "from ray.cluster_utils import Cluster\n"
        "node = {'num_cpus': 1, 'include_dashboard': False}\n"
        "cluster = Cluster(initialize_head=True, head_node_args=node)\n"
        "cluster.add_node(num_cpus=1)\n"
        "cluster.wait_for_nodes()\n"
        "print('address', cluster.address, flush=True)\n"
        "input()\n"
        "cluster.shutdown()\n"
    )
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as holder:
        lines = iter(holder.stdout.readline, "")
        address = next(line.split()[1] for line in lines if line.startswith("address"))
        yield environment | {"RAY_ADDRESS": address}
        holder.communicate("\n")


@pytest.fixture(scope="module")
def two_dask_workers(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment that leads to a Dask scheduler with two workers, processes of their own."""
    pytest.importorskip("distributed", reason="pip install 'vocdist[dask]'")
    folder = tmp_path_factory.mktemp("dask")
    file = ["--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"]
    worker = ["worker", *file, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in (["scheduler", *file, "--port", "0"], worker, worker)
    ]
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "scheduler.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    address = json.loads((folder / "scheduler.json").read_text())["address"]
    yield os.environ | {"DASK_SCHEDULER_ADDRESS": address}
    for process in processes:
        process.kill()
        process.wait()


def processes_named(word: str) -> dict[int, int]:
    """Pid -> pid of the parent, for processes with a word in their command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_text():
                found[int(folder.name)] = int(
                    (folder / "stat").read_text().split(")")[1].split()[1]
                )
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def convert_while_a_worker_is_killed(root, output, engine, environment, worker):
    """Start a conversion, SIGKILL one of its two workers half way: (exit status, stderr)."""
    process = subprocess.Popen(
        command(root, output, SMALL, "workers=2", f"engine={engine}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    while process.poll() is None and len(visible_files(output)) < IMAGES // 2:
        time.sleep(0.01)
    workers = processes_named(worker)
    assert process.poll() is None and len(workers) == 2, workers
    os.kill(min(workers), signal.SIGKILL)
    assert len(visible_files(output)) < 2 * IMAGES, "the run was over before the worker was killed"
    _, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stderr, workers


@pytest.mark.slow
def test_ray_redoes_the_work_of_a_killed_worker(root, two_ray_nodes, local, tmp_path, hashes):
    output = tmp_path / "test"
    returned, stderr, workers = convert_while_a_worker_is_killed(
        root, output, "ray", two_ray_nodes, "ray::PoolActor"
    )
    assert returned == 0, stderr
    assert len(set(workers.values())) == 2, "both nodes are at work"
    assert hashes(output) == local


@pytest.mark.slow
def test_dask_redoes_the_work_of_a_killed_worker(root, two_dask_workers, local, tmp_path, hashes):
    output = tmp_path / "test"
    returned, stderr, workers = convert_while_a_worker_is_killed(
        root, output, "dask", two_dask_workers, "dask\0worker"
    )
    assert returned == 0, stderr
    assert hashes(output) == local


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_killed_with_its_own_cluster_and_run_again(root, local, tmp_path, hashes, engine):
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    output = tmp_path / "test"
    words = command(root, output, SMALL, "workers=2", f"engine={engine}")
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS",)}
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    while process.poll() is None and len(visible_files(output)) < IMAGES // 2:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    # On another engine: the bytes are the same.
    done = run(root, output, SMALL, "workers=2")
    assert done.returncode == 0, done.stderr
    assert hashes(output) == local


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_what_is_wrong_with_the_data_is_one_line_here_too(voc_root, tmp_path, request, engine):
    fixture = {"ray": "two_ray_nodes", "dask": "two_dask_workers"}[engine]
    environment = request.getfixturevalue(fixture)
    voc_root.fill(4)
    image = voc_root.path / "JPEGImages/2007_000002.jpg"
    image.write_bytes(image.read_bytes()[:300])
    done = run(
        voc_root.path,
        tmp_path / "out",
        f"engine={engine}",
        "workers=2",
        "strict=true",
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JPEGImages/2007_000002.jpg: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("engine", "variable", "address"),
    [
        ("ray", "RAY_ADDRESS", "127.0.0.1:9"),
        ("dask", "DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9"),
    ],
)
@pytest.mark.slow
def test_a_cluster_that_is_not_there(small_root, tmp_path, engine, variable, address):
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    environment = os.environ | {
        variable: address,
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s",
    }
    done = run(small_root, tmp_path / "out", f"engine={engine}", "workers=2", env=environment)
    assert done.returncode == 2
    assert "its cluster cannot be reached" in done.stderr
    assert f"check {variable}={address}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed(monkeypatch, engine, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'vocdist\[{engine}\]'"):
        next(run_tasks(abs, [(-1,)], workers=2, engine=engine))
