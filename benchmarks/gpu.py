"""All figures of one GPU in one command: at most six minutes, no network.

  python benchmarks/gpu.py --images FOLDER_OF_JPEGS --out FOLDER

Makes a data set of VOC2012's size by repeating the JPEGs (without --images: drawn ones), runs the
tests marked `gpu`, and measures, each beside its rivals: conversion, training steps of the
classifier and the RPN, both trainings from the command to report.html with their phases, peak
memory, and the notebook's loop. `gpu.json` and `gpu.md` are written anew after each phase, so that
they hold what was measured where the command is cut off; a phase that has no time left is said to
be left out. Without a GPU it says so, and runs all but the tests at a tiny size.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from gpu_data import jpegs_in, write_voc_tree

from vocdist.data.workers import usable_cores

REPO = Path(__file__).parents[1]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured: `FULL` on a GPU, `TINY` without."""

    train: int
    val: int
    batches: tuple[int, ...]
    rpn_batches: tuple[int, ...]
    size: int
    images: int
    notebook_s: float
    classifier: tuple[str, ...]
    rpn: tuple[str, ...]


FULL = Scale(
    13_700,
    3_425,
    (16, 256),
    (32, 8, 1),
    224,
    4096,
    8.0,
    (
        "train.global_batch=256",
        "train.eval_batch=256",
        "runtime.mixed_precision=bf16",
        "input.eval_aspects=[1.333,1.5,1.0,0.75,0.667]",
    ),
    (
        "train.global_batch=32",
        "train.eval_batch=32",
        "runtime.mixed_precision=bf16",
        "input.aspects=[1.333,1.5,1.0,0.75,0.667]",
    ),
)
TINY = Scale(
    12,
    4,
    (4,),
    (2,),
    32,
    8,
    0.5,
    (
        "train.epochs=1",
        "train.global_batch=4",
        "train.log_every=1",
        "input.size=32",
        "data.resident=device",
    ),
    (
        "train.epochs=1",
        "train.global_batch=4",
        "train.log_every=1",
        "input.short_side=64",
        "input.long_side=128",
        "features.cache=false",
        "data.resident=device",
    ),
)


@dataclass
class Report:
    """What was found so far, and the files that say it."""

    folder: Path
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds until all must be written."""
        return self.deadline - time.monotonic()

    def note(self, phase: str, value: Any) -> None:
        """Add a phase's result, and write both files."""
        self.found[phase] = value
        print(f"[{self.left():4.0f} s left] {phase}: {json.dumps(value)[:300]}", flush=True)
        for name, text in (
            ("gpu.json", json.dumps(self.found, indent=1)),
            ("gpu.md", markdown(self.found)),
        ):
            temporary = self.folder / f"{name}.new"
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self.folder / name)


def main() -> None:
    """Measure phase after phase, the most wanted first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; default: drawn ones")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"))
    parser.add_argument("--minutes", type=float, default=6.0, help="after which all is written")
    parser.add_argument("--without-tests", action="store_true", help="more time for figures")
    arguments = parser.parse_args()
    # A little less, for what a subprocess takes to end.
    deadline = time.monotonic() + 60 * arguments.minutes - 10
    arguments.out.mkdir(parents=True, exist_ok=True)
    report, cuda = Report(arguments.out, deadline), torch.cuda.is_available()
    scale = FULL if cuda else TINY
    if not cuda:
        print("no GPU here: everything runs at a tiny size, and its figures mean nothing")
    report.note("machine", machine())
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        folder = Path(scratch)
        jpegs = jpegs_of(arguments.images, folder)
        shards = convert(report, jpegs, folder, scale)
        if cuda and not arguments.without_tests:
            tests(report, limit=150)
        steps = [sys.executable, str(REPO / "benchmarks" / "gpu_steps.py")]
        own = ["--size", str(scale.size), "--images", str(scale.images)]
        batches = ["--batches", *map(str, scale.batches)]
        rpn_batches = ["--batches", *map(str, scale.rpn_batches)]
        lines(report, "steps", [*steps, "classifier", str(shards), *own, *batches], limit=90)
        train(report, "classifier", shards, folder, scale.classifier, limit=90)
        lines(report, "rpn steps", [*steps, "rpn", *rpn_batches], limit=60)
        train(report, "rpn", shards, folder, scale.rpn, limit=100)
        loop = [*steps, "notebook", str(jpegs[0].parent), *own, *batches]
        lines(report, "notebook", [*loop, "--seconds", str(scale.notebook_s)], limit=40)


def machine() -> Row:
    """The figures' owner."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "gpu": gpu,
        "cores": usable_cores(),
        "cpu": platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def jpegs_of(images: Path | None, folder: Path) -> Sequence[Path]:
    """The given JPEGs, or drawn ones."""
    if images is None:
        sys.path.insert(0, str(REPO / "scripts"))
        from demo_data import write_demo_dataset

        write_demo_dataset(folder / "drawn", images=12, seed=0)
        images = folder / "drawn"
    found = jpegs_in(images)
    if not found:
        raise SystemExit(f"{images}: no JPEG in it")
    return found


def convert(report: Report, jpegs: Sequence[Path], folder: Path, scale: Scale) -> Path:
    """A data set as shards, timed."""
    write_voc_tree(folder / "voc", jpegs, scale.train, scale.val)
    shards = folder / "shards"
    started = time.monotonic()
    done = run(
        [
            *(sys.executable, str(REPO / "scripts" / "make_shards.py")),
            *(f"source={folder / 'voc'}", f"output={shards}", f"workers={usable_cores()}"),
            "pictures=false",
        ],
        limit=max(60.0, report.left()),
    )
    if done.returncode:
        raise SystemExit(f"the conversion failed:\n{done.stderr[-2000:]}")
    seconds = time.monotonic() - started
    rate = (scale.train + scale.val) / seconds
    report.note("conversion", {"images": scale.train + scale.val, "images_per_s": rate})
    return shards


def run(command: Sequence[str], limit: float) -> "subprocess.CompletedProcess[str]":
    """A command's output and exit code; 124 where it took longer than the limit."""
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'benchmarks'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=max(1.0, limit))
    except subprocess.TimeoutExpired:
        # With all that it has started: what lives on would take the card from the next phase.
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        output, errors = process.communicate(timeout=10)
        return subprocess.CompletedProcess(command, 124, output, errors)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def lines(report: Report, phase: str, command: Sequence[str], limit: float) -> None:
    """A phase whose command prints lines of JSON: all that came, and how it ended if not well."""
    if report.left() < 15:
        report.note(phase, {"left_out": "no time"})
        return
    done = run(command, min(limit, report.left()))
    rows: list[Row] = [json.loads(row) for row in done.stdout.splitlines() if row[:1] == "{"]
    report.note(phase, [*rows, *ending(done)])


def ending(done: "subprocess.CompletedProcess[str]") -> list[Row]:
    """A row about a command that did not end well."""
    if not done.returncode:
        return []
    if done.returncode == 124:
        return [{"left_out": "the rest: it took too long"}]
    return [{"failed": done.stderr.strip()[-800:]}]


def train(
    report: Report, task: str, shards: Path, folder: Path, settings: Sequence[str], limit: float
) -> None:
    """A training from the command to report.html, with the time of its phases."""
    phase = f"{task} from the command to report.html"
    if report.left() < 20:
        report.note(phase, {"left_out": "no time"})
        return
    runs = folder / "runs" / task
    own = ["model.classifier=none", "model.backbone=mobilenet_v3_small"] if task == "rpn" else []
    command = [
        *(sys.executable, str(REPO / "scripts" / f"train_{task}.py")),
        *(f"data.shards={shards}", f"run.dir={runs}", "model.weights=none", *own),
        f"data.num_workers={min(8, usable_cores())}",
        *("tracking.wandb=disabled", *settings),
    ]
    first_row = FirstBytes(runs / "metrics.jsonl")
    done = run(command, min(limit, report.left()))
    # The first row, with all that came before: imports, decoding, plans of kernels, and the
    # `train.log_every` steps that it is of.
    result: dict[str, Any] = {"seconds": first_row.elapsed(), "first_row_s": first_row.stop()}
    result |= phases(runs)
    result["report"] = (runs / "report.html").is_file() and not done.returncode
    for row in ending(done):
        result |= row
    report.note(phase, result)
    if shutil.disk_usage(folder).free < 5e9:
        shutil.rmtree(runs, ignore_errors=True)


class FirstBytes:
    """Waits, in a thread, for a file to hold anything."""

    def __init__(self, path: Path) -> None:
        """Begin now."""
        self._path, self._started = path, time.monotonic()
        self._after: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def stop(self) -> float | None:
        """Seconds after which there was something; None: there was nothing."""
        self._stopped.set()
        self._thread.join()
        return self._after

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            if self._path.is_file() and self._path.stat().st_size:
                self._after = self.elapsed()
                return


def phases(run_dir: Path) -> dict[str, Any]:
    """Of a run: its rows and epochs, rates, share of waiting, memory, seconds of each epoch."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return {}
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    steps = [row for row in rows if "perf/images_per_s" in row]
    epochs = [row for row in rows if "perf/epoch_s" in row]
    found: dict[str, Any] = {"rows": len(steps), "epochs": len(epochs)}
    if steps:
        rates = sorted(row["perf/images_per_s"] for row in steps)
        found["images_per_s_median"] = rates[len(rates) // 2]
        found["data_wait"] = sum(row["perf/data_wait"] for row in steps) / len(steps)
        found["peak_gib"] = max(row.get("perf/gpu_memory_gib", 0.0) for row in steps)
    if epochs:
        found["train_s"] = [round(row["perf/train_s"], 2) for row in epochs]
        found["epoch_s"] = [round(row["perf/epoch_s"], 2) for row in epochs]
    return found


def tests(report: Report, limit: float) -> None:
    """The tests marked `gpu`."""
    if report.left() < 15:
        report.note("tests", {"left_out": "no time"})
        return
    # Launched trainings are mostly imports: several at a time share the card.
    several = ["-n", str(max(1, min(8, usable_cores() // 2)))]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--no-header", "-rfE", *several]
    done = run([*command, "tests"], min(limit, report.left()))
    report.note("tests", {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-25:]})


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of what was found."""
    text = ["# One GPU", ""]
    for phase, value in found.items():
        text += [f"## {phase}", ""]
        rows = value if isinstance(value, list) else [value]
        tables: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            tables.setdefault(tuple(row), []).append(row)
        for columns, members in tables.items():
            text += [" | ".join(("", *columns, "")).strip(), "|---" * len(columns) + "|"]
            for row in members:
                cells = (shown(cell) for cell in row.values())
                text.append(" | ".join(("", *cells, "")).strip())
            text.append("")
    return "\n".join(text).rstrip()


def shown(cell: object) -> str:
    """A value in a table."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    words = ", ".join(map(shown, cell)) if isinstance(cell, list) else str(cell)
    return words.replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    main()
