"""Samples by request whose features are ready: read, collate; no image is decoded."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocdist.data.batch import Batch, SampleRequest, assemble
from vocdist.data.feature_files import FeatureFiles
from vocdist.data.transforms import RpnTransform
from vocdist.shards.reader import ShardReader

FeatureItem = tuple[SampleRequest, list[Tensor], Mapping[str, Tensor], int]


class FeatureDataset(Dataset[FeatureItem]):
    """What `RequestedSamples` with the same transform and seed gives, as features of the images."""

    def __init__(
        self, reader: ShardReader, files: FeatureFiles, transform: RpnTransform, seed: int
    ) -> None:
        """`transform` says how the images were scaled, and whether mirrored ones are drawn."""
        self.reader = reader
        self.files = files
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        """Number of samples in the split."""
        return len(self.reader)

    def __getitem__(self, request: SampleRequest) -> FeatureItem:
        """The request, the sample's levels (h_l, w_l, C_l), its targets and its seed."""
        annotations = self.reader.annotations[request.index]
        # As in `RequestedSamples`: the same draws, in the same order.
        rng = np.random.default_rng([self.seed, request.epoch, request.index])
        seed = int(rng.integers(2**62))
        mirrored = self.transform.draws_mirror(rng)
        levels = self.files.read(request.index, mirrored=mirrored)
        stored = annotations.height, annotations.width
        return request, levels, self.transform.targets(annotations, stored, mirrored=mirrored), seed

    def collate(self, items: Sequence[FeatureItem]) -> Batch:
        """Samples of equal image size as a batch of features."""
        requests, levels, targets, seeds = zip(*items, strict=True)
        size = requests[0].padded
        assert size is not None, "features are of images of varying size"
        inputs = tuple(
            torch.stack(level).permute(0, 3, 1, 2) for level in zip(*levels, strict=True)
        )
        return assemble(inputs, size, targets, requests, seeds)
