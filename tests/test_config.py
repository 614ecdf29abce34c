import re
from pathlib import Path

import pytest

from vocdist.config import (
    ClassifierConfig,
    PredictConfig,
    RpnConfig,
    ShardsConfig,
    VisualizeConfig,
)
from vocdist.config.file import config_differences, load_config, save_config
from vocdist.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TYPES = {"classifier": ClassifierConfig, "rpn": RpnConfig, "shards": ShardsConfig}


def config_type(path: Path) -> type:
    return ShardsConfig if path.parent.name == "shards" else TYPES[path.stem]


# W&B reads those of the sweeps: see tests/training/test_sweeps.py.
NOT_OURS = ("accelerate", "sweeps")
FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name not in NOT_OURS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_in_the_repo_loads_and_survives_a_round_trip(
    path: Path, tmp_path: Path
) -> None:
    config = load_config(config_type(path), path)
    save_config(config, tmp_path / "again.yaml")
    assert load_config(config_type(path), tmp_path / "again.yaml") == config


def test_the_notebooks_recipe_is_as_the_notebook_has_it() -> None:
    classifier = load_config(ClassifierConfig, CONFIGS / "notebook/classifier.yaml")
    assert classifier.input.size == 192
    assert classifier.input.eval_crop == pytest.approx(192 / 220)
    assert (classifier.train.epochs, classifier.train.global_batch) == (8, 32)
    assert (classifier.optim.lr, classifier.optim.schedule) == (3e-4, "cosine_by_epoch")
    rpn = load_config(RpnConfig, CONFIGS / "notebook/rpn.yaml")
    assert (rpn.train.epochs, rpn.train.global_batch, rpn.train.clip_norm) == (3, 1, 5.0)
    assert rpn.model.scales == ((32, 64, 128),)
    assert (rpn.input.pad_multiple, rpn.input.one_based, rpn.train.eval_batch) == (1, False, 1)
    assert (rpn.matching.max_positives, rpn.matching.max_negatives) == (256, 256)
    assert (rpn.matching.max_total, rpn.matching.best_anchor_min_iou) == (None, 0.0)


def test_overrides_win_and_are_typed() -> None:
    config = load_config(
        RpnConfig, None, ["train.epochs=5", "optim.lr=1e-4", "model.scales=[[8, 16]]"]
    )
    assert (config.train.epochs, config.optim.lr) == (5, 1e-4)
    assert config.model.scales == ((8.0, 16.0),)


def test_a_bare_no_means_full_precision() -> None:
    config = load_config(ClassifierConfig, None, ["runtime.mixed_precision=no"])
    assert config.runtime.mixed_precision == "fp32"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=3", r"unknown key 'epochs'.*'train\.epochs'"),
        ("train.epoch=3", r"unknown key 'train\.epoch'.*'train\.epochs'"),
        ("traim.epochs=3", r"'train\.epochs'"),
        ("train.epochs=many", r"train\.epochs='many'.*integer"),
        ("train.epochs=0", r"train\.epochs=0.*greater than or equal to 1"),
        ("runtime.device=tpu", r"runtime\.device='tpu'.*'auto', 'cpu', 'cuda' or 'mps'"),
        ("train.epochs", r"not an override.*section\.key=value"),
        ("train=3", r"'train' on the command line is a section"),
        ("train.seed=-1", r"greater than or equal to 0"),
        ("train.epochs=[", r"not a YAML value"),
        ("input.crop_scale=[1.0, 0.3]", r"crop_scale=.*: the lower bound comes first$"),
        ("input.crop_ratio=[2, 0.5]", r"crop_ratio=.*: the lower bound comes first$"),
        (
            "input.color_jitter=[0.1]",
            r"input\.color_jitter=\[0\.1\]: too few values, 3 are needed$",
        ),
        ("optim.weight_decay=-1", r"greater than or equal to 0"),
    ],
)
def test_a_slip_is_answered_with_the_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(ClassifierConfig, None, [override])


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(UserError, match=r"a\.yaml: no such config"):
        load_config(ClassifierConfig, path)
    for text in ("- a list", "train: [", "just words"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.yaml"):
            load_config(ClassifierConfig, path)
    path.write_text("train: {epochz: 3}")
    with pytest.raises(UserError, match=r"a\.yaml.*train\.epochs"):
        load_config(ClassifierConfig, path)


def test_a_section_whose_lines_are_commented_out_keeps_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train:\n  # epochs: 3\ndata: {num_workers: 0}\n")
    config = load_config(ClassifierConfig, path)
    assert (config.train.epochs, config.data.num_workers) == (8, 0)


@pytest.mark.parametrize("keys", ["2008_000008", "000012", "009963", "42", "img 1"])
def test_file_stems_stay_as_they_are_written(keys: str) -> None:
    assert load_config(VisualizeConfig, None, [f"keys=[{keys}]"]).keys == (keys,)


@pytest.mark.parametrize(
    ("text", "value"), [("3e-4", 3e-4), ("1.", 1.0), (".5", 0.5), ("2", 2.0), ("1E3", 1000.0)]
)
def test_numbers_are_read_as_yaml_1_2_has_them(text: str, value: float) -> None:
    assert load_config(ClassifierConfig, None, [f"optim.lr={text}"]).optim.lr == value


def test_a_home_folder_is_expanded() -> None:
    config = load_config(ClassifierConfig, None, ["data.shards=~/shards"])
    assert config.data.shards == Path.home() / "shards"


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(UserError, match=r"'output' is not set"):
        load_config(ShardsConfig, None, ["source=/somewhere"])


def test_differences_name_keys_and_both_values() -> None:
    old = load_config(ClassifierConfig, None, [])
    new = load_config(ClassifierConfig, None, ["train.epochs=9", "tracking.wandb=disabled"])
    assert config_differences(old, new, ["tracking"]) == ["train.epochs: 8 -> 9"]
    assert config_differences(old, new, ["train.epochs", "tracking.wandb"]) == []


@pytest.mark.parametrize(
    ("config", "override", "expected"),
    [
        (ShardsConfig, "classes=person,dog", ("person", "dog")),
        (ShardsConfig, "classes=(helmet,vest)", ("helmet", "vest")),
        (ShardsConfig, "classes=helmet", ("helmet",)),
        (ShardsConfig, "classes=traffic light, vest", ("traffic light", "vest")),
        (ShardsConfig, "classes=", None),
        (ClassifierConfig, "input.crop_scale=0.3,1", (0.3, 1.0)),
        (RpnConfig, "model.strides=16", (16,)),
        (VisualizeConfig, "keys=000012", ("000012",)),
    ],
)
def test_a_list_needs_no_brackets(config: type, override: str, expected: object) -> None:
    needed = ["source=a", "output=b"] if config is ShardsConfig else []
    value = load_config(config, None, [*needed, override])
    for name in override.partition("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        (RpnConfig, "model.scales=16", r"a list of lists .*: 'model\.scales=\[\[16\]\]'$"),
        (ClassifierConfig, "input.crop_scale=0.5", r"too few values, 2 are needed$"),
        (ShardsConfig, "classes={a: 1}", r"classes.*: a list is needed, in brackets"),
        (ShardsConfig, "classes=[1, 2]", r"text is needed; .* in quotes"),
        (ShardsConfig, "output=", r"^output= is empty: give a folder or URL \(an unset var"),
        (ShardsConfig, "output=null", r"^output= is empty"),
        (ShardsConfig, "source=", r"^source= is empty: give a folder"),
        (ClassifierConfig, "data.shards=", r"^data\.shards= is empty: give a folder or URL"),
        (ClassifierConfig, "run.dir=", r"^run\.dir= is empty: give a folder \("),
        (ClassifierConfig, "train.epochs=", r"^train\.epochs= is empty: give a value"),
        (ClassifierConfig, "train.batch_size=8", r"did you mean 'train\.global_batch'\?$"),
        (ClassifierConfig, "batch_size=8", r"did you mean 'train\.global_batch'\?$"),
        (RpnConfig, "batch=8", r"did you mean 'train\.global_batch'\?$"),
        (PredictConfig, "batch_size=8", r"did you mean 'batch'\?$"),
        (ClassifierConfig, "train.lr=1e-3", r"did you mean 'optim\.lr'\?$"),
        (ClassifierConfig, "data.path=x", r"did you mean 'data\.shards'\?$"),
        (ClassifierConfig, "dataset=x", r"did you mean 'data\.shards'\?$"),
        (ClassifierConfig, "classes=[a]", r"a setting of make_shards\.py \(.* of its shards\)$"),
        (ClassifierConfig, "input.snap=true", r"it is a setting of train_rpn\.py$"),
        (ClassifierConfig, "xyzzy=1", r"unknown key 'xyzzy' on the command line: --help lists all"),
    ],
)
def test_what_was_meant_is_named(config: type, override: str, message: str) -> None:
    needed = ["source=a", "output=b"] if config is ShardsConfig else []
    with pytest.raises(UserError, match=message) as caught:
        load_config(config, None, [*needed, override])
    assert not re.search("tuple|dict|pathlib|NoneType|\n", str(caught.value))


@pytest.mark.parametrize(
    ("file", "script"),
    [
        ("demo/shards", "make_shards"),
        ("demo/rpn", "train_rpn"),
        ("demo/classifier", "train_classifier"),
    ],
)
def test_another_scripts_config_is_called_that(file: str, script: str) -> None:
    path = CONFIGS / f"{file}.yaml"
    for other in (config for config in TYPES.values() if config is not TYPES[path.stem]):
        with pytest.raises(UserError, match=rf"{path} is a config of {script}\.py"):
            load_config(other, path)


def test_an_empty_value_of_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {shards: }")
    with pytest.raises(UserError, match=r"'data\.shards' in .*a\.yaml is empty: give a folder"):
        load_config(ClassifierConfig, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_config_is_utf_8(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("source: é\noutput: b".encode(encoding))
    if encoding.startswith("utf-8"):
        assert load_config(ShardsConfig, path).source == "é"
    else:
        what = "UTF-16" if encoding == "utf-16" else "another encoding"
        with pytest.raises(UserError, match=rf"a\.yaml: is text in {what}: save it as UTF-8"):
            load_config(ShardsConfig, path)
