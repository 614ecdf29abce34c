"""Launched by test_tracking_restart.py: goes on with a run from a checkpoint, and is killed.

Arguments: run folder, step to go on from (-1 to begin), last step to log, `kill` or `finish`.
"""

import os
import signal
import sys
import time
from pathlib import Path

from vocdist.runs.tracking import METRICS, Tracker, drop_rows_after, remembered_run_id

STEPS_PER_EPOCH = 40
# Fat rows, so that some reach the file before a kill and some do not: it is written by 32 KiB.
WIDTH = 40


def rows(first: int, last: int) -> list[dict[str, float]]:
    """What a training would log: a row each step, another one each epoch."""
    made: list[dict[str, float]] = []
    for step in range(first, last + 1):
        values = {f"train/part{i}": 1 / (i + step) for i in range(WIDTH)}
        made.append({"global_step": step, "epoch": step / STEPS_PER_EPOCH, **values})
        if step % STEPS_PER_EPOCH == 0:
            epoch = step // STEPS_PER_EPOCH
            made.append({"global_step": step, "epoch": epoch, "val/mAP": 1 / epoch})
    return made


if __name__ == "__main__":
    run, start, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    run.mkdir(exist_ok=True)
    drop_rows_after(run / METRICS, start, start // STEPS_PER_EPOCH)
    known = remembered_run_id(run)
    with Tracker(run, mode="offline", project="p", config={}, run_id=known) as tracker:
        for row in rows(max(start, 0) + 1, last):
            tracker.log(row)
        if sys.argv[4] == "kill":
            time.sleep(0.3)  # some of it gets written
            os.kill(os.getpid(), signal.SIGKILL)
        print(tracker.location)
