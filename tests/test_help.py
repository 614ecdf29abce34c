"""`--help` answers at once: no script loads torch, matplotlib or W&B for it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "accelerate", "matplotlib", "sklearn", "wandb"}
CODE = """
import runpy, sys
script = sys.argv[1]
sys.argv = [script, "--help"]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded", *sorted(name for name in sys.modules if "." not in name))
"""


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.name)
def test_help_loads_nothing_heavy(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{ROOT}:{script.parent}", "PATH": ""},
    )
    assert "sage: " in done.stdout
    loaded = done.stdout.rpartition("loaded ")[2].split()
    assert not HEAVY & set(loaded)


def test_a_training_begins_without_what_only_its_end_or_wandb_needs() -> None:
    code = "import sys, vocdist.training.run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"matplotlib", "sklearn", "wandb"} & set(done.stdout.split())
