"""What the loader is asked for and what it gives: requests for samples, and batches of them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from vocdist.data.transforms import Example


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample of one part of one step.

    Attributes:
        index: Of the sample in its split.
        epoch: Seeds the augmentation, with the index.
        weight: The sample's factor in this rank's loss; 0 for padding.
        padded: (height, width) shared by the batch, for tasks with images of varying size.
        ends_step: This part is the rank's last of an optimizer step.
        step_samples: Samples of that step over all ranks.
    """

    index: int
    epoch: int
    weight: float = 1.0
    padded: tuple[int, int] | None = None
    ends_step: bool = True
    step_samples: int = 0


@dataclass(frozen=True)
class Batch:
    """What a rank computes at once, B samples.

    Attributes:
        inputs: What the model takes: the images alone, (B, 3, H, W) uint8, or ready features of
            each level, (B, C_l, h_l, w_l) float16; NHWC in memory. Or, before
            `BatchLoader.materialised`, views (B, 8) int64 of images that stay on the device, which
            become float32 in grey levels.
        size: (height, width) of the images, pixels, padding included.
        targets: Per task; first axis B. `boxes` are padded to (B, G, 4) and come with `box_mask`.
        indices: (B,) int64, of the samples in their split.
        weights: (B,) float32; the loss to differentiate is `(per_sample_loss * weights).sum()`.
        seeds: (B,) int64, one per sample and epoch, for randomness on the device.
        ends_step: The optimizer steps after this batch.
        step_samples: Samples of that step over all ranks.
    """

    inputs: tuple[Tensor, ...]
    size: tuple[int, int]
    targets: Mapping[str, Tensor]
    indices: Tensor
    weights: Tensor
    seeds: Tensor
    ends_step: bool
    step_samples: int

    @property
    def images(self) -> Tensor:
        """The images (B, 3, H, W), of a batch that has them."""
        return self.inputs[0]

    def to(self, device: torch.device) -> Self:
        """Copy to a device, without waiting for it on CUDA, where the memory is pinned."""
        # MPS reads the source later even when it was freed meanwhile: wait for it there.
        no_wait = device.type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=no_wait))

    def tensors(self) -> list[Tensor]:
        """All of its tensors, in one order for all batches with the same targets."""
        targets = [self.targets[name] for name in sorted(self.targets)]
        return [*self.inputs, *targets, self.indices, self.weights, self.seeds]

    def clone(self) -> Self:
        """The same in memory of its own."""
        return self._map(lambda tensor: tensor.clone())

    def signature(self) -> Hashable:
        """Equal for batches that differ by nothing but the values of their tensors."""
        kinds = [(t.shape, t.stride(), t.dtype) for t in self.tensors()]
        return self.size, *sorted(self.targets), *kinds

    def with_boxes(self, count: int) -> Self:
        """The same with targets padded to `count` boxes, (B, count, ...); not fewer than it has."""
        missing = count - self.targets["boxes"].shape[1]
        if not missing:
            return self
        padded = {
            name: F.pad(target, [0, 0] * (target.ndim - 2) + [0, missing])
            for name, target in self.targets.items()
            if name in (*RAGGED_TARGETS, "box_mask")
        }
        return replace(self, targets={**self.targets, **padded})

    def pin_memory(self) -> Self:
        """Pin the host memory (called by torch's DataLoader)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            inputs=tuple(change(tensor) for tensor in self.inputs),
            targets={name: change(tensor) for name, tensor in self.targets.items()},
            indices=change(self.indices),
            weights=change(self.weights),
            seeds=change(self.seeds),
        )


# Targets whose first axis counts the boxes of an image.
RAGGED_TARGETS = ("boxes", "difficult")


def collate(items: Sequence[tuple[SampleRequest, Example, int]]) -> Batch:
    """Stack examples of equal image size; targets of varying length are padded, with a mask."""
    requests, examples, seeds = zip(*items, strict=True)
    # Decoders and resizing leave pixels as NHWC: stacked so, nothing is rearranged. torch's own
    # collation stacks them, in a loader process, where the training process can see them.
    images = default_collate([example.image.permute(1, 2, 0) for example in examples])
    targets = [example.targets for example in examples]
    size = images.shape[1], images.shape[2]
    return assemble((images.permute(0, 3, 1, 2),), size, targets, requests, seeds)


def assemble(
    inputs: tuple[Tensor, ...],
    size: tuple[int, int],
    targets_of_samples: Sequence[Mapping[str, Tensor]],
    requests: Sequence[SampleRequest],
    seeds: Sequence[int],
) -> Batch:
    """A batch of stacked inputs and of targets that are yet to be stacked."""
    columns = {name: [t[name] for t in targets_of_samples] for name in targets_of_samples[0]}
    targets = {
        name: _stack_ragged(column) if name in RAGGED_TARGETS else torch.stack(column)
        for name, column in columns.items()
    }
    if "boxes" in columns:
        counts = torch.tensor([len(boxes) for boxes in columns["boxes"]])
        targets["box_mask"] = torch.arange(targets["boxes"].shape[1]) < counts[:, None]
    return Batch(
        inputs=inputs,
        size=size,
        targets=targets,
        indices=torch.tensor([request.index for request in requests]),
        weights=torch.tensor([request.weight for request in requests]),
        seeds=torch.tensor(seeds),
        ends_step=requests[-1].ends_step,
        step_samples=requests[-1].step_samples,
    )


def _stack_ragged(column: Sequence[Tensor]) -> Tensor:
    """(N_i, ...) tensors -> (B, G, ...), zeros behind; G is at least 1, so a maximum over it is."""
    longest = max(1, *(len(tensor) for tensor in column))
    stacked = column[0].new_zeros((len(column), longest, *column[0].shape[1:]))
    for row, tensor in zip(stacked, column, strict=True):
        row[: len(tensor)] = tensor
    return stacked
