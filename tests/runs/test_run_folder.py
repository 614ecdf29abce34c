import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from torch import nn

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config, save_config
from vocdist.errors import UserError
from vocdist.report.page import read_run
from vocdist.runs.checkpoint import Checkpoints, Position, load_position
from vocdist.runs.folder import (
    CONFIG,
    RESULTS,
    begun_config,
    named_weights,
    run_around,
    save_results,
    task_of,
    weights_file,
)
from vocdist.tasks.rpn_model import resolve_backbone
from vocdist.training.start import plan_start, prepare_folder, run_lock

SHARDS = "abc"


def config_of(run: Path, *overrides: str) -> ClassifierConfig:
    return load_config(ClassifierConfig, None, [f"run.dir={run}", *overrides])


def a_run(run: Path, best_epoch: int = 1) -> tuple[ClassifierConfig, Checkpoints]:
    """A run of three epochs of two steps, all checkpoints kept."""
    config = config_of(run)
    checkpoints = Checkpoints(run / "checkpoints", keep=9)
    run.mkdir()
    save_config(config, run / CONFIG)
    position = Position(global_batch=32, manifest_hash=SHARDS, wandb_run_id="its own")
    for epoch in range(1, 4):
        position = position.after_step(32).after_step(32)
        position = position.after_epoch(0.9 if epoch == best_epoch else 0.1 * epoch)
        best = position.best_epoch == epoch
        checkpoints.save(position, nn.Linear(1, 1), {}, best=best)
    save_results({"mAP": 0.9}, run / RESULTS)
    return config, checkpoints


def test_weights_are_those_that_a_path_stands_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    a_run(run, best_epoch=2)
    places = run / "checkpoints"
    best, last = places / "step-00000004", places / "step-00000006"
    for place in (places / "best", places, run, best, best / "model.safetensors"):
        assert weights_file(place) == best / "model.safetensors"
    assert weights_file(places / "last") == last / "model.safetensors"
    (run / "model.safetensors").write_bytes(b"final")
    for place in (places, run):
        assert weights_file(place) == run / "model.safetensors"
    # A file of that name elsewhere is a file.
    (tmp_path / "best").write_bytes(b"weights")
    assert weights_file(tmp_path / "best") == tmp_path / "best"
    assert named_weights("imagenet") == "imagenet"
    with pytest.raises(UserError, match="no such file or run; pass a path"):
        named_weights(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=rf"lies in the run {run}: pass that"):
        task_of(best)
    with pytest.raises(UserError, match=rf"lies in the run {run}: pass that"):
        read_run(places / "best")


def test_the_run_of_weights_is_found_and_no_other_folder_with_a_config(tmp_path: Path) -> None:
    run = tmp_path / "run"
    a_run(run)
    places = run / "checkpoints"
    step = places / "step-00000002"
    for place in (run, places, places / "best", step, step / "model.safetensors"):
        assert run_around(place) == run
    (run / "model.safetensors").write_bytes(b"final")
    assert run_around(run / "model.safetensors") == run
    for elsewhere in (run / "resnet.pth", run / "data" / "model.safetensors", tmp_path / "best"):
        elsewhere.parent.mkdir(exist_ok=True)
        elsewhere.write_bytes(b"weights")
        assert run_around(elsewhere) is None
    assert run_around(run / "data") is None


def test_an_rpn_takes_the_backbone_of_the_run_however_it_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    a_run(run)
    assert RpnConfig().model.backbone != "resnet18"
    save_config(config_of(run, "model.backbone=resnet18"), run / CONFIG)

    def resolved(place: Path) -> tuple[str, str]:
        model = resolve_backbone(load_config(RpnConfig, None, [f"model.classifier={place}"])).model
        return model.classifier, model.backbone

    places = run / "checkpoints"
    for place in (places, places / "best", places / "step-00000002"):
        assert resolved(place) == (str(place), "resnet18")
    # Its best checkpoint may change: a run without final weights is to be named with one.
    with pytest.raises(UserError, match="nor a finished classifier run"):
        resolved(run)
    (run / "model.safetensors").write_bytes(b"final")
    for place in (run, run / "model.safetensors"):
        assert resolved(place) == (str(place), "resnet18")
    (run / "other.pth").write_bytes(b"weights")
    assert resolved(run / "other.pth") == (str(run / "other.pth"), RpnConfig().model.backbone)
    save_config(load_config(RpnConfig, None, [f"run.dir={run}"]), run / CONFIG)
    with pytest.raises(UserError, match=r"of a run of another task \(rpn\)"):
        resolved(places)


def test_an_empty_folder_begins_at_the_beginning(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for resume in ("auto", "never"):
        start = plan_start(config_of(tmp_path, f"train.resume={resume}"), checkpoints, SHARDS)
        assert start.checkpoint is None
        assert start.position.global_step == 0


def test_auto_goes_on_from_the_last(tmp_path: Path) -> None:
    config, checkpoints = a_run(tmp_path / "run")
    start = plan_start(config, checkpoints, SHARDS)
    assert start.checkpoint == checkpoints.last()
    assert (start.position.epoch, start.position.best_epoch) == (3, 1)
    assert not start.rewound


def test_the_files_that_name_a_checkpoint_stand_for_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, checkpoints = a_run(run)
    for pointer, chosen in (("best", checkpoints.best()), ("last", checkpoints.last())):
        config = config_of(run, f"train.resume={checkpoints.folder / pointer}")
        assert plan_start(config, checkpoints, SHARDS).checkpoint == chosen


def test_never_and_other_shards_and_other_settings_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config, checkpoints = a_run(run)
    with pytest.raises(UserError, match=r"train\.resume=never"):
        plan_start(config_of(run, "train.resume=never"), checkpoints, SHARDS)
    # One that was killed before its first checkpoint as well.
    begun = tmp_path / "begun"
    begun.mkdir()
    save_config(config_of(begun), begun / "config.yaml")
    with pytest.raises(UserError, match=r"begun: holds a run and train\.resume=never"):
        plan_start(config_of(begun, "train.resume=never"), Checkpoints(begun, 1), SHARDS)
    with pytest.raises(UserError, match=r"other shards:\n.*\[manifest abc\] -> demo: train 3"):
        plan_start(config, checkpoints, "another hash", "demo: train 3 samples")
    with pytest.raises(UserError, match=r"optim\.lr: 0\.0003 -> 0\.1"):
        plan_start(config_of(run, "optim.lr=0.1"), checkpoints, SHARDS)
    with pytest.raises(UserError, match=r"data\.shuffle_shards: None -> 4"):
        plan_start(config_of(run, "data.shuffle_shards=4"), checkpoints, SHARDS)
    # What does not change the result may change, a moved shard folder too.
    cache = ["data.cache_bytes=5GB", "data.cache_dir=elsewhere"]
    moved = config_of(run, "data.num_workers=0", "data.shards=elsewhere", "train.keep=5", *cache)
    assert plan_start(moved, checkpoints, SHARDS).checkpoint


@pytest.mark.parametrize(("best_epoch", "kept"), [(1, (0.9, 1)), (3, (0.2, 2))])
def test_going_back_in_a_run_forgets_what_came_after(
    tmp_path: Path, best_epoch: int, kept: tuple[float, int]
) -> None:
    run = tmp_path / "run"
    _, checkpoints = a_run(run, best_epoch)
    second = run / "checkpoints" / "step-00000004"
    config = config_of(run, f"train.resume={second}")
    start = plan_start(config, checkpoints, SHARDS)
    assert start.rewound
    assert start.position.epoch == 2
    assert (start.position.best_value, start.position.best_epoch) == kept
    prepare_folder(config, checkpoints, start)
    assert checkpoints.last() == second
    assert not (run / "checkpoints" / "step-00000006").exists()
    assert not (run / RESULTS).exists()
    best = run / "checkpoints" / ("step-00000002" if best_epoch == 1 else "step-00000004")
    assert checkpoints.best() == best


def test_a_damaged_last_checkpoint_sends_the_run_back_and_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config, checkpoints = a_run(run, best_epoch=3)
    third = run / "checkpoints" / "step-00000006"
    (third / "training.pt").write_bytes(b"cut")
    start = plan_start(config, checkpoints, SHARDS)
    assert start.checkpoint == run / "checkpoints" / "step-00000004"
    assert any(f"{third} is damaged (training.pt" in note for note in start.notes)
    # The second epoch was the best before the third: its own weights are marked again.
    assert (start.position.epoch, start.position.best_epoch) == (2, 2)
    prepare_folder(config, checkpoints, start)
    assert checkpoints.last() == checkpoints.best() == start.checkpoint
    assert not third.exists()
    with pytest.raises(UserError, match="is damaged"):
        (start.checkpoint / "training.pt").unlink()
        plan_start(config_of(run, f"train.resume={start.checkpoint}"), checkpoints, SHARDS)


def test_a_kill_before_the_pointers_were_written_loses_no_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config, checkpoints = a_run(run, best_epoch=1)
    for name in ("last", "best"):
        (run / "checkpoints" / name).unlink()
    for later in ("step-00000004", "step-00000006"):
        shutil.rmtree(run / "checkpoints" / later)
    start = plan_start(config, checkpoints, SHARDS)
    assert (start.position.best_value, start.position.best_epoch) == (0.9, 1)
    prepare_folder(config, checkpoints, start)
    assert checkpoints.last() == checkpoints.best() == start.checkpoint


def test_another_runs_checkpoint_may_begin_a_new_folder_only(tmp_path: Path) -> None:
    _, first = a_run(tmp_path / "first")
    chosen = first.last()
    assert chosen
    first_id = load_position(chosen).wandb_run_id
    second = config_of(tmp_path / "second", f"train.resume={chosen}")
    start = plan_start(second, Checkpoints(tmp_path / "second/checkpoints", 1), SHARDS)
    # Its best weights are not in the new folder, and its W&B run is not this one.
    assert (start.position.epoch, start.position.best_epoch) == (3, 0)
    assert first_id == "its own" and start.position.wandb_run_id is None
    a_run(tmp_path / "third")
    third = config_of(tmp_path / "third", f"train.resume={chosen}")
    with pytest.raises(UserError, match="belongs to another"):
        plan_start(third, Checkpoints(tmp_path / "third/checkpoints", 1), SHARDS)
    with pytest.raises(UserError, match="not a checkpoint folder"):
        plan_start(config_of(tmp_path, "train.resume=nowhere"), first, SHARDS)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with run_lock(run):
        with pytest.raises(UserError, match="another training is at work here"), run_lock(run):
            pass
        # A loader process, which may live on for a moment after its run was killed.
        child, ready = multiprocessing.get_context("fork"), multiprocessing.Event()
        loader = child.Process(target=lambda: (ready.set(), time.sleep(60)), daemon=True)
        loader.start()
        assert ready.wait(30)
    with run_lock(run):
        loader.kill()


def test_a_folder_of_the_other_task_is_named(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"another task \(classifier\)"):
        begun_config(RpnConfig, tmp_path / "run")
    assert begun_config(RpnConfig, tmp_path / "nothing") is None
