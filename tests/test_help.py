"""`--help` answers at once: no script loads torch, matplotlib or W&B for it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "accelerate", "matplotlib", "sklearn", "wandb"}
CODE = """
import runpy, sys
heavy = set(sys.argv.pop().split())
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    sys.path.insert(0, script.rpartition("/")[0])
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, (script, end.code)
    assert not heavy & set(sys.modules), (script, heavy & set(sys.modules))
"""


def test_help_loads_nothing_heavy() -> None:
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, scripts), " ".join(HEAVY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sage: ") == len(scripts) > 10


def test_a_training_begins_without_what_only_its_end_or_wandb_needs() -> None:
    code = "import sys, vocdist.training.run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"matplotlib", "sklearn", "wandb"} & set(done.stdout.split())
