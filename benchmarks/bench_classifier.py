"""Images per second of training the classifier: the notebook's loop, ours, and the bare step.

  python benchmarks/bench_classifier.py NOTEBOOK_SCRIPT VOC_ROOT SHARDS

Each contender trains on the same number of images, in a process of its own; rounds take turns, so
that a busy spell of the machine hits all, and the best one counts:

  notebook           its Dataset, transform and step
  ours               scripts/train_classifier.py, every image decoded
  ours, cached       the same in its last epoch with data.decoded_cache, nothing is decoded
  bare step          our model and optimizer on a batch that lies in memory: the limit

"waits" is the share of the time that a step waits for its data.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision
import torchvision.transforms as T
from apart import imported, measured_apart
from torch.utils.data import DataLoader

from vocdist.data.workers import usable_cores

REPO = Path(__file__).parents[1]


def main() -> None:
    """Measure every contender, in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("notebook", "root", "shards"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--size", type=int, default=192, help="side of the input, pixels")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--contender", choices=("notebook", "bare step"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        found = notebook(args) if args.contender == "notebook" else bare_step(args)
        print(json.dumps(found))
        return
    print(f"{platform.machine()}, {usable_cores()} cores, torch {torch.__version__}, ", end="")
    print(f"{args.size} px, batch {args.batch}, {args.images} images, best of {args.rounds}")
    contenders = {
        "notebook": lambda: measured_apart("--contender", "notebook"),
        "ours": lambda: ours(args, cached=False),
        "ours, cached": lambda: ours(args, cached=True),
        "bare step": lambda: measured_apart("--contender", "bare step"),
    }
    best: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for name, measure in contenders.items():
            found = measure()
            if name not in best or found["images_per_s"] > best[name]["images_per_s"]:
                best[name] = found
    limit = best["bare step"]["images_per_s"]
    print(f"{'':14}{'images/s':>10}{'of the limit':>14}{'waits':>8}")
    for name, found in best.items():
        share = found["images_per_s"] / limit
        print(f"{name:14}{found['images_per_s']:10.1f}{share:14.2f}{found['waits']:8.1%}")


def ours(args: argparse.Namespace, *, cached: bool) -> dict[str, float]:
    """The last epoch of a real run: two with a cache, so that the last finds all images in it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"data.shards={args.shards}",
            f"data.limit_train={args.images}",
            "data.limit_val=32",
            f"data.num_workers={args.workers}",
            f"data.decoded_cache={'8GB' if cached else 'null'}",
            f"input.size={args.size}",
            "model.weights=none",
            f"run.dir={folder}/run",
            f"train.epochs={2 if cached else 1}",
            f"train.global_batch={args.batch}",
            "train.log_every=4",
            "tracking.wandb=disabled",
        ]
        script = [sys.executable, "scripts/train_classifier.py", "configs/classifier.yaml"]
        subprocess.run([*script, *settings, *args.set], check=True, cwd=REPO, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    ends = [i for i, row in enumerate(rows) if "perf/train_s" in row]
    first = ends[-2] + 1 if len(ends) > 1 else 0
    # The first steps allocate memory and start the workers, the bare step's are left out too.
    steady = [row for row in rows[first:] if "perf/images_per_s" in row][1:]
    return {
        "images_per_s": sum(r["perf/images_per_s"] for r in steady) / len(steady),
        "waits": sum(r["perf/data_wait"] for r in steady) / len(steady),
    }


def notebook(args: argparse.Namespace) -> dict[str, float]:
    """Its loop, as its script has it, with the time spent in waiting for batches."""
    module = imported(args.notebook)
    pairs = module.split(str(args.root))[0][: args.images]
    labels = module.labels(pairs)
    normalize = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    crop = T.RandomResizedCrop(args.size, scale=(0.7, 1.0))
    resize = T.Resize(int(args.size * 1.15))
    view = T.Compose([resize, crop, T.RandomHorizontalFlip(), T.ToTensor(), normalize])
    loader = DataLoader(module.DS(pairs, labels, view), batch_size=args.batch, shuffle=True)
    model = torchvision.models.mobilenet_v3_small(weights=None)
    model.classifier[-1] = torch.nn.Linear(model.classifier[-1].in_features, 20)
    model.to(memory_format=torch.channels_last)
    criterion = torch.nn.BCEWithLogitsLoss(pos_weight=torch.full((20,), 10.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    waited = seconds = 0.0
    images = 0
    batches = iter(loader)
    for step in range(len(loader)):
        started = time.perf_counter()
        pixels, target = next(batches)
        ready = time.perf_counter()
        loss = criterion(model(pixels.to(memory_format=torch.channels_last)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if step >= 4:
            waited += ready - started
            seconds += time.perf_counter() - started
            images += len(pixels)
    return {"images_per_s": images / seconds, "waits": waited / seconds}


def bare_step(args: argparse.Namespace) -> dict[str, float]:
    """Forward, backward and update on one batch in memory."""
    from vocdist.config.training import OptimConfig
    from vocdist.distributed.processes import reuse_memory
    from vocdist.models.classifier import Classifier, MultilabelLoss
    from vocdist.models.layers import set_channels_last
    from vocdist.training.optim import build_optimizer

    reuse_memory()
    model = Classifier("mobilenet_v3_small", 20).train()
    set_channels_last(model, True)
    optimizer = build_optimizer(model, OptimConfig(), fused=True)
    shape = (args.batch, args.size, args.size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = (torch.rand(args.batch, 20) < 0.1).float()
    seeds = torch.arange(args.batch)
    loss_of, steps, started = MultilabelLoss(), args.images // args.batch, 0.0
    for step in range(steps):
        if step == 4:
            started = time.perf_counter()
        loss_of(model(images, seeds), labels).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    return {"images_per_s": (steps - 4) * args.batch / seconds, "waits": 0.0}


if __name__ == "__main__":
    main()
