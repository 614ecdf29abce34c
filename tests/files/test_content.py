import os

import pytest

from vocdist.files.atomic import read_content


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
def test_all_bytes_are_read(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    assert read_content(path) == read_content(str(path)) == path.read_bytes()


def test_a_file_that_does_not_know_its_size_is_read_to_its_end():
    # Those of /proc state 0 bytes.
    assert read_content("/proc/self/cmdline").count(b"\0") >= 1


def test_what_cannot_be_read_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_content(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        read_content(tmp_path)
