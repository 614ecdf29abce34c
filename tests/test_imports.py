"""Which folder of the package may import which: imports only go down, held by a test."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vocdist"

# From the ground up: a folder or file may import what stands before it, and nothing after it.
FLOORS = (
    "errors",
    "files",
    "remote",
    "config",
    "cli",
    "voc",
    "shards",
    "data",
    "models",
    "metrics",
    "drawing",
    "distributed",
    "runs",
    "tasks",
    "report",
    "inference",
    "training",
)
# What stands below and is not needed all the same.
APART = {
    "models": {"remote", "config", "cli", "voc", "shards", "data"},
    "metrics": {"remote", "config", "cli", "voc", "shards", "data", "models"},
    "drawing": {"remote", "config", "cli", "voc", "shards", "data", "models"},
    "runs": {"cli", "voc", "models"},
    "inference": {"report"},
}
# Libraries that a few places hide from the rest.
HIDDEN = {
    "accelerate": ("distributed/", "training/"),
    "wandb": ("runs/wandb.py",),
    "webdataset": ("shards/",),
    "fsspec": ("remote/",),
    "tenacity": ("remote/",),
}

# Where the package itself may import: in functions, and for type checkers alone.
FUNCTION_OR_IF = (ast.FunctionDef, ast.If)

FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(source: str) -> Iterator[str]:
    """Dotted names of all imports, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full: from vocdist.folder.module import name"
            # `from vocdist import models` names the folder only in its second half.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken_rules(path: str, source: str) -> list[str]:
    """What a file at `path` below the package does that it may not."""
    folder = path.partition("/")[0].removesuffix(".py")
    allowed = {*FLOORS[: FLOORS.index(folder) + 1]} - APART.get(folder, set())
    broken = []
    for module in imported_modules(source):
        top, _, below = module.partition(".")
        target = below.partition(".")[0]
        if top == "vocdist" and target not in allowed and target != "__version__":
            broken.append(f"vocdist/{path}: {folder} may not import {target}")
        if top in HIDDEN and not path.startswith(HIDDEN[top]):
            broken.append(f"vocdist/{path}: only {', '.join(HIDDEN[top])} may import {top}")
        if top in ("scripts", "tests", "examples"):
            broken.append(f"vocdist/{path}: nothing may import {top}")
    return broken


def test_every_folder_has_its_floor() -> None:
    folders = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert folders - {"__init__"} == set(FLOORS), "add it to FLOORS, here and in ARCHITECTURE.md"


def test_the_choice_of_a_task_is_made_in_tasks_alone() -> None:
    choice = re.compile(r"isinstance\([^)]*(Config|Task)\b")
    found = [path for path in FILES if choice.search(path.read_text(encoding="utf-8"))]
    assert not [path for path in found if path.parent.name != "tasks"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_only_go_down(file: Path) -> None:
    path, source = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
    if path == "__init__.py":
        below_functions = [n for n in ast.parse(source).body if not isinstance(n, FUNCTION_OR_IF)]
        top = "\n".join(ast.unparse(node) for node in below_functions)
        assert not list(imported_modules(top)), "importing vocdist does no work"
    else:
        assert not broken_rules(path, source)


@pytest.mark.parametrize("file", sorted((ROOT / "scripts").glob("*.py")), ids=lambda f: f.name)
def test_scripts_do_not_import_each_other(file: Path) -> None:
    siblings = {script.stem for script in file.parent.glob("*.py")} | {"scripts"}
    names = imported_modules(file.read_text(encoding="utf-8"))
    assert not siblings & {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("path", "source", "breaks"),
    [
        ("models/rpn/network.py", "from vocdist.models.rpn.anchors import grid_anchors", False),
        ("models/rpn/network.py", "from vocdist.config import RpnConfig", True),
        ("models/rpn/network.py", "from vocdist import config", True),
        ("models/rpn/network.py", "def f():\n    import vocdist.training.loop", True),
        ("models/rpn/network.py", "from vocdist.errors import UserError", False),
        ("errors.py", "import vocdist.files.atomic", True),
        ("inference/trained.py", "from vocdist.training.loop import Trainer", True),
        ("report/page.py", "import vocdist.training", True),
        ("data/loader.py", "from accelerate import Accelerator", True),
        ("training/loop.py", "import accelerate.utils", False),
        ("training/loop.py", "import wandb", True),
        ("voc/source.py", "from scripts.make_demo_data import main", True),
    ],
)
def test_the_rules_catch_what_they_should(path: str, source: str, breaks: bool) -> None:
    assert bool(broken_rules(path, source)) is breaks


def test_importing_the_package_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import vocdist;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["vocdist"]
