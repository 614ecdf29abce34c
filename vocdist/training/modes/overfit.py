"""`--overfit N`: can the model learn a few images by heart? If not, something is wrong."""

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from tqdm import tqdm

from vocdist.config import TaskConfig
from vocdist.data.batch import Batch
from vocdist.distributed.processes import build_accelerator, lay_out, prepare
from vocdist.errors import UserError
from vocdist.tasks.task import Task, build_task, task_class
from vocdist.training.loaders import build_loader, build_reader

MAX_STEPS = 400
# Near zero: this share of the first step's loss.
NEAR_ZERO = 0.05
# Slow rates and warm-up are for long runs.
LEAST_LR = 1e-3


@dataclass(frozen=True)
class Outcome:
    """Of an overfitting: the loss before the first step and at the last, and the steps taken."""

    first: float
    last: float
    steps: int

    @property
    def near_zero(self) -> bool:
        """Whether the images were learned by heart."""
        return self.last <= NEAR_ZERO * self.first


def overfit(config: TaskConfig, images: int, max_steps: int = MAX_STEPS) -> Outcome:
    """Train on the first `images` samples, as evaluation sees them, until the loss is near zero.

    No augmentation, no weight decay, one rate; nothing is written.

    Raises:
        UserError: The loss did not get there, or there are several processes.
    """
    accelerator = build_accelerator(config.runtime)
    if accelerator.num_processes > 1:
        raise UserError("--overfit runs in one process: start the script with python")
    config = task_class(config.task).resolve(config)
    torch.manual_seed(config.train.seed)
    config = replace(config, data=replace(config.data, limit_train=images))
    train_reader = build_reader(config, "train")
    task = build_task(config, train_reader, pretrained=True)
    lay_out(task.model, config.runtime, accelerator.device)
    loader = build_loader(config, train_reader, training=False)
    batches = [batch.to(accelerator.device) for batch in loader.evaluation()]
    lr = max(config.optim.lr, LEAST_LR)
    outcome = _learn(task, batches, accelerator, lr, max_steps)
    count = sum(len(batch.indices) for batch in batches)
    words = (
        f"{count} images: loss {outcome.first:.4f} -> {outcome.last:.4f} in {outcome.steps} steps"
    )
    if not outcome.near_zero:
        raise UserError(
            f"--overfit: {words}: not near zero (at most {NEAR_ZERO:.0%} of the first): look at "
            f"the images and their boxes with scripts/visualize.py, then at model.* and optim.lr"
        )
    print(f"--overfit: {words}: they are learned by heart")
    return outcome


def _learn(
    task: Task, batches: list[Batch], accelerator: Accelerator, lr: float, max_steps: int
) -> Outcome:
    learning = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    plain = torch.optim.AdamW(learning, lr=lr, weight_decay=0.0)
    model, optimizer = prepare(accelerator, task.model, plain)
    model.train()
    samples = sum(len(batch.indices) for batch in batches)
    first = last = 0.0
    with tqdm(total=max_steps, desc="overfitting", unit="step", disable=None) as bar:
        for step in range(max_steps + 1):
            total = torch.zeros((), device=accelerator.device)
            for batch in batches:
                loss = task.losses(model, batch)["loss"].sum() / samples
                accelerator.backward(loss)
                total += loss.detach()
            last = float(total)
            first = first or last
            if last <= NEAR_ZERO * first or step == max_steps:
                break
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update()
            bar.set_postfix(loss=f"{last:.4f}")
    return Outcome(first, last, step)
