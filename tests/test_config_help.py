import ast
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import pytest
from pydantic import Field

import vocdist.config
from vocdist.cli import help_text
from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.help import plain_value, settings_help, type_name

REPO = Path(__file__).parents[1]
SCRIPTS = sorted((REPO / "scripts").glob("*.py"))


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "integer"),
        (Annotated[int, Field(ge=1)] | None, "integer ≥ 1 or null"),
        (Annotated[float, Field(ge=0.0, le=1.0)], "number 0 to 1"),
        (tuple[Annotated[float, Field(gt=0.0)], ...], "[number > 0, ...]"),
        (tuple[int, int], "[integer, integer]"),
        (Literal["a", 8], "a | 8"),
    ],
)
def test_types_are_written_as_a_user_writes_values(annotation: object, name: str) -> None:
    assert type_name(annotation) == name


def test_values_are_written_as_on_the_command_line() -> None:
    values = (None, True, ((64.0, 128.0), (256.0,)), 3e-4, Path("runs/a"))
    assert [plain_value(value) for value in values] == [
        *("null", "true", "[[64,128],[256]]", "0.0003", "runs/a")
    ]


def keys_of(config_type: type, prefix: str = "") -> list[str]:
    hints = get_type_hints(config_type)
    found = []
    for field in fields(config_type):
        inner = hints[field.name]
        below = keys_of(inner, f"{field.name}.") if is_dataclass(inner) else None
        found += below if below is not None else [prefix + field.name]
    return [key for key in found if key != "task"]


CONFIGS = [
    value
    for name, value in vars(vocdist.config).items()
    if name.endswith("Config") and is_dataclass(value)
]


@pytest.mark.parametrize("config_type", CONFIGS, ids=lambda t: t.__name__)
def test_every_setting_is_explained(config_type: type) -> None:
    lines = settings_help(config_type).splitlines()
    settings = [
        line.split("=")[0].strip() for line in lines if line.startswith("  ") and "=" in line
    ]
    for key in keys_of(config_type):
        assert key in settings, f"{key} is missing from the Attributes of its docstring"
        at = next(i for i, line in enumerate(lines) if line.startswith(f"  {key}="))
        assert lines[at + 1].startswith(" " * 6), f"{key} has no explanation"


def test_the_file_that_is_taken_by_default_gives_the_values() -> None:
    default = REPO / "configs" / "demo" / "rpn.yaml"
    assert "  train.epochs=3 " in help_text("", RpnConfig, default)
    assert "  train.epochs=8 " in help_text("", RpnConfig, REPO / "none.yaml")
    assert "  optim.lr=0.0003 " in help_text("", ClassifierConfig, None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_help_fits_the_screen_and_has_two_examples(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command"
    )
    named = [argument.id for argument in call.args[2:3] if isinstance(argument, ast.Name)]
    settings = getattr(vocdist.config, named[0]) if named else None
    text = help_text(ast.get_docstring(tree), settings, None)
    assert max(len(line) for line in text.splitlines()) <= 100
    examples = [line for line in text.splitlines() if line.startswith("  ") and script.name in line]
    assert len(examples) >= 2
    assert f"Usage: {script.name}" in text


def test_help_comes_from_the_real_script() -> None:
    done = subprocess.run(
        [sys.executable, str(REPO / "scripts" / "make_shards.py"), "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "  samples_per_shard=500 " in done.stdout
    assert "integer ≥ 1" in done.stdout
