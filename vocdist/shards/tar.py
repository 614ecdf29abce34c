"""The members of a tar file as bytes that depend on name and content alone.

The very bytes that `webdataset.TarWriter(mtime=0)` writes, which the tests hold (but for names
that are not ASCII: plain UTF-8 here, where it adds a header), at a fraction of its time; and
webdataset imports torch, 2.5 s in every worker process.
"""

from functools import cache
from tarfile import BLOCKSIZE, NUL, RECORDSIZE, USTAR_FORMAT, TarInfo

# webdataset's defaults.
OWNER = "bigdata"
MODE = 0o444
# Where the fields that differ between members lie in a header.
NAME_BYTES, SIZE, CHECKSUM = 100, slice(124, 135), slice(148, 156)


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data; the name takes at most 100 bytes of UTF-8."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > NAME_BYTES:
        raise ValueError(f"{name!r} does not fit into a tar header")
    header = bytearray(_blank_header())
    header[: len(encoded)] = encoded
    header[SIZE] = b"%011o" % size
    # By definition the sum is that of a header whose checksum is blanks.
    header[CHECKSUM] = b" " * 8
    header[CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


@cache
def _blank_header() -> bytes:
    """The header of a nameless empty member: tarfile takes 50 µs for each, patching it takes 5."""
    info = TarInfo()
    info.mode = MODE
    info.uname = info.gname = OWNER
    return info.tobuf(USTAR_FORMAT)


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of data: members begin at multiples of 512."""
    return NUL * (-size % BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two blocks of zeros, and more up to a full record."""
    end = 2 * BLOCKSIZE
    return NUL * (end + -(size + end) % RECORDSIZE)
