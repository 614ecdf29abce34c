"""Training steps beside their rivals, for benchmarks/gpu.py; a line of JSON for each contender.

  python benchmarks/gpu_steps.py classifier SHARDS --batches 16 256
  python benchmarks/gpu_steps.py rpn --batches 32 8 1
  python benchmarks/gpu_steps.py notebook FOLDER_OF_JPEGS

classifier  ours: the real loop over resident images from its second epoch on, data included,
            captured and eager; torchvision: its plain model on one batch that lies on the device,
            with its optimizer inside the graph, captured and eager. Batches of 64 and more are in
            bf16.
rpn         ours: head, targets, losses, backward, AdamW on features of one level, captured and
            eager; torchvision's RPN, as it comes and with one proposal (see bench_rpn.py).
notebook    the notebook's kind of loop: Pillow, transforms, two loader processes, `loss.item()`.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
import torchvision
import torchvision.transforms as T
from bench_rpn import CHANNELS, RATIOS, SCALES, Problem, our_step, timed, torchvision_step
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

Step = Callable[[], object]
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def main() -> None:
    """Measure one kind of contenders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("classifier", "rpn", "notebook"))
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the notebook's loop")
    arguments = parser.parse_args()
    found: Iterator[dict[str, object]]
    if arguments.kind == "classifier":
        found = classifier(arguments)
    elif arguments.kind == "rpn":
        found = rpn(arguments)
    else:
        found = notebook(arguments)
    for row in found:
        print(json.dumps(row), flush=True)


def classifier(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Ours and torchvision's, captured where there is CUDA, and eager."""
    for batch in arguments.batches:
        precision = "bf16" if batch >= 64 and CUDA else "fp32"
        for captured in (True, False) if CUDA else (False,):
            mode = "captured" if captured else "eager"
            common = {"batch": batch, "precision": precision, "mode": mode}
            yield {"contender": "ours", **common, **our_loop(arguments, batch, precision, captured)}
            rival = plain_model(arguments.size, batch, precision, captured)
            yield {"contender": "torchvision model", **common, **rival}


def our_loop(
    arguments: argparse.Namespace, batch: int, precision: str, captured: bool
) -> dict[str, float]:
    """The loop of a real training over resident images, from its second epoch on."""
    from accelerate.state import AcceleratorState

    from vocdist.config import ClassifierConfig
    from vocdist.config.file import load_config
    from vocdist.data.workers import usable_cores
    from vocdist.distributed.preemption import StopRequest
    from vocdist.distributed.processes import build_accelerator
    from vocdist.runs.checkpoint import Checkpoints, Position
    from vocdist.runs.tracking import NullTracker
    from vocdist.tasks.task import build_task
    from vocdist.training.loaders import build_readers
    from vocdist.training.run import build_trainer

    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as folder, NullTracker() as tracker:
        overrides = [
            f"data.shards={arguments.source}",
            f"data.limit_train={arguments.images}",
            "data.limit_val=8",
            "data.resident=device",
            f"data.num_workers={min(8, usable_cores())}",
            f"input.size={arguments.size}",
            "model.weights=none",
            f"train.global_batch={batch}",
            "train.log_every=1000000",
            "train.drop_last=true",
            f"runtime.mixed_precision={precision}",
            f"runtime.cuda_graph={str(captured).lower()}",
            "tracking.wandb=disabled",
            f"run.dir={folder}/run",
        ]
        root = Path(__file__).parents[1]
        config = load_config(ClassifierConfig, root / "configs" / "classifier.yaml", overrides)
        readers = build_readers(config)
        _forget_peak()
        started = time.perf_counter()
        trainer = build_trainer(
            config,
            build_task(config, readers.train, pretrained=False),
            readers,
            build_accelerator(config.runtime),
            checkpoints=Checkpoints(Path(folder) / "checkpoints", 1),
            tracker=tracker,
            position=Position(global_batch=batch, manifest_hash=""),
            stop=StopRequest(has_peers=False),
        )
        _wait()
        ready = time.perf_counter() - started
        trainer.train_epoch()
        trainer.position = trainer.position.after_epoch(0.0)
        _wait()
        # Some hundred steps: the first of an epoch waits for its plan, as in any training.
        epochs = max(1, 200 // trainer.train_loader.steps_per_epoch()) if CUDA else 1
        begun = time.perf_counter()
        for _ in range(epochs):
            trainer.train_epoch()
            trainer.position = trainer.position.after_epoch(0.0)
        _wait()
        seconds = time.perf_counter() - begun
        images = epochs * trainer.train_loader.steps_per_epoch() * batch
        trainer.close()
    return {
        "images_per_s": images / seconds,
        "seconds_until_images_are_resident": ready,
        "peak_gib": _peak_gib(),
    }


def plain_model(size: int, batch: int, precision: str, captured: bool) -> dict[str, float]:
    """Torchvision's model on one batch, forward to optimizer, in one graph where `captured`."""
    _forget_peak()
    started = time.perf_counter()
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=20)
    model.to(DEVICE, memory_format=torch.channels_last).train()
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=DEVICE)
    images, labels = images.permute(0, 3, 1, 2), torch.rand(batch, 20, device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=CUDA)

    def step() -> None:
        low = torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False)
        with low if precision == "bf16" else nullcontext():
            logits = model(images.float().div_(255).sub_(0.45).div_(0.225))
        nn.functional.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()
        # Inside a graph gradients stay where they are: zeroed, not dropped.
        optimizer.zero_grad(set_to_none=not captured)

    replay: Step = step
    if captured:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
    replay()
    _wait()
    first = time.perf_counter() - started
    return {"images_per_s": batch * _rate(replay), "first_step_s": first, "peak_gib": _peak_gib()}


def rpn(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Ms an image of a step, by batch."""
    for batch in arguments.batches:
        size = (384, 512) if CUDA else (128, 160)
        problem = Problem(batch, size, 4, DEVICE)
        steps: dict[str, Callable[[], None]] = {
            "torchvision": torchvision_step(problem, proposals=2000),
            "torchvision, 1 proposal": torchvision_step(problem, proposals=1),
            "ours, eager": our_step(problem),
        }
        if CUDA:
            steps["ours, captured"] = captured_rpn_step(problem)
            for _ in range(4):  # shapes set themselves up, the graph is recorded
                steps["ours, captured"]()
        for name, seconds in timed(steps, 20 if CUDA else 2, DEVICE).items():
            milliseconds = 1e3 * statistics.median(seconds) / batch
            yield {"contender": name, "batch": batch, "ms_an_image": milliseconds}


def captured_rpn_step(problem: Problem) -> Callable[[], None]:
    """`our_step` of bench_rpn.py by the training's own captured step."""
    from vocdist.data.batch import Batch
    from vocdist.models.rpn.network import AnchorRule, RegionProposalNetwork
    from vocdist.training.step import FixedStep, graphed

    network = RegionProposalNetwork(CHANNELS, AnchorRule(scales_per_level=(SCALES,), ratios=RATIOS))
    network.to(DEVICE, memory_format=torch.channels_last).train()
    count = len(problem.seeds)
    targets = {"boxes": problem.boxes, "box_mask": problem.mask, "image_size": problem.sizes}
    weights = torch.full((count,), 1 / count, device=DEVICE)
    inputs, size = (problem.features,), problem.size
    batch = Batch(inputs, size, targets, problem.seeds, weights, problem.seeds, True, count)

    def losses(model: RegionProposalNetwork, part: Batch) -> dict[str, torch.Tensor]:
        found = model.losses(
            model(part.inputs),
            [problem.cells],
            part.size,
            part.targets["image_size"],
            part.targets["boxes"],
            part.targets["box_mask"],
            part.seeds,
        )
        return {"loss": found.objectness + found.box}

    boxes = problem.boxes.shape[1]
    part = FixedStep(
        network,
        losses,
        whole_step=count,
        boxes=lambda: boxes,
        graph=graphed(DEVICE),
        required=True,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        part.part(batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class _Photographs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, files: list[Path], size: int) -> None:
        self._files = files
        crop = T.RandomResizedCrop(size, scale=(0.7, 1.0))
        normalize = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self._view = T.Compose([T.Resize(int(size * 1.15)), crop, T.ToTensor(), normalize])

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self._files[index % len(self._files)]) as image:
            return self._view(image.convert("RGB")), torch.zeros(20)


def notebook(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Images/s of a loop as notebooks have it."""
    from gpu_data import jpegs_in

    batch = arguments.batches[0]
    photographs = _Photographs(jpegs_in(arguments.source), arguments.size)
    loader = DataLoader(photographs, batch_size=batch, num_workers=2)
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=20).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    started, images = 0.0, 0
    for number, (pixels, labels) in enumerate(islice(loader, 10**4)):
        logits = model(pixels.to(DEVICE))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        if number < 2:
            started = time.perf_counter()
            continue
        images += len(pixels)
        if time.perf_counter() - started > arguments.seconds:
            break
    rate = images / (time.perf_counter() - started)
    yield {"contender": "the notebook's loop", "batch": batch, "images_per_s": rate}


def _rate(step: Step) -> float:
    """Steps per second, over about a second."""
    steps, taken = 2 if not CUDA else 20, 0
    _wait()
    started = time.perf_counter()
    while time.perf_counter() - started < (1.0 if CUDA else 0.2):
        for _ in range(steps):
            step()
        taken += steps
        _wait()
    return taken / (time.perf_counter() - started)


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _forget_peak() -> None:
    gc.collect()  # the contender before hangs in cycles
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0


if __name__ == "__main__":
    main()
