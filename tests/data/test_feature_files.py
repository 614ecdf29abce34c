import pickle
import resource
from pathlib import Path

import pytest
import torch

from vocdist.data.features import FeatureFiles, FeatureUnit, is_whole, write_features
from vocdist.errors import UserError


def levels(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(4, 6, 3).half(), torch.randn(2, 3, 5).half()]


def written(folder: Path) -> FeatureFiles:
    """Five samples in two files, and their mirror images, which are samples 10 to 14."""
    units = []
    for first, stop in ((0, 3), (3, 5)):
        files = (folder / f"{first}", folder / f"{first}-mirrored")
        for file, offset in zip(files, (0, 10), strict=True):
            write_features(file, [levels(i + offset) for i in range(first, stop)])
        units.append(FeatureUnit(first, stop, files))
    return FeatureFiles(units, levels=2)


def test_every_sample_and_copy_comes_back_to_the_bit(tmp_path: Path) -> None:
    files = written(tmp_path)
    for index in (4, 0, 2, 3, 1):
        for offset in (0, 10):
            found = files.read(index, mirrored=offset > 0)
            assert all(map(torch.equal, found, levels(index + offset)))


def test_a_full_disk_is_named_with_the_settings(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*another features\.folder"):
            write_features(tmp_path / "a", [levels(0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_files_survive_the_way_to_a_spawned_worker(tmp_path: Path) -> None:
    files = written(tmp_path)
    files.read(0)
    there = pickle.loads(pickle.dumps(files))
    assert all(map(torch.equal, there.read(4), levels(4)))


def test_a_changed_bit_a_cut_file_and_another_count_are_noticed(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "0"
    assert is_whole(path, 3)
    assert not is_whole(path, 2)
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert not is_whole(path, 3)
    path.write_bytes(content[:-9])
    assert not is_whole(path, 3)
    path.unlink()
    assert not is_whole(path, 3)


def test_what_fp16_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"features\.cache=false"):
        write_features(tmp_path / "x", [[torch.full((1, 1, 1), 1e6).half()]])
    assert not list(tmp_path.iterdir())


def test_a_file_that_went_away_says_what_to_do(tmp_path: Path) -> None:
    files = written(tmp_path)
    (tmp_path / "3").unlink()
    with pytest.raises(UserError, match="start again"):
        files.read(3)
