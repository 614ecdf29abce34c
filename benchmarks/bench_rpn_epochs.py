"""Images per second of an RPN's whole training: the notebook's script, ours, ours with a cache.

  python benchmarks/bench_rpn_epochs.py NOTEBOOK_SCRIPT VOC_ROOT WEIGHTS SHARDS

Each contender trains on the same number of images, in a process of its own; rounds take turns, so
that a busy spell of the machine hits all, and the best one counts:

  notebook               its decoding, backbone, anchors and step, image by image
  ours                   configs/rpn.yaml with features.cache=false
  ours, first epoch      configs/rpn.yaml: computing the features of both mirrorings, and an epoch
  ours, later epochs     an epoch on the cached features

Start-up, evaluation and pictures are left out of all. Other settings: --set section.key=value ...
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch
from apart import measured_apart
from rich.console import Console
from rich.table import Table

from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.data.workers import usable_cores
from vocdist.distributed.processes import build_accelerator
from vocdist.runs.tracking import NullTracker
from vocdist.training.modes.profile import build_bare_trainer

REPO = Path(__file__).parents[1]


def main() -> None:
    """Measure every contender, in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("notebook", "root", "weights", "shards"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--cached", choices=("yes", "no"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cached:
        print(json.dumps(ours(args, cached=args.cached == "yes")))
        return
    best: dict[str, float] = {}
    for _ in range(args.rounds):
        for found in (
            notebook(args),
            measured_apart("--cached", "no"),
            measured_apart("--cached", "yes"),
        ):
            for name, rate in found.items():
                best[name] = max(rate, best.get(name, 0.0))
    table = Table(title=f"{args.images} images, best of {args.rounds}", caption=_machine())
    for column in ("", "images/s", "of the notebook's"):
        table.add_column(column, justify="right" if column else "left")
    for name, rate in best.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / best['notebook']:.1f}")
    Console().print(table)


def notebook(args: argparse.Namespace) -> dict[str, float]:
    """Its script's own figure, of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.json"
        words = [args.notebook, args.root, args.weights, log]
        counts = ["--train", args.images, "--val", 1, "--epochs", 1]
        command = [sys.executable, *map(str, words), *map(str, counts)]
        subprocess.run(command, check=True, capture_output=True)
        return {"notebook": json.loads(log.read_text())["log"][0]["img_s"]}


def ours(args: argparse.Namespace, *, cached: bool) -> dict[str, float]:
    """Time the loop that `scripts/train_rpn.py` runs, on parts made as it makes them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"data.shards={args.shards}",
            f"data.limit_train={args.images}",
            "data.limit_val=1",
            f"data.num_workers={args.workers}",
            f"features.cache={cached}",
            f"features.folder={folder}/features",
            f"model.weights={args.weights}",
            "model.classifier=none",
            f"run.dir={folder}/run",
        ]
        config = load_config(RpnConfig, REPO / "configs" / "rpn.yaml", [*settings, *args.set])
        torch.set_num_threads(usable_cores())
        accelerator = build_accelerator(config.runtime)
        started = time.perf_counter()
        trainer = build_bare_trainer(config, accelerator, NullTracker())
        with closing(trainer):
            made = time.perf_counter()
            if not cached:
                trainer.train_epoch()
                return {"ours": args.images / (time.perf_counter() - made)}
            # Building the model counts as part of the first epoch: it is small beside the features.
            trainer.train_epoch()
            first = time.perf_counter()
            trainer.position = trainer.position.after_epoch(0.0)
            trainer.train_epoch()
            return {
                "ours, first epoch": args.images / (first - started),
                "ours, later epochs": args.images / (time.perf_counter() - first),
            }


def _machine() -> str:
    return f"{platform.machine()}, {usable_cores()} cores, torch {torch.__version__}, CPU"


if __name__ == "__main__":
    main()
