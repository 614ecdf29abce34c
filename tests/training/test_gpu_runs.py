"""Whole trainings on a GPU: killed and resumed, on another device, shared, over NCCL.

`share_card.py` runs on the CPU too, so that what it computes is held where there is no GPU.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from forked import free_port, run_script
from launch import REPO, Launched, environment, launch
from safetensors.torch import load_file
from torch import Tensor

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
on_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
on_either = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])

RUN = [
    "model.weights=none",
    "input.size=48",
    "train.epochs=3",
    "train.global_batch=6",
    "train.save_every=2",
    "train.log_every=1",
    "data.num_workers=0",
    "tracking.wandb=disabled",
]
LAUNCH = {"cuda": "one_gpu", "cpu": "one_cpu"}


def arguments(shards: Path, run: Path, device: str, *more: str) -> list[str]:
    return [f"data.shards={shards}", f"run.dir={run}", *RUN, f"runtime.device={device}", *more]


def train(shards: Path, run: Path, device: str, *more: str) -> str:
    done = launch(
        "train_classifier.py", *arguments(shards, run, device, *more), config=LAUNCH[device]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def train_and_kill(shards: Path, run: Path, device: str, rows: int, *more: str) -> None:
    started = Launched(
        "train_classifier.py", *arguments(shards, run, device, *more), config=LAUNCH[device]
    )
    metrics = run / "metrics.jsonl"
    started.wait_until(lambda: metrics.is_file() and len(metrics.read_bytes().splitlines()) >= rows)
    started.kill()
    started.end()


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model.safetensors")


@on_gpu
@pytest.mark.parametrize("graph", ["auto", "false"])
def test_killed_and_resumed_it_ends_with_the_same_bits(
    demo_shards: Path, tmp_path: Path, device: str, graph: str
) -> None:
    more = [f"runtime.cuda_graph={graph}", "runtime.deterministic=true"]
    train(demo_shards, tmp_path / "whole", device, *more)
    train_and_kill(demo_shards, tmp_path / "killed", device, 9, *more)
    assert "going on from" in train(demo_shards, tmp_path / "killed", device, *more)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(killed[name], value) for name, value in whole.items())


@on_gpu
@pytest.mark.parametrize("first", ["gpu", "cpu"])
def test_a_run_goes_on_on_another_device(
    demo_shards: Path, tmp_path: Path, device: str, first: str
) -> None:
    order = (device, "cpu") if first == "gpu" else ("cpu", device)
    train(demo_shards, tmp_path / "whole", order[0])
    train_and_kill(demo_shards, tmp_path / "moved", order[0], 9)
    assert "going on from" in train(demo_shards, tmp_path / "moved", order[1])
    whole, moved = weights(tmp_path / "whole"), weights(tmp_path / "moved")
    for name, value in whole.items():
        difference = (moved[name].float() - value.float()).norm()
        assert difference <= 0.05 * (value.float().norm() + 1), name


@on_gpu
def test_nccl_with_one_process_trains_as_no_process_group_does(
    demo_shards: Path, tmp_path: Path, device: str
) -> None:
    more = ["runtime.deterministic=true"]
    train(demo_shards, tmp_path / "plain", device, *more)
    script = REPO / "scripts" / "train_classifier.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    done = subprocess.run(
        [*torchrun, str(script), *arguments(demo_shards, tmp_path / "nccl", device, *more)],
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    plain, nccl = weights(tmp_path / "plain"), weights(tmp_path / "nccl")
    for name, value in plain.items():
        torch.testing.assert_close(nccl[name], value, rtol=1e-3, atol=1e-4, msg=name)


@on_either
def test_two_processes_share_a_device_over_gloo(tmp_path: Path, device: str) -> None:
    by_world = {}
    for world, graph in ((1, "false"), (2, str(device == "cuda").lower())):
        output = tmp_path / f"{world}.pt"
        script = Path(__file__).with_name("share_card.py")
        if device == "cpu":
            done = run_script(script, device, str(output), graph, world=world)
            assert done.returncode == 0, done.stderr
        else:  # what was forked may not use CUDA
            for process in started([str(script), device, str(output), graph], world):
                assert process.wait(300) == 0
        by_world[world] = torch.load(output, weights_only=True)
    (whole,), (one, other) = by_world[1], by_world[2]
    for name, value in whole.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-6, msg=name)


def started(arguments: Sequence[str], world: int) -> list["subprocess.Popen[bytes]"]:
    """A script on `world` processes that meet on this host."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = {**environment(), **meeting, "WORLD_SIZE": str(world)}
    shared["PYTHONPATH"] = os.pathsep.join(sys.path)
    return [
        subprocess.Popen([sys.executable, *arguments], env={**shared, "RANK": str(rank)})
        for rank in range(world)
    ]
