import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator

from vocdist.data.batch import Batch
from vocdist.distributed.agreement import Agreement, StopAgreed
from vocdist.distributed.preemption import SIGNALS, StopRequest

signals = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


def endless() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


@signals
def test_a_signal_ends_the_items_and_not_the_process(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    seen = []
    with StopRequest(has_peers=False) as stop:
        for item in stop.until_requested(endless()):
            seen.append(item)
            if item == 3:
                signal.raise_signal(number)
                assert stop.requested
        assert (seen, stop.reason) == ([0, 1, 2, 3], number.name)
        # Handlers stay for one who is leaving: a launcher's next signal must not kill the save.
        signal.raise_signal(number)
    signal.signal(number, before)


def test_unasked_it_leaves_no_trace() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest(has_peers=False) as stop:
        assert list(stop.until_requested(iter([1, 2]))) == [1, 2]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not stop.requested


WAITING = """
import os, sys, threading, time
from vocdist.errors import leave
from vocdist.distributed.preemption import StopRequest

def slow():
    {waits}
    yield 1

with StopRequest(has_peers={has_peers}) as stop:
    print("ready", flush=True)
    for _ in stop.until_requested(slow()):
        pass
    print(stop.reason, flush=True)
    {then}
    leave(7)
"""


def waiting(waits: str, *, then: str = "", has_peers: bool = False) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(waits=waits, then=then, has_peers=has_peers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The shortest patience there is: a second.
        env={**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"},
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    return process


@pytest.mark.parametrize(
    "waits",
    [
        "time.sleep(600)",
        "os.read(os.pipe()[0], 1)",  # as of a disk that does not answer
        "threading.Event().wait()",
        # One destructor or another swallows any exception that is raised in it.
        "type('Slow', (), {'__del__': lambda self: time.sleep(600)})(); time.sleep(600)",
    ],
    ids=["sleep", "read", "lock", "destructor"],
)
def test_a_wait_for_data_is_broken_off(waits: str) -> None:
    process = waiting(waits)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (7, "SIGTERM\n"), errors


def test_peers_that_do_not_answer_are_not_waited_for_forever() -> None:
    process = waiting("yield 0", then="time.sleep(600)", has_peers=True)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 69
    assert "the other processes did not answer" in errors


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_who_presses_ctrl_c_twice_means_it(second: signal.Signals) -> None:
    process = waiting("yield 0", then="time.sleep(600)")
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(second)  # torchrun's second is a SIGTERM
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "interrupted twice" in errors


def batch(*, ends_step: bool) -> Batch:
    return Batch(
        inputs=(torch.zeros(1, 3, 1, 1),),
        size=(1, 1),
        targets={},
        indices=torch.zeros(1),
        weights=torch.ones(1),
        seeds=torch.zeros(1),
        ends_step=ends_step,
        step_samples=1,
    )


def test_a_stop_is_obeyed_before_the_last_part_of_a_step() -> None:
    stop = StopRequest(has_peers=False)
    agreement = Agreement(Accelerator(cpu=True), stop, timeout_s=1)
    parts = [batch(ends_step=last) for last in (False, True, False, True)]
    seen = 0
    with pytest.raises(StopAgreed):
        for part in agreement.training(iter(parts), steps=2):
            seen += 1
            assert part is parts[seen - 1]
            if seen == 3:
                stop.request("a test")
    assert seen == 3
    stop = StopRequest(has_peers=False)
    agreement = Agreement(Accelerator(cpu=True), stop, timeout_s=1)
    assert list(agreement.training(iter(parts), steps=2)) == parts
    assert list(agreement.evaluation(iter(parts))) == parts
