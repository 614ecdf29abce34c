"""Which room of the package may import which: the table of CONTRIBUTING.md, held by a test."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vocdist"

# Leaves: any room may use them, they use none.
LEAVES = {"errors", "exits", "atomic", "random_keys"}
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "exits": set(),
    "atomic": set(),
    "random_keys": set(),
    "remote": set(),
    "wandb_run": set(),
    "wandb_offline": set(),
    "config": {"remote"},
    "config_file": set(),
    "config_help": set(),
    "command": {"config_file", "config_help"},
    "voc": {"remote"},
    "shards": {"voc", "remote"},
    "data": {"shards", "remote"},
    "models": set(),
    "rpn": set(),
    "metrics": set(),
    "report": {"metrics", "voc"},
    "training": {
        *("wandb_run", "wandb_offline", "config", "config_file"),
        *("remote", "voc", "shards", "data"),
        *("models", "rpn", "metrics", "report"),
    },
    "inference": {
        *("config", "config_file", "shards", "data"),
        *("models", "rpn", "report", "training"),
    },
}
# Libraries that a single place hides from the rest.
HIDDEN = {
    "accelerate": "training/",
    "wandb": "wandb_",
    "webdataset": "shards/",
    "fsspec": "remote/",
    "tenacity": "remote/",
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
            assert node.level == 0, "write imports in full: from vocdist.room.module import name"
            # `from vocdist import rpn` names the room only in its second half.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken_rules(path: str, source: str) -> list[str]:
    """What a file at `path` below the package does that it may not."""
    room = path.partition("/")[0].removesuffix(".py")
    allowed = ROOMS[room] | {room} | (set() if room in LEAVES else LEAVES)
    broken = []
    for module in imported_modules(source):
        top, _, below = module.partition(".")
        target = below.partition(".")[0]
        if top == "vocdist" and target not in allowed and target != "__version__":
            broken.append(f"vocdist/{path}: {room} may not import {target}")
        if top in HIDDEN and not path.startswith(HIDDEN[top]):
            broken.append(f"vocdist/{path}: only {HIDDEN[top]} may import {top}")
        if top in ("scripts", "tests"):
            broken.append(f"vocdist/{path}: nothing may import {top}")
    return broken


def test_every_room_is_in_the_table() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms - {"__init__"} == set(ROOMS), "add new rooms to the table, here and in the docs"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(file: Path) -> None:
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
        ("rpn/head.py", "from vocdist.models.rpn.anchors import grid_anchors", False),
        ("rpn/head.py", "from vocdist.config import RpnConfig", True),
        ("rpn/head.py", "from vocdist import config", True),
        ("rpn/head.py", "def f():\n    import vocdist.training.loop", True),
        ("rpn/head.py", "from vocdist.errors import UserError", False),
        ("errors.py", "import vocdist.files.atomic", True),
        ("data/loader.py", "from accelerate import Accelerator", True),
        ("training/loop.py", "import accelerate.utils", False),
        ("training/loop.py", "import wandb", True),
        ("voc/demo.py", "from scripts.make_demo_data import main", True),
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
