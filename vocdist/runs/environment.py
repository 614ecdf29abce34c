"""What a run was started on: versions, device, state of the code; kept in `environment.json`."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vocdist.data.workers import usable_cores
from vocdist.files.atomic import replaced_when_done

ENVIRONMENT = "environment.json"

# What a result may depend on.
PACKAGES = (
    *("vocdist", "torch", "torchvision", "accelerate", "numpy", "scikit-learn"),
    *("pillow", "simplejpeg", "webdataset", "wandb"),
)
_SOURCE = Path(__file__).parents[2]


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Plain values, ready for JSON; what cannot be found out is null."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
        "device": _device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "git": git_state(_SOURCE),
    }


def note_start(path: Path, found: Mapping[str, Any]) -> None:
    """Add what a start found to the file, unless the start before found the same."""
    starts = read_starts(path)
    volatile = ("started", "command")
    if starts and all(
        starts[-1].get(key) == value for key, value in found.items() if key not in volatile
    ):
        return
    with replaced_when_done(path) as temporary:
        text = json.dumps([*starts, dict(found)], indent=1) + "\n"
        temporary.write_text(text, encoding="utf-8")


def read_starts(path: Path) -> list[dict[str, Any]]:
    """What `note_start` wrote; nothing where there is no such file."""
    if not path.is_file():
        return []
    starts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return starts


def remembered_shards(path: Path) -> Path | None:
    """Where the shards of a run's last start lay, if that was a folder."""
    places = [start["shards"] for start in read_starts(path) if start.get("shards")]
    return Path(places[-1]) if places else None


def git_state(folder: Path) -> Mapping[str, Any] | None:
    """Commit and branch of the source, and whether files differ from it; None outside git."""
    # An installed package may lie inside somebody's repository: only our own is meant.
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "changed_files": len(changed.splitlines()) if changed is not None else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command: Sequence[str] = ("git", "-C", str(folder), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"cuda: {torch.cuda.get_device_name(device)}, {memory:.0f} GiB"
    return device.type


def _cpu_name() -> str | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _memory() -> str | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return f"{total / 2**30:.1f} GiB"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
