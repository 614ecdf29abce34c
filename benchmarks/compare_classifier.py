"""Our classifier against the notebook's: the same images, weights and epochs, several seeds.

  python benchmarks/compare_classifier.py NOTEBOOK_SCRIPT VOC_ROOT SHARDS WEIGHTS --output compare

NOTEBOOK_SCRIPT is the notebook's recipe as a script, called as `SCRIPT VOC_ROOT WEIGHTS OUT.json
--epochs N --ckpt FILE`, with its `split`, `labels` and `DS` to score its best checkpoint by its own
code. SHARDS are those of VOC_ROOT (that the splits are the same is checked), WEIGHTS a state dict.
Other settings of ours: `--config FILE`, `--set section.key=value ...`.

Both are measured by `vocdist.metrics`: mAP by scikit-learn and by VOC's rule (classes that only
difficult objects show are ignored), F1 at 0.5 and at thresholds of each class chosen on the train
split. Runs that are already in the output folder are not run again. Writes `compare.json` there and
prints a table.
"""

import argparse
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision
import torchvision.transforms as T
from apart import imported
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from vocdist.metrics.classification import (
    best_thresholds,
    multilabel_metrics,
    tuned_metrics,
    voc_metrics,
)
from vocdist.shards.reader import ShardReader

REPO = Path(__file__).parents[1]
HEADLINE = (
    "mAP",
    "mAP_voc",
    "macro_f1",
    "sample_f1",
    "macro_f1_tuned",
    "sample_f1_tuned",
    "train_s",
)


def main() -> None:
    """Run what is missing, then print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("notebook", "root", "shards", "weights"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--output", type=Path, default=Path("compare"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", type=Path, default=REPO / "configs" / "classifier.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--rival-seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rival_seed is not None:
        run_notebook(args, args.rival_seed)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {"notebook": [], "ours": []}
    for seed in args.seeds:
        found["notebook"].append(rival(args, seed))
        found["ours"].append(ours(args, seed))
        report(found, args)


def rival(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Metrics of the notebook's best checkpoint, trained with this seed if it is not there yet."""
    result = args.output / f"notebook-{seed}.metrics.json"
    if not result.is_file():
        again = [sys.executable, __file__, *sys.argv[1:], "--rival-seed", str(seed)]
        subprocess.run(again, check=True)
    metrics: dict[str, float] = json.loads(result.read_text())
    return metrics


def run_notebook(args: argparse.Namespace, seed: int) -> None:
    """Train by its script, whose one fixed seed is exchanged, and score by its own classes."""
    log, checkpoint = args.output / f"notebook-{seed}.json", args.output / f"notebook-{seed}.pt"
    seed_generator = torch.manual_seed
    torch.manual_seed = lambda _: seed_generator(seed)
    words = [args.root, args.weights, log, "--epochs", args.epochs, "--ckpt", checkpoint]
    sys.argv = [str(args.notebook), *map(str, words)]
    runpy.run_path(str(args.notebook), run_name="__main__")
    torch.manual_seed = seed_generator
    notebook = imported(args.notebook)
    train, val = notebook.split(str(args.root))
    metrics = notebook_metrics(notebook, train, val, checkpoint, args.shards)
    metrics["train_s"] = sum(row["train_s"] for row in json.loads(log.read_text())["log"])
    (args.output / f"notebook-{seed}.metrics.json").write_text(json.dumps(metrics, indent=1))


def notebook_metrics(
    notebook: ModuleType, train: list[Any], val: list[Any], checkpoint: Path, shards: Path
) -> dict[str, float]:
    """Its scores on both splits, by its transform; its labels; our metrics."""
    model = torchvision.models.mobilenet_v3_small(weights=None)
    model.classifier[-1] = torch.nn.Linear(model.classifier[-1].in_features, 20)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.eval().to(memory_format=torch.channels_last)
    normalize = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    view = T.Compose([T.Resize(220), T.CenterCrop(192), T.ToTensor(), normalize])
    scores, labels = {}, {}
    for name, pairs in (("train", train), ("val", val)):
        labels[name] = notebook.labels(pairs)
        loader = DataLoader(notebook.DS(pairs, labels[name], view), batch_size=32)
        with torch.no_grad():
            logits = [model(images.to(memory_format=torch.channels_last)) for images, _ in loader]
        scores[name] = torch.cat(logits).sigmoid().numpy()
    reader = ShardReader(shards, "val")
    stored = {record.key: record for record in reader.annotations}
    keys = [Path(image).stem for image, _ in val]
    if set(keys) != set(stored):
        raise SystemExit(f"{shards}: its val split is not the notebook's: make others")
    ignored = np.array([only_difficult(stored[key].boxes, stored[key].difficult) for key in keys])
    names = reader.manifest.classes
    thresholds = best_thresholds(scores["train"], labels["train"])
    return {
        **multilabel_metrics(scores["val"], labels["val"], names),
        **voc_metrics(scores["val"], labels["val"], ignored, names),
        **tuned_metrics(scores["val"], labels["val"], thresholds, names),
    }


def only_difficult(boxes: np.ndarray, difficult: np.ndarray) -> np.ndarray:
    """(20,) bool: classes that only difficult objects show."""
    there, plain = np.zeros(20, bool), np.zeros(20, bool)
    there[boxes[:, 0]] = True
    plain[boxes[~difficult, 0]] = True
    return there & ~plain


def ours(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Results of our run with this seed; a finished run is only read."""
    run = args.output / f"ours-{seed}"
    command = [sys.executable, str(REPO / "scripts" / "train_classifier.py"), str(args.config)]
    settings = [f"data.shards={args.shards}", f"model.weights={args.weights}", f"run.dir={run}"]
    settings += [f"train.epochs={args.epochs}", f"train.seed={seed}", "tracking.wandb=disabled"]
    subprocess.run([*command, *settings, *args.set], check=True, cwd=REPO)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(row["perf/train_s"] for row in rows if "perf/train_s" in row)
    results: dict[str, float] = json.loads((run / "results.json").read_text())
    return results | {"train_s": seconds}


def report(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Mean and standard deviation over the seeds so far."""
    summary: dict[str, Any] = {
        "made": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "epochs": args.epochs,
        "seeds": args.seeds[: len(found["ours"])],
        "set": args.set,
    }
    table = Table(title=f"{len(found['ours'])} seeds, {args.epochs} epochs", caption="mean ± std")
    for column in ("", "notebook", "ours", "difference"):
        table.add_column(column, justify="left" if not column else "right")
    classes = sorted(key for key in found["ours"][0] if key.startswith("ap/"))
    for name in (*HEADLINE, *classes):
        values = {side: np.array([row[name] for row in rows]) for side, rows in found.items()}
        gain = values["ours"].mean() - values["notebook"].mean()
        cells = [f"{v.mean():.3f} ± {v.std():.3f}" for v in values.values()]
        table.add_row(name, *cells, f"{gain:+.3f}")
        summary[name] = {side: v.tolist() for side, v in values.items()}
    Console().print(table)
    (args.output / "compare.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
