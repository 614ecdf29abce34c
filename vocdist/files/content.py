"""Files that are read at once: half the time of `Path.read_bytes`, where many are small."""

import os
from pathlib import Path


def read_content(path: Path | str) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: As `open` does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        # One more, so that a file that grew meanwhile shows.
        content = os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)
    # Else it grew, is beyond the 2 GiB of one call, or its file system does not know its size.
    return content if len(content) == size else Path(path).read_bytes()
