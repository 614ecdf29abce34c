"""What an RPN run finds, beside the rival script, a uniform grid and random boxes.

  python benchmarks/compare_rpn.py runs/rpn
  python benchmarks/compare_rpn.py runs/rpn --rival notebook_rpn.py --root VOC_ROOT --weights W.pth

The run is measured on its val split at each NMS threshold of --nms, by best IoU: recall at 0.5 and
AR (0.5 to 0.95). With --rival that script is trained and measured in the same run of this one, as
`RIVAL VOC_ROOT WEIGHTS OUT.json --train N --val M --epochs E`, on the same seeded split. The last
tables say which objects are missed: by size, class, and how crowded their image is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vocdist.metrics.proposals import LARGE_AREA, SMALL_AREA
from vocdist.tasks.rpn import CURVE_COUNTS
from vocdist.training.evaluation import MeasuredRun, measure_run
from vocdist.training.loaders import build_reader

SHOWN = (100, 200, 300)
# Objects of an image that count as few, some and many.
CROWDS = ((1, 2), (3, 5), (6, 10**6))


def main() -> None:
    """Measure, train the rival where one is given, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--nms", type=float, nargs="+", default=[0.6, 0.65, 0.7, 0.75])
    parser.add_argument("--rival", type=Path, help="a script like the notebook's")
    parser.add_argument("--root", type=Path, help="the VOC root that the shards were made of")
    parser.add_argument("--weights", type=Path, help="weights for the rival's backbone")
    parser.add_argument("--epochs", type=int, default=3, help="of the rival")
    arguments = parser.parse_args()

    console = Console()
    table = Table(title=f"{arguments.run}: recall at IoU 0.5, and AR, by number of proposals")
    table.add_column("proposals of")
    for name in (*(f"R@{k}" for k in SHOWN), *(f"AR@{k}" for k in SHOWN)):
        table.add_column(name, justify="right")
    runs = {t: measure_run(arguments.run, [f"proposals.nms_threshold={t}"]) for t in arguments.nms}
    for threshold, run in runs.items():
        metrics = run.evaluation.metrics
        for label, suffix in (("all objects", ""), ("without difficult", "/without_difficult")):
            if f"AR@{SHOWN[0]}{suffix}" in metrics:
                table.add_row(f"this run, NMS {threshold:g}, {label}", *_row(metrics, suffix))
    for label, suffix in (("a uniform grid", "/grid"), ("random boxes", "/random")):
        table.add_row(label, *_row(metrics, suffix))
    if arguments.rival:
        samples = [len(build_reader(run.config, split)) for split in ("train", "val")]
        table.add_row(f"{arguments.rival.name}, NMS 0.7", *_rival(arguments, *samples))
    console.print(table)
    middle = sorted(runs)[len(runs) // 2]
    console.print(_misses(runs[middle], f"what 200 proposals miss at IoU 0.5, NMS {middle:g}"))


def _row(metrics: Mapping[str, float], suffix: str) -> list[str]:
    names = (*(f"recall50@{k}" for k in SHOWN), *(f"AR@{k}" for k in SHOWN))
    return [f"{metrics[name + suffix]:.3f}" for name in names]


def _rival(arguments: argparse.Namespace, train: int, val: int) -> list[str]:
    """Train and measure the rival, which prints as it goes."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "rival.json"
        counts = ["--train", str(train), "--val", str(val), "--epochs", str(arguments.epochs)]
        rival = arguments.rival.resolve()
        command = [
            sys.executable,
            str(rival),
            arguments.root.resolve(),
            arguments.weights.resolve(),
        ]
        subprocess.run([*command, output, *counts], check=True, cwd=rival.parent)
        recall = json.loads(output.read_text())["recall"]
    rows = [recall[f"thr0_{count}"] for count in SHOWN]
    return [f"{row[key]:.3f}" for key in ("recall50", "AR") for row in rows]


def _misses(run: MeasuredRun, title: str) -> Table:
    """Recall by what an object is."""
    records, annotations = run.evaluation.records, run.reader.annotations
    best = np.concatenate([np.asarray(r["best"])[:, CURVE_COUNTS.index(200)] for r in records])
    areas = np.concatenate([np.asarray(r["areas"]) for r in records])
    classes = np.concatenate([a.boxes[:, 0] for a in annotations])
    crowd = np.concatenate([np.full(len(a.boxes), len(a.boxes)) for a in annotations])
    difficult = np.concatenate([a.difficult for a in annotations])
    groups = {
        "small": areas < SMALL_AREA,
        "medium": (areas >= SMALL_AREA) & (areas < LARGE_AREA),
        "large": areas >= LARGE_AREA,
        "difficult": difficult,
        **{
            f"{low} to {high} objects" if high < 100 else f"{low} objects or more": (crowd >= low)
            & (crowd <= high)
            for low, high in CROWDS
        },
    }
    names = run.reader.manifest.classes
    of_class = {names[i]: classes == i for i in range(len(names)) if (classes == i).any()}
    hardest = sorted(of_class, key=lambda name: float((best[of_class[name]] >= 0.5).mean()))
    groups |= {name: of_class[name] for name in hardest}
    table = Table(title=title)
    for column in ("objects that are", "objects", "missed", "recall", "share of all misses"):
        table.add_column(column, justify="left" if column.startswith("objects that") else "right")
    missed = best < 0.5
    for name, members in groups.items():
        if members.any():
            count, lost = int(members.sum()), int(missed[members].sum())
            share = lost / max(1, int(missed.sum()))
            table.add_row(name, f"{count}", f"{lost}", f"{1 - lost / count:.3f}", f"{share:.0%}")
    return table


if __name__ == "__main__":
    main()
