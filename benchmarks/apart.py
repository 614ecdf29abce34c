"""What benchmarks share: a contender in a process of its own, a rival's script as a module."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType


def measured_apart(*options: str) -> dict[str, float]:
    """Run this benchmark once more with more options; what its last line of JSON says."""
    command = [sys.executable, *sys.argv, *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def imported(script: Path) -> ModuleType:
    """A script as a module; it may import its neighbours."""
    sys.path.insert(0, str(script.resolve().parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader, f"{script}: not a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
