"""Samples by request: read, plan, decode, transform."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vocdist.data.batch import Batch, SampleRequest, collate
from vocdist.data.cache import DecodedCache
from vocdist.data.decode import decode_image
from vocdist.data.geometry import shrink, shrunk_size
from vocdist.data.transforms import Example, Plan, Transform
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader
from vocdist.shards.record import Annotations


class RequestedSamples(Dataset[tuple[SampleRequest, Example, int]]):
    """Decoded, transformed samples of one split, by request."""

    def __init__(
        self,
        reader: ShardReader,
        transform: Transform,
        seed: int,
        short_side: int | None = None,
        cache: DecodedCache | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            reader: Of the split.
            transform: The task's.
            seed: Makes the augmentation of two runs differ.
            short_side: Decoded images are shrunk to it, see `shrink`.
            cache: Keeps what was decoded and shrunk.
        """
        self.reader = reader
        self.transform = transform
        self.seed = seed
        self.cache = cache
        self._short_side = short_side

    def __len__(self) -> int:
        """Number of samples in the split."""
        return len(self.reader)

    def __getitem__(self, request: SampleRequest) -> tuple[SampleRequest, Example, int]:
        """The example, with its request and its seed."""
        return self.__getitems__([request])[0]

    def __getitems__(
        self, requests: Sequence[SampleRequest]
    ) -> list[tuple[SampleRequest, Example, int]]:
        """The examples of one part; what torch's DataLoader asks for.

        All are planned before the first is decoded: an image's pixels drive the interpreter out of
        the processor's caches, and the same Python takes several times as long after each.
        """
        found = [self._find(request.index) for request in requests]
        planned = [
            self._plan(request, annotations)
            for request, (_, annotations) in zip(requests, found, strict=True)
        ]
        return [
            (request, plan.example(self._pixels(request.index, *sources)), seed)
            for request, sources, (plan, seed) in zip(requests, found, planned, strict=True)
        ]

    def _find(self, index: int) -> tuple[Tensor | bytes, Annotations]:
        """The decoded image where it is kept, otherwise the encoded one; and its annotations."""
        kept = None if self.cache is None else self.cache.get(index)
        if kept is not None:
            return kept, self.reader.read_annotations(index)
        stored = self.reader.read(index)
        return stored.jpeg, stored.annotations

    def _plan(self, request: SampleRequest, annotations: Annotations) -> tuple[Plan, int]:
        """What to make of the image, and the sample's seed."""
        size = shrunk_size(annotations.height, annotations.width, self._short_side)
        rng = np.random.default_rng([self.seed, request.epoch, request.index])
        seed = int(rng.integers(2**62))
        return self.transform.plan(annotations, size, rng, request.padded), seed

    def _pixels(self, index: int, source: Tensor | bytes, annotations: Annotations) -> Tensor:
        if isinstance(source, Tensor):
            return source
        name = f"{self.reader.folder}: sample {annotations.key}"
        decoded = decode_image(source, name, self.reader.remedy)
        if decoded.shape[1:] != (annotations.height, annotations.width):
            raise UserError(
                f"{name}: {decoded.shape[2]} x {decoded.shape[1]} pixels where its record states "
                f"{annotations.width} x {annotations.height}: {self.reader.remedy}"
            )
        image = shrink(decoded, self._short_side)
        if self.cache is not None:
            self.cache.put(index, image)
        return image

    def collate(self, items: Sequence[tuple[SampleRequest, Example, int]]) -> Batch:
        """Samples of equal image size as a batch."""
        return collate(items)
