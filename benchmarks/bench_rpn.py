"""Time of an RPN's training step: the notebook's, torchvision's, ours, on the same features.

  python benchmarks/bench_rpn.py                        # torchvision's step and ours, by batch
  python benchmarks/bench_rpn.py --rival notebook_rpn.py                # and the notebook's script
  python benchmarks/bench_rpn.py --scale scale.png      # cost as image, anchors, boxes, batch grow

Every contender has the same features of one level (stride 32, 576 channels), the same nine anchors
a cell, the same boxes and a 3x3 head of 256 channels; a step is head, targets, losses, backward,
AdamW. Contenders take turns, and the table has the median and the range of the rounds. "rival"
makes a step of each image, as that code does. torchvision makes proposals in each training step for
a second stage: it is measured as it comes, and with a single proposal.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from apart import imported
from matplotlib.ticker import NullLocator, StrMethodFormatter
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRpn

from vocdist.models.rpn.network import AnchorRule, RegionProposalNetwork

CHANNELS, STRIDE = 576, 32
SCALES, RATIOS = (64.0, 128.0, 256.0), (0.5, 1.0, 2.0)
Step = Callable[[], None]


def main() -> None:
    """Measure the contenders in turns and print a table, or draw the scale plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--size", type=int, nargs=2, default=[384, 512], help="of an image, pixels")
    parser.add_argument("--boxes", type=int, default=4, help="of an image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rival", type=Path, help="a script like the notebook's")
    parser.add_argument("--scale", type=Path, help="draw the scale plot to this file instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, size = torch.device(arguments.device), tuple(arguments.size)
    if arguments.scale:
        _plot(_scaling(size, arguments.boxes, device), arguments.scale)
        print(f"{arguments.scale} shows how a step's time grows")
        return
    table = Table(title=f"ms an image, {_machine(device)}, {arguments.boxes} boxes an image")
    for column in ("batch", "contender", "median", "range", "images/s"):
        table.add_column(column, justify="right")
    for batch in arguments.batches:
        problem = Problem(batch, size, arguments.boxes, device)
        steps = {
            "torchvision": torchvision_step(problem, proposals=2000),
            "torchvision, 1 proposal": torchvision_step(problem, proposals=1),
            "ours": our_step(problem),
        }
        if arguments.rival:
            steps["rival"] = rival_step(problem, imported(arguments.rival))
        for name, seconds in timed(steps, arguments.rounds, device).items():
            costs = [1e3 * s / batch for s in seconds]
            middle = statistics.median(costs)
            spread = f"{min(costs):.2f} - {max(costs):.2f}"
            table.add_row(f"{batch}", name, f"{middle:.2f}", spread, f"{1e3 / middle:.0f}")
    Console().print(table)


class Problem:
    """One batch: features (B, C, h, w), and boxes (B, G, 4) in pixels of images of one size."""

    def __init__(self, batch: int, size: tuple[int, int], boxes: int, device: torch.device) -> None:
        """Draw it, the same for the same arguments."""
        generator = torch.Generator().manual_seed(0)
        self.size, self.cells = size, (size[0] // STRIDE, size[1] // STRIDE)
        features = torch.randn(batch, CHANNELS, *self.cells, generator=generator)
        self.features = features.to(device, memory_format=torch.channels_last)
        corners = torch.rand(2, batch, boxes, 2, generator=generator)
        corners = corners * torch.tensor([size[1], size[0]])
        low, high = corners.amin(dim=0), corners.amax(dim=0)
        self.boxes = torch.cat([low, high.maximum(low + 8)], dim=-1).to(device)
        self.mask = torch.ones(batch, boxes, dtype=torch.bool, device=device)
        self.sizes = torch.tensor([size] * batch, device=device)
        self.seeds = torch.arange(batch, device=device)


def our_step(problem: Problem) -> Step:
    """Ours, batched."""
    rpn = RegionProposalNetwork(CHANNELS, AnchorRule(scales_per_level=(SCALES,), ratios=RATIOS))

    def loss() -> Tensor:
        losses = rpn.losses(
            rpn([problem.features]),
            [problem.cells],
            problem.size,
            problem.sizes,
            problem.boxes,
            problem.mask,
            problem.seeds,
        )
        return (losses.objectness + losses.box).mean()

    return _training(rpn, loss, problem)


def rival_step(problem: Problem, rival: ModuleType) -> Step:
    """The rival's: its own head, anchors, assignment and loss, image by image, on the CPU."""
    head = rival.Head(CHANNELS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)
    (height, width), (rows, columns) = problem.size, problem.cells
    features, boxes = problem.features.cpu(), problem.boxes.cpu()

    def step() -> None:
        for image, gt in zip(features.split(1), boxes, strict=True):
            cell = width / columns, height / rows
            anchors = rival.anchors_for(rows, columns, *cell, width, height)
            logits, deltas = head(image)
            logits = logits.permute(0, 2, 3, 1).reshape(-1)
            deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
            labels, targets = rival.assign(anchors, gt)
            valid, positive = labels != -1, labels == 1
            loss = F.binary_cross_entropy_with_logits(logits[valid], labels[valid].float())
            loss = loss + F.smooth_l1_loss(deltas[positive], targets[positive], beta=1 / 9)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()

    return step


def torchvision_step(problem: Problem, *, proposals: int) -> Step:
    """torchvision's, with this many proposals of an image into and out of NMS."""
    rpn = TorchvisionRpn(
        AnchorGenerator((tuple(map(int, SCALES)),), (RATIOS,)),
        _Narrow(len(SCALES) * len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": proposals, "testing": proposals},
        post_nms_top_n={"training": proposals, "testing": proposals},
        nms_thresh=0.7,
    )
    batch = len(problem.features)
    images = ImageList(problem.features.new_zeros(batch, 3, *problem.size), [problem.size] * batch)
    targets = [{"boxes": boxes} for boxes in problem.boxes]

    def loss() -> Tensor:
        _, losses = rpn(images, {"0": problem.features}, targets)
        total: Tensor = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
        return total

    return _training(rpn, loss, problem)


class _Narrow(nn.Module):
    """torchvision's head with 256 channels, as in the other contenders."""

    def __init__(self, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 256, 3, padding=1)
        self.objectness = nn.Conv2d(256, anchors, 1)
        self.deltas = nn.Conv2d(256, 4 * anchors, 1)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [torch.relu(self.conv(level)) for level in levels]
        return [self.objectness(h) for h in hidden], [self.deltas(h) for h in hidden]


def timed(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step in each round; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            _synchronize(device)
            started = time.perf_counter()
            step()
            _synchronize(device)
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _training(model: nn.Module, loss: Callable[[], Tensor], problem: Problem) -> Step:
    model.to(problem.features.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _scaling(
    size: tuple[int, int], boxes: int, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """Of our step, for each quantity that grows alone: (its value, ms of a step)."""
    settings: dict[str, list[tuple[float, tuple[int, tuple[int, int], int]]]] = {
        "batch": [(b, (b, size, boxes)) for b in (1, 2, 4, 8, 16, 32, 64)],
        "boxes an image": [(g, (8, size, g)) for g in (1, 4, 16, 64, 256)],
        "anchors an image": [],
    }
    for factor in (1, 2, 3, 4):
        scaled = (size[0] * factor, size[1] * factor)
        anchors = scaled[0] * scaled[1] // STRIDE**2 * len(SCALES) * len(RATIOS)
        settings["anchors an image"].append((anchors, (8, scaled, boxes)))
    return {
        name: [
            (value, _milliseconds(our_step(Problem(*problem, device)), device))
            for value, problem in points
        ]
        for name, points in settings.items()
    }


def _milliseconds(step: Step, device: torch.device) -> float:
    return 1e3 * statistics.median(timed({"": step}, 3, device)[""])


def _plot(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    figure, panels = plt.subplots(1, len(curves), figsize=(10, 3), layout="constrained")
    for panel, (name, points) in zip(panels, curves.items(), strict=True):
        values, costs = zip(*points, strict=True)
        panel.loglog(values, costs, marker="o")
        panel.set(xlabel=name, ylabel="ms a step")
        panel.set_xticks(values, labels=[f"{value:,.0f}" for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        for formats in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            formats(StrMethodFormatter("{x:g}"))
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=160)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
