"""Images of varying size in one batch."""

from dataclasses import dataclass

import numpy as np

from vocdist.data.geometry import fitted_size, padded_size


@dataclass(frozen=True)
class Padding:
    """How images of varying size share a batch.

    Attributes:
        short_side: See `fitted_size`, pixels.
        long_side: See `fitted_size`, pixels.
        multiple: The padded sides are multiples of this, pixels.
        snap: Scale to multiples of `multiple` instead of padding to them; then a batch holds images
            of one size, otherwise of one orientation.
    """

    short_side: int
    long_side: int
    multiple: int
    snap: bool = False

    def sizes(self, stored: np.ndarray) -> np.ndarray:
        """(N, 2) stored (height, width) -> (N, 2) scaled ones, pixels."""
        bounds = self.short_side, self.long_side, self.multiple if self.snap else 1
        scaled = [fitted_size(height, width, *bounds) for height, width in stored.tolist()]
        return np.asarray(scaled).reshape(-1, 2)

    def groups(self, sizes: np.ndarray) -> np.ndarray:
        """(N, 2) scaled sizes -> (N,) ids: images of one id may share a batch."""
        if self.snap:
            return np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)
        return (sizes[:, 0] > sizes[:, 1]).astype(int)

    def padded(self, sizes: np.ndarray) -> tuple[int, int]:
        """(N, 2) scaled sizes of a batch -> the (height, width) that it shares, pixels."""
        return padded_size(sizes, self.multiple)
