"""What commands print when ranks fail, a reader goes away, or a terminal lacks characters."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import REPO, command, environment

SCRIPTS = sorted((REPO / "scripts").glob("*.py"))

FAILS_ON_SOME_RANKS = """
import os, sys, time
from vocdist.cli import run_command
from vocdist.errors import UserError

def main(arguments):
    if os.environ["RANK"] in arguments:
        raise UserError(f"host-{os.environ['RANK'] if 'differ' in arguments else 0}: do this")
    from vocdist.config.training import RuntimeConfig
    from vocdist.distributed.processes import build_accelerator
    build_accelerator(RuntimeConfig())
    time.sleep(600)

run_command(main, "doc")
"""


def launched(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(FAILS_ON_SOME_RANKS)
    return subprocess.run(
        command(script, *arguments, config="two_cpu"),
        cwd=REPO,
        env=environment() | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_error_on_one_rank_is_printed_and_ends_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    done = launched(tmp_path, "1")
    assert done.returncode != 0
    assert done.stderr.count("error (rank 1): host-0: do this\n") == 1
    # The other rank would wait for the first one for half an hour.
    assert time.monotonic() - began < 60


def test_an_error_that_all_ranks_find_is_printed_once(tmp_path: Path) -> None:
    done = launched(tmp_path, "0", "1")
    assert done.returncode != 0
    # By rank 0, unless it took seconds longer to start.
    assert done.stderr.count("host-0: do this\n") == 1


SAYS = """
import sys
from vocdist.cli import run_command
def main(arguments):
    for _ in range(int(arguments[0])):
        print("安全帽 ≥ 1", file=getattr(sys, arguments[1]))
run_command(main, "doc ≥ 1")
"""


def said(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    env = environment() | {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, "-c", SAYS, *arguments], env=env, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(encoding: str) -> None:
    shown = "安全帽 ≥ 1\n".encode(encoding, "backslashreplace")
    done = said("1", "stdout", encoding=encoding)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")
    done = said("--help", encoding=encoding)
    assert done.returncode == 0
    assert done.stdout == "doc ≥ 1\n".encode(encoding, "backslashreplace")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("lines", ["1", "100000"])
def test_a_reader_that_went_away_ends_the_command_quietly(
    tmp_path: Path, stream: str, lines: str
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    other = "stderr" if stream == "stdout" else "stdout"
    with (tmp_path / "other").open("w") as rest:
        done = subprocess.run(
            [sys.executable, "-c", SAYS, lines, stream],
            env=environment() | {"PYTHONPATH": str(REPO)},
            timeout=60,
            **{stream: write_end, other: rest},
        )
    os.close(write_end)
    assert done.returncode == 141
    assert (tmp_path / "other").read_text() == ""


def test_another_broken_pipe_keeps_its_traceback() -> None:
    code = (
        "import os\nfrom vocdist.cli import run_command\n"
        "def main(arguments):\n"
        "    r, w = os.pipe(); os.close(r); os.write(w, b'x')\n"
        "run_command(main, 'doc')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.mark.parametrize("script", ["train_rpn.py", "make_shards.py", "cache.py"])
def test_help_into_head_is_quiet(script: str) -> None:
    line = f"{sys.executable} {REPO / 'scripts' / script} --help | head -1"
    env = environment() | {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        ["bash", "-c", line], env=env, capture_output=True, text=True, timeout=100
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


def test_every_script_ends_through_the_same_door() -> None:
    assert SCRIPTS
    for script in SCRIPTS:
        assert "run_command(" in script.read_text(encoding="utf-8"), script.name
