"""Decoded images in memory, kept from epoch to epoch and shared by the loader's processes."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vocdist.errors import UserError


class DecodedCache:
    """The first images of a split, as many as have room; each is decoded once, by whoever needs it.

    Nothing but time depends on it: what is read back are the bytes that were put in.
    """

    def __init__(self, sizes: np.ndarray, max_bytes: int, workers: int) -> None:
        """Reserve the memory.

        Args:
            sizes: (N, 2) rows (height, width) of the decoded images, pixels.
            max_bytes: Upper bound of the memory.
            workers: Loader processes that will share it; with 0 this process keeps it to itself.

        Raises:
            UserError: The system has less shared memory than that.
        """
        ends = np.cumsum(sizes.astype(np.int64).prod(axis=1) * 3)
        self._kept = int(np.searchsorted(ends, max_bytes, side="right"))
        self._sizes = sizes[: self._kept]
        self._starts = np.concatenate([[0], ends])[: self._kept + 1]
        self._pixels = _memory(int(self._starts[-1]), shared=workers > 0)
        self._filled = _memory(self._kept, shared=workers > 0).zero_()
        # Hits and misses of each process in a row of its own, since they count at the same time.
        counts = _memory((workers + 1) * 2 * 8, shared=workers > 0).zero_()
        self._counts = counts.view(torch.int64).view(workers + 1, 2)

    def __len__(self) -> int:
        """Images that have room."""
        return self._kept

    def get(self, index: int) -> Tensor | None:
        """The image (3, H, W) uint8, NHWC in memory, not to be written to; None when not here."""
        here = index < self._kept and bool(self._filled[index])
        worker = get_worker_info()
        self._counts[0 if worker is None else worker.id + 1, 0 if here else 1] += 1
        return self._slot(index) if here else None

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image, if it has room; the size must be the one that was announced."""
        if index >= self._kept:
            return
        slot = self._slot(index)
        if slot.shape != image.shape:
            raise ValueError(f"image {index} is {image.shape}, but {slot.shape} was reserved")
        slot.copy_(image)
        # Last: who sees this sees the pixels. Two processes that race write the same bytes.
        self._filled[index] = 1

    def take_hit_share(self) -> float:
        """Share of the requests since the last call that needed no decoding."""
        hits, misses = self._counts.sum(dim=0).tolist()
        self._counts.zero_()
        return float(hits / max(1, hits + misses))

    def _slot(self, index: int) -> Tensor:
        height, width = self._sizes[index].tolist()
        flat = self._pixels[int(self._starts[index]) : int(self._starts[index + 1])]
        return flat.view(height, width, 3).permute(2, 0, 1)


def _memory(size: int, *, shared: bool) -> Tensor:
    """(size,) uint8, not initialised."""
    if not shared:
        return torch.empty(size, dtype=torch.uint8)
    try:
        # What `share_memory_` does, without first filling as much memory that is not shared.
        storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UserError(
            f"no {size / 1e6:,.0f} MB of shared memory for decoded images ({error}): lower "
            f"data.decoded_cache or data.short_side, give the container more (docker run "
            f"--shm-size), or decode in the training process with data.num_workers=0"
        ) from None
    return torch.empty(0, dtype=torch.uint8).set_(storage)
