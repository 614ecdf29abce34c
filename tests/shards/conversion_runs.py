"""The conversion as real processes that a test starts, watches and kills."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

# Shards of two samples, so that there are twelve to be killed between.
SETTINGS = ("name=test", "samples_per_shard=2", "split_seed=3", "pictures=false")


def command(root: Path, output: Path, *settings: str) -> list[str]:
    script = ("scripts/make_shards.py", "configs/demo/shards.yaml")
    return [sys.executable, *script, f"source={root}", f"output={output}", *SETTINGS, *settings]


def run(root, output, *settings, **options):
    return subprocess.run(
        command(root, output, *settings), capture_output=True, text=True, **options
    )


def start(root, output, *settings):
    # A group of its own, so that its workers can be killed with it.
    return subprocess.Popen(
        command(root, output, *settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def visible_files(output: Path) -> set[str]:
    return {p.name for p in output.iterdir() if p.name[0] != "."} if output.exists() else set()


def wait_for(output: Path, shards: int, process: subprocess.Popen) -> None:
    while (
        process.poll() is None and sum(n.endswith(".tar") for n in visible_files(output)) < shards
    ):
        time.sleep(0.0002)


def worker_pids(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children]


def is_running(pid: int) -> bool:
    try:
        # A zombie has ended, and waits for whoever inherited it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def check_no_half_file(output: Path, undisturbed: dict[str, str]) -> None:
    """Only final names: workers that live on rename their temporary files meanwhile."""
    for name in visible_files(output):
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == undisturbed[name], name
