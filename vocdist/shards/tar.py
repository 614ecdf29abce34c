"""The members of a tar file as bytes that depend on name and content alone.

The very bytes that `webdataset.TarWriter(mtime=0)` writes, which the tests hold (but for names
that are not ASCII: plain UTF-8 here, where it adds a header), at a fraction of its time; and
webdataset imports torch, 2.5 s in every worker process.
"""

from tarfile import BLOCKSIZE, NUL, RECORDSIZE, USTAR_FORMAT, TarInfo

# webdataset's defaults.
OWNER = "bigdata"
MODE = 0o444


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data."""
    info = TarInfo(name)
    info.size = size
    info.mode = MODE
    info.uname = info.gname = OWNER
    return info.tobuf(USTAR_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of data: members begin at multiples of 512."""
    return NUL * (-size % BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two blocks of zeros, and more up to a full record."""
    end = 2 * BLOCKSIZE
    return NUL * (end + -(size + end) % RECORDSIZE)
