"""One process on each of two hosts: both train, and when one is gone the other says so and ends."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from launch import Launched
from run_files import rows_of, same_end, status_of
from two_hosts import FIRST, Cable, two_hosts, why_not

pytestmark = pytest.mark.slow

TIMEOUT_S = 15
# Of a busy machine: to notice, to write the status, to end the launcher.
ENDING_S = 120


@pytest.fixture
def hosts() -> Iterator[Cable]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with two_hosts() as cable:
        yield cable


def arguments(shards: Path, run: Path) -> list[str]:
    return [
        f"data.shards={shards}",
        f"run.dir={run}",
        "model.classifier=none",
        "model.weights=none",
        "model.strides=[32]",
        "model.scales=[[16, 32]]",
        "features.cache=false",
        "input.short_side=96",
        "input.long_side=128",
        "train.epochs=2",
        "train.global_batch=4",
        "train.log_every=1",
        "train.save_every=2",
        "data.num_workers=0",
        "tracking.wandb=disabled",
        "runtime.mixed_precision=fp32",
        f"runtime.collective_timeout_s={TIMEOUT_S}",
        "runtime.device=cpu",
    ]


def start(cable: Cable, shards: Path, run: Path) -> list[Launched]:
    return [
        Launched(
            "train_rpn.py",
            *arguments(shards, run),
            config="two_nodes",
            options=["--num_processes=2", f"--main_process_ip={FIRST}", f"--machine_rank={rank}"],
            before=["ip", "netns", "exec", host],
        )
        for rank, host in enumerate(cable.hosts)
    ]


@pytest.mark.parametrize("fate", ["cut off", "second killed", "first killed"])
def test_two_hosts_train_and_neither_waits_for_a_dead_one(
    fate: str, hosts: Cable, demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    both = start(hosts, demo_shards, run)
    both[0].wait_until(lambda: len(rows_of(run)) >= 5)
    killed = {"cut off": None, "second killed": both[1], "first killed": both[0]}[fate]
    if killed is None:
        hosts.cut()
    else:
        killed.kill()
    began = time.monotonic()
    for rank, host in enumerate(both):
        if host is killed:
            host.end()
            continue
        code, output = host.end(timeout_s=TIMEOUT_S + ENDING_S)
        print(f"{fate}: host {rank} ended {time.monotonic() - began:.1f} s later")
        assert code != 0
        told = f"error (rank {rank}): another process of this run has ended or does not"
        assert told in output, output
    assert status_of(run)["state"] == ("running" if fate == "first killed" else "lost")
    last = psutil.process_iter(["cmdline"])
    assert not [p for p in last if str(run) in " ".join(p.info["cmdline"] or [])]

    with two_hosts() as mended:
        again = start(mended, demo_shards, run)
        ends = [host.end(timeout_s=500) for host in again]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "going on from" in ends[0][1]
    whole = tmp_path / "whole"
    # On hosts as well: each of two processes on one machine would have half the threads.
    with two_hosts() as calm:
        ends = [host.end(timeout_s=500) for host in start(calm, demo_shards, whole)]
    assert [code for code, _ in ends] == [0, 0], ends
    same_end(run, whole)
