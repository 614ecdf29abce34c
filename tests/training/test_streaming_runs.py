"""A training on shards behind http that do not fit into the cache, killed and started again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fault_server import FaultServer
from launch import REPO, command, environment
from safetensors.torch import load_file

from vocdist.shards.format import load_manifest

SETTINGS = [
    "model.weights=none",
    "input.size=32",
    "train.epochs=2",
    "train.global_batch=9",
    "train.save_every=1",
    "data.num_workers=1",
    "data.limit_val=4",
    "data.shuffle_shards=1",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(REPO / "scripts" / "train_classifier.py", *SETTINGS, *arguments),
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )


def saved_step(run: Path) -> int:
    last = run / "checkpoints" / "last"
    return int(last.read_text().strip()[5:]) if last.is_file() else 0


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_weights_of_local_shards(
    demo_shards: Path, tmp_path: Path
) -> None:
    sizes = sorted(s.bytes for s in load_manifest(demo_shards).splits["train"].shards)
    local, remote = tmp_path / "local", tmp_path / "remote"
    with FaultServer(demo_shards) as server:
        server.faults["train-000001.tar"] = ["503", "drop"]
        arguments = [
            f"data.shards={server.url}",
            f"run.dir={remote}",
            f"data.cache_dir={tmp_path / 'cache'}",
            f"data.cache_bytes={sum(sizes[1:])}",
        ]
        process = subprocess.Popen(
            command(REPO / "scripts" / "train_classifier.py", *SETTINGS, *arguments),
            cwd=REPO,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 900
        while saved_step(remote) < 2:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (remote / "results.json").exists()
        resumed = train(*arguments)
        assert resumed.returncode == 0, resumed.stderr
        assert "going on from" in resumed.stdout
        kept = [path.stat().st_size for path in (tmp_path / "cache").glob("shards/*/*.tar")]
        assert sum(kept) <= sum(sizes[1:])
    whole = train(f"data.shards={demo_shards}", f"run.dir={local}")
    assert whole.returncode == 0, whole.stderr
    ours = load_file(remote / "model.safetensors")
    theirs = load_file(local / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_server_that_stays_away_ends_the_run_with_one_line(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOCDIST_RETRY_SECONDS", "2")
    with FaultServer(demo_shards) as server:
        server.faults["train-000002.tar"] = ["503", "*"]
        done = train(
            "loss.pos_weight=none",
            f"data.shards={server.url}",
            f"run.dir={tmp_path / 'run'}",
            f"data.cache_dir={tmp_path / 'cache'}",
        )
    assert done.returncode != 0
    assert f"{server.url}/train-000002.tar: could not be reached for 2 s" in done.stderr
    assert "Traceback" not in done.stderr
