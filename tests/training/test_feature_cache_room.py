import os
import shutil
from pathlib import Path

import pytest
from forked import CONTEXT

from vocdist.errors import UserError
from vocdist.training.feature_cache import GIB, hold_with_room


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path) -> None:
    paths = [tmp_path / f"{age}.safetensors" for age in range(4)]
    for age, path in enumerate(paths):
        path.write_bytes(bytes(1000))
        os.utime(path, (1e9 - age, 1e9 - age))
    new = tmp_path / "new.safetensors"
    hold = hold_with_room(tmp_path, {paths[3]: 1000, new: 1000}, 4000 / GIB)
    assert [path.exists() for path in paths] == [True, True, False, True]
    hold.release()
    # What cannot fit is refused before anything is removed.
    with pytest.raises(UserError, match=r"features\.max_gib"):
        hold_with_room(tmp_path, {paths[3]: 1000, new: 3500}, 4000 / GIB)
    assert [path.exists() for path in paths] == [True, True, False, True]
    with pytest.raises(UserError, match="the disk has"):
        hold_with_room(tmp_path, {new: 10.0 * shutil.disk_usage(tmp_path).total}, 1e12)


def test_what_another_run_uses_stays(tmp_path: Path) -> None:
    mine, theirs, coming = (tmp_path / f"{name}.safetensors" for name in ("mine", "a", "b"))
    theirs.write_bytes(bytes(1000))
    hold = hold_with_room(tmp_path, {theirs: 1000, coming: 2000}, 4000 / GIB)
    with pytest.raises(UserError, match=r"those of runs that are going .* features\.max_gib"):
        hold_with_room(tmp_path, {mine: 2000}, 4000 / GIB)
    assert theirs.exists()
    # Room for all three.
    hold_with_room(tmp_path, {mine: 2000}, 5000 / GIB).release()
    hold.release()
    hold_with_room(tmp_path, {mine: 3500}, 4000 / GIB).release()
    assert not theirs.exists()


def hold_and_die(folder: Path) -> None:
    hold = hold_with_room(folder, {folder / "a.safetensors": 1000}, 1)
    assert hold
    os.kill(os.getpid(), 9)


def test_what_a_killed_run_has_used_is_free(tmp_path: Path) -> None:
    child = CONTEXT.Process(target=hold_and_die, args=(tmp_path,))
    child.start()
    child.join(60)
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    assert list(tmp_path.glob(".*.in-use"))
    hold_with_room(tmp_path, {tmp_path / "b.safetensors": 900}, 1000 / GIB).release()
    assert list(tmp_path.glob("*.safetensors")) == list(tmp_path.glob(".*.in-use")) == []
