"""Whole files are read once, and again when they have changed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocdist.files.checked import file_sha256, forget, is_still_right, note_path, sha256_once

LONG_AGO = time.time() - 1000


class Counted:
    """A check that says how often it was made."""

    def __init__(self, *, answer: bool = True) -> None:
        self.answer, self.count = answer, 0

    def __call__(self) -> bool:
        self.count += 1
        return self.answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def rewritten(path: Path) -> None:
    path.write_bytes(b"two")
    os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, (LONG_AGO, LONG_AGO))
    os.replace(other, path)


def grown(path: Path) -> None:
    path.write_bytes(b"three")
    os.utime(path, (LONG_AGO, LONG_AGO))


CHANGES = pytest.mark.parametrize("change", [rewritten, replaced, grown])


@CHANGES
def test_a_note_lasts_until_the_file_changes(file: Path, change) -> None:  # type: ignore[no-untyped-def]
    check = Counted()
    assert all(is_still_right(file, check) for _ in range(3))
    assert check.count == 1
    # When it was last used says nothing of its content.
    os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
    assert is_still_right(file, check) and check.count == 1
    assert is_still_right(file, check, "another question") and check.count == 2
    change(file)
    check.answer = False
    assert not is_still_right(file, check, "another question") and check.count == 3


def test_a_check_that_failed_is_made_again_as_is_one_that_was_forgotten(file: Path) -> None:
    check = Counted(answer=False)
    assert not is_still_right(file, check) and not is_still_right(file, check)
    check.answer = True
    assert is_still_right(file, check) and check.count == 3
    forget(file)
    assert is_still_right(file, check) and check.count == 4
    file.unlink()
    assert not is_still_right(file, check) and check.count == 4


def test_a_file_that_was_written_just_now_is_not_remembered(file: Path) -> None:
    os.utime(file)
    check = Counted()
    assert is_still_right(file, check) and is_still_right(file, check)
    assert check.count == 2 and not note_path(file).exists()
    first = sha256_once(file)
    file.write_bytes(b"two")
    assert sha256_once(file) != first


@CHANGES
def test_a_hash_is_that_of_the_file_as_it_is(file: Path, change) -> None:  # type: ignore[no-untyped-def]
    first = sha256_once(file)
    assert first == sha256_once(file) == file_sha256(file)
    change(file)
    assert sha256_once(file) == file_sha256(file) != first


def test_one_process_hashes_a_file_once(file: Path) -> None:
    first, before = sha256_once(file), file.stat()
    # Content that changes and keeps size, time and inode shows that the file was not read again.
    with file.open("r+b") as stream:
        stream.write(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sha256_once(file) == first != file_sha256(file)


RANKS = """
import os, subprocess, sys
rank = '''
import sys
from pathlib import Path
from vocdist.files import checked
real = checked.file_sha256
def counted(path):
    print("read", flush=True)
    return real(path)
checked.file_sha256 = counted
for _ in range(4):
    digest = checked.sha256_once(Path(sys.argv[1]))
print(digest)
'''
env = os.environ | {"LOCAL_WORLD_SIZE": "3"}
ranks = [subprocess.Popen([sys.executable, "-c", rank, sys.argv[1]], env=env) for _ in range(3)]
sys.exit(max(rank.wait() for rank in ranks))
"""


def test_the_ranks_of_one_start_hash_a_file_once_and_the_next_start_again(
    file: Path, tmp_path: Path
) -> None:
    digest = file_sha256(file)
    (tmp_path / "tmp").mkdir()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", RANKS, str(file)],
            env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert (done.stdout.count("read"), done.stdout.count(digest)) == (1, 3)
    # What another user may have put there is not read.
    (user,) = (tmp_path / "tmp").iterdir()
    assert user.stat().st_mode & 0o077 == 0
