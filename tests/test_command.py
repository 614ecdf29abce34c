import runpy
from pathlib import Path

import pytest
from launch import REPO

from vocdist.cli import config_from_arguments, run_command, split_arguments, take_option
from vocdist.config import ClassifierConfig, ShardsConfig
from vocdist.errors import UserError


def test_file_and_overrides_are_told_apart() -> None:
    assert split_arguments(["a.yaml", "train.epochs=3"]) == ("a.yaml", ["train.epochs=3"])
    assert split_arguments(["x=1", "runs/a"]) == ("runs/a", ["x=1"])
    assert split_arguments([]) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "override"),
    [
        (["--resume"], "train.resume=auto"),
        (["--resume", "never"], "train.resume=never"),
        (["--resume", "a=b"], "train.resume=auto"),
        (["--resume=runs/a/checkpoints/step-1"], "train.resume=runs/a/checkpoints/step-1"),
    ],
)
def test_resume_is_a_spelled_out_override(arguments: list[str], override: str) -> None:
    assert override in split_arguments(arguments)[1]


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(UserError, match="unknown option --epochs"):
        split_arguments(["--epochs", "3"])
    with pytest.raises(UserError, match="unexpected argument 'b'"):
        split_arguments(["a", "b"])


def test_an_option_is_taken_out() -> None:
    assert take_option(["a", "--json", "f", "b=1"], "--json") == ("f", ["a", "b=1"])
    assert take_option(["--json=f"], "--json") == ("f", [])
    assert take_option(["a"], "--json") == (None, ["a"])
    with pytest.raises(UserError, match="--json needs a value"):
        take_option(["--json"], "--json")


def test_a_user_error_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> None:
        raise UserError("a.yaml: do this")

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as caught:
        run_command(main, "doc")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: a.yaml: do this\n"


def test_help_prints_the_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["script", "--help"])
    run_command(lambda arguments: pytest.fail("ran"), "Usage: this\n")
    assert capsys.readouterr().out == "Usage: this\n"


def test_debug_adds_the_traceback_and_is_no_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def main(arguments: list[str]) -> None:
        seen.append(arguments)
        raise UserError("a.yaml: do this")

    monkeypatch.setattr("sys.argv", ["script", "a.yaml", "--debug"])
    for is_mode in (False, True):
        with pytest.raises(SystemExit) as caught:
            run_command(main, "doc", debug_is_mode=is_mode)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" in error and error.endswith("\nerror: a.yaml: do this\n")
    assert seen == [["a.yaml"], ["a.yaml", "--debug"]]


def test_the_default_config_is_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "repo" / "scripts" / "train.py"
    (tmp_path / "repo" / "configs").mkdir(parents=True)
    (tmp_path / "repo" / "configs" / "a.yaml").write_text("train: {epochs: 5}")
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.chdir(tmp_path)
    default = Path("configs/a.yaml")
    assert config_from_arguments(ClassifierConfig, [], default).train.epochs == 5
    # What lies in the present folder goes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").write_text("train: {epochs: 6}")
    assert config_from_arguments(ClassifierConfig, [], default).train.epochs == 6


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_the_system_refuses_is_one_line_with_the_path(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: str,
) -> None:
    (tmp_path / "file").touch()

    def main(arguments: list[str]) -> None:
        (tmp_path / "file" / "run").mkdir(parents=True)

    monkeypatch.setattr("sys.argv", ["script"])
    # Each machine may have an error of its own.
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as caught:
        run_command(main, "doc")
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.count("\n") == 1
    where = f"{tmp_path / 'file' / 'run'}: cannot be read or written (Not a directory): mend that"
    assert where in said and "or choose another place" in said


def test_a_full_disk_is_one_line_and_other_errors_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: list[str]) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    def odd(arguments: list[str]) -> None:
        raise OSError("no number, no file")

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit):
        run_command(full, "doc")
    assert "error: cannot be read or written (No space left" in capsys.readouterr().err
    with pytest.raises(OSError, match="no number"):
        run_command(odd, "doc")


def test_evaluate_looks_at_its_json_before_it_measures(tmp_path: Path) -> None:
    evaluate = runpy.run_path(str(REPO / "scripts" / "evaluate.py"))["main"]
    with pytest.raises(UserError, match=f"--json {tmp_path}: no file can be written there"):
        evaluate(["runs/none", "--json", str(tmp_path)])


@pytest.mark.parametrize(
    ("config", "arguments", "line"),
    [
        (ShardsConfig, ["{voc}"], "{voc} is a folder: .*: source={voc}$"),
        (ShardsConfig, ["{voc}", "{new}"], "{voc} is a folder: .*: source={voc} output={new}$"),
        (ShardsConfig, ["s3://b/voc"], "s3://b/voc is a URL: .*: source=s3://b/voc$"),
        (ShardsConfig, ["{yaml}", "{voc}"], "{voc} is a folder: .*: {yaml} source={voc}$"),
        (ClassifierConfig, ["{new}"], "{new} is no config file: .*: data.shards={new}$"),
        (ClassifierConfig, ["{yaml}", "{yaml}"], "unexpected argument"),
        (ShardsConfig, ["a", "b", "c"], "unexpected argument 'c'"),
        (ClassifierConfig, ["missing.yaml"], "missing.yaml: no such config"),
    ],
)
def test_a_place_without_its_key_is_answered_with_the_line(
    tmp_path: Path, config: type, arguments: list[str], line: str
) -> None:
    places = {"voc": tmp_path / "voc", "new": tmp_path / "new", "yaml": tmp_path / "a.yaml"}
    places["voc"].mkdir()
    places["yaml"].touch()
    with pytest.raises(UserError, match=line.format(**places)):
        config_from_arguments(config, [a.format(**places) for a in arguments], Path("none.yaml"))
