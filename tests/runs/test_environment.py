import json
import subprocess
from pathlib import Path

import torch

from vocdist.runs.environment import (
    ENVIRONMENT,
    PACKAGES,
    describe_environment,
    git_state,
    note_start,
    read_starts,
)


def test_it_says_what_a_result_may_depend_on() -> None:
    found = describe_environment(torch.device("cpu"), processes=2)
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert set(found["packages"]) == set(PACKAGES)
    assert (found["device"], found["processes"]) == ("cpu", 2)
    assert found["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_a_start_is_noted_where_something_is_new(tmp_path: Path) -> None:
    path = tmp_path / ENVIRONMENT
    assert read_starts(path) == []
    first = {"started": "1", "command": "a", "torch": "2"}
    note_start(path, first)
    note_start(path, {**first, "started": "2", "command": "b"})
    note_start(path, {**first, "started": "3", "torch": "3"})
    assert [start["started"] for start in read_starts(path)] == ["1", "3"]


def test_the_state_of_the_code(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=trunk")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "--message=a")
    clean = {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "changed_files": 0}
    assert git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**clean, "changed_files": 1}
