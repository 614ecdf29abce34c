"""The commands in Markdown files: where they stand, and whether they could be right.

A block is run unless a comment before it says why not:

    <!-- not run: it needs several GPUs -->
    ```bash
"""

import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.commands.launch import launch_command_parser

from vocdist.cli import config_from_arguments, split_arguments, split_places, take_option
from vocdist.config import (
    ClassifierConfig,
    ExportConfig,
    PredictConfig,
    ProposeConfig,
    RpnConfig,
    ShardsConfig,
    VisualizeConfig,
)
from vocdist.config.file import load_config
from vocdist.errors import UserError
from vocdist.training.modes import take_mode

REPO = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(REPO).as_posix()
    for path in (
        *REPO.glob("docs/*.md"),
        *REPO.glob("benchmarks/*.md"),
        REPO / "README.md",
        REPO / "CONTRIBUTING.md",
    )
)
BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n"
    r"(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`((?:python scripts/|accelerate launch [^`]*\.py|make )[^`]*)`")
# Programs whose arguments are nothing of ours.
PLAIN = {"cat", "cd", "head", "ls", "sed", "sha256sum", "sort", "source", "tail", "tar", "wandb"}
SEPARATORS = {"&&", "||", "|", ";"}
# Where a command's output goes.
FILE = re.compile(r" > \S+")


@dataclass(frozen=True)
class Block:
    """A block of a page; `not_run` says why it is only looked at."""

    page: str
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        """For the name of a test."""
        return f"{self.page}: {self.text.splitlines()[0]}"


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [
        Block(page, found["language"], textwrap.dedent(found["text"]), found["reason"])
        for found in BLOCK.finditer((REPO / page).read_text(encoding="utf-8"))
    ]


def inline_commands(page: str) -> list[str]:
    """Commands within the sentences of a page, those with an ellipsis apart."""
    text = BLOCK.sub("", (REPO / page).read_text(encoding="utf-8"))
    found = (" ".join(command.split()) for command in INLINE.findall(text))
    return [command for command in found if "…" not in command]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a piece of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(FILE.sub("", line), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
            elif words:
                yield words
                words = []


def check(words: Sequence[str]) -> None:
    """Raise what the command itself would say of its arguments; nothing is run."""
    words = [word for i, word in enumerate(words) if not _is_variable(words, i)]
    match words:
        case ["python", script, *arguments]:
            check_script(script, arguments)
        case ["accelerate", "launch", *arguments]:
            options, script, rest = _around_script(arguments)
            launched = launch_command_parser().parse_args([*options, script, *rest])
            assert launched.config_file is None or (REPO / launched.config_file).is_file()
            check_script(script, rest)
        case ["torchrun", *arguments]:
            check_script(*_around_script(arguments)[1:])
        case ["sbatch", *arguments]:
            batch = next(i for i, word in enumerate(arguments) if word.endswith(".sh"))
            assert (REPO / arguments[batch]).is_file()
            check_script(arguments[batch + 1], arguments[batch + 2 :])
        case ["make", *targets]:
            makefile = (REPO / "Makefile").read_text(encoding="utf-8")
            assert all(f"\n{target}:" in makefile for target in targets), targets
        case ["pip", "install", package]:
            project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
            assert package[len("vocdist[") : -1] in project["project"]["optional-dependencies"]
        case [program, *_]:
            assert program in PLAIN or program.startswith(".venv/bin/"), program


def check_script(script: str, arguments: Sequence[str]) -> None:
    """Look at a script's arguments as the script does: its options, its config, its settings."""
    source = (REPO / script).read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    for option in {*options} - {"--help", "--debug"}:
        assert re.search(rf"{option}(?![\w-])", source), f"{script} knows no {option}"
    name = Path(script).name
    if script.startswith("scripts/") and "--help" not in arguments:
        ARGUMENTS.get(name, _no_settings)([word for word in arguments])


def _training(kind: type, default: str) -> Callable[[list[str]], object]:
    return lambda arguments: config_from_arguments(kind, take_mode(arguments)[1], Path(default))


def _settings(kind: type) -> Callable[[list[str]], object]:
    return lambda arguments: load_config(kind, None, split_places(arguments)[1])


def _evaluation(arguments: list[str]) -> object:
    _, overrides = split_arguments(take_option(arguments, "--json")[1])
    try:
        return load_config(ClassifierConfig, None, overrides)
    except UserError:
        return load_config(RpnConfig, None, overrides)


def _demo_data(arguments: list[str]) -> None:
    assert all(word.startswith(("images=", "seed=")) for word in arguments[1:])


def _no_settings(arguments: list[str]) -> None:
    assert not [word for word in arguments if "=" in word and not word.startswith("--")]


ARGUMENTS: dict[str, Callable[[list[str]], Any]] = {
    "evaluate.py": _evaluation,
    "export.py": _settings(ExportConfig),
    "make_demo_data.py": _demo_data,
    "make_shards.py": _training(ShardsConfig, "configs/shards/voc2012.yaml"),
    "predict.py": _settings(PredictConfig),
    "propose.py": _settings(ProposeConfig),
    "train_classifier.py": _training(ClassifierConfig, "configs/classifier.yaml"),
    "train_rpn.py": _training(RpnConfig, "configs/rpn.yaml"),
    "visualize.py": _settings(VisualizeConfig),
}


def _is_variable(words: Sequence[str], place: int) -> bool:
    """Whether a word sets a variable for the command: only such words come before it."""
    return all(re.match(r"[A-Z_]+=", word) for word in words[: place + 1])


def _around_script(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    place = next(i for i, word in enumerate(arguments) if word.endswith(".py"))
    return list(arguments[:place]), arguments[place], list(arguments[place + 1 :])
