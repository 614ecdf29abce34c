"""What the documentation says to type is run, and what it quotes is what the code says."""

import ast
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import boto3
import pytest
from doc_commands import PAGES, REPO, blocks, check, commands, inline_commands
from docs_world import build_world, run
from moto.server import ThreadedMotoServer

from vocdist.errors import UserError

RUNNABLE = [
    page
    for page in PAGES
    if any(b.language in ("bash", "python") and not b.not_run for b in blocks(page))
]


@pytest.mark.parametrize("page", PAGES)
def test_commands_could_be_right(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    for block in blocks(page):
        if block.language == "bash":
            for words in commands(block.text):
                check(words)
        elif block.language == "python":
            compile(block.text, page, "exec")
        else:
            # A command without its language would be neither checked nor run.
            assert not re.match(r"(python|accelerate|make|pip|torchrun|sbatch) ", block.text), block
    for command in inline_commands(page):
        for words in commands(command):
            check(words)


@pytest.mark.parametrize(
    "command",
    [
        "python scripts/nothing.py",
        "python scripts/train_rpn.py train.epoch=3",
        "python scripts/train_rpn.py configs/none.yaml",
        "accelerate launch --config_file configs/accelerate/none.yaml scripts/train_rpn.py",
        "accelerate launch scripts/train_rpn.py --dry",
        "python scripts/evaluate.py runs/rpn matching.max=3",
        "python scripts/report.py runs/a --out b.html",
        "make tests",
        "pip install 'vocdist[s4]'",
        "rm -r runs",
    ],
)
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    with pytest.raises((AssertionError, UserError, OSError)):
        for words in commands(command):
            check(words)


def test_messages_are_the_code_s() -> None:
    quoted = [
        line
        for block in blocks("docs/errors.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(quoted) > 30
    gone = [line for line in quoted if not any(_says(text, line) for text in _texts_of_the_code())]
    assert not gone


def test_reasons_are_the_code_s() -> None:
    page = (REPO / "docs/own-data.md").read_text(encoding="utf-8")
    rows = page.partition("| reason |")[2].partition("\n\n")[0].splitlines()[2:]
    reasons = {slug for row in rows for slug in re.findall("`(.+?)`", row.split("|")[1])}
    assert len(reasons) > 20
    assert reasons <= _texts_of_the_code()


def test_what_is_not_run_names_tests_and_pages_that_are_there() -> None:
    reasons = [block.not_run for page in PAGES for block in blocks(page) if block.not_run]
    named = [path for reason in reasons for path in re.findall(r"(?:tests|docs)/\S+\w", reason)]
    assert named and not [path for path in named if not (REPO / path).is_file()]


@cache
def _texts_of_the_code() -> frozenset[str]:
    """All strings of the code, with `…` for what is put into them."""
    return frozenset(_texts())


def _texts() -> Iterator[str]:
    for path in (*REPO.glob("vocdist/**/*.py"), *REPO.glob("scripts/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _says(text: str, message: str) -> bool:
    """Whether the pieces of a message stand in a text, one after the other."""
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    return re.search(".*".join(pieces), text, re.DOTALL) is not None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "vocdist"
    root.mkdir()
    build_world(root)
    return root


@pytest.fixture(scope="module")
def bucket() -> Iterator[Mapping[str, str]]:
    """A real S3 server on this machine with the bucket `bucket`, as variables of the shell."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
    yield variables
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_commands_run(page: str, world: Path, bucket: Mapping[str, str], tmp_path: Path) -> None:
    root = tmp_path / "vocdist"
    shutil.copytree(world, root, symlinks=True)
    for block in blocks(page):
        if block.not_run or block.language not in ("bash", "python"):
            continue
        text = block.text
        if block.language == "python":
            (root / "example.py").write_text(text, encoding="utf-8")
            text = "python example.py"
        run(root, text, bucket)
