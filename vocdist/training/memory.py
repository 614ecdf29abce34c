"""Memory on a CPU: what a step frees is there for the next one."""

import ctypes
import sys

# glibc's names for what `mallopt` sets (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def reuse_memory() -> bool:
    """Have the allocator keep freed memory; whether there is one that can be told so (glibc).

    A training step frees hundreds of megabytes of activations. By default each large block goes
    back to the system at once, and the next step has it mapped and zeroed again, page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # No block in a mapping of its own, and the heap's end is not given back below 2 GB.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
