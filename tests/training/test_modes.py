import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import run_script
from launch import CLASSIFIER, RPN

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config.file import load_config
from vocdist.config.training import RuntimeConfig
from vocdist.distributed.processes import build_accelerator
from vocdist.errors import UserError
from vocdist.runs.tracking import NullTracker
from vocdist.tasks.task import build_task
from vocdist.training.loaders import build_loader, build_reader
from vocdist.training.modes import Mode, take_mode
from vocdist.training.modes.debug import debug_run, smaller
from vocdist.training.modes.dry_run import dry_run, step_memory
from vocdist.training.modes.overfit import NEAR_ZERO, overfit
from vocdist.training.modes.profile import (
    PHASES,
    PhaseTimer,
    Timed,
    advice,
    build_bare_trainer,
    profile_run,
)

WANDB_OFF = "tracking.wandb=disabled"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The modes set the threads, as a training does; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def classifier(shards: Path, run: Path, *more: str) -> ClassifierConfig:
    overrides = [f"data.shards={shards}", f"run.dir={run}", *CLASSIFIER, WANDB_OFF, *more]
    return load_config(ClassifierConfig, None, overrides)


def rpn(shards: Path, run: Path, *more: str) -> RpnConfig:
    overrides = [f"data.shards={shards}", f"run.dir={run}", *RPN, "model.classifier=none"]
    return load_config(RpnConfig, None, [*overrides, "model.weights=none", *more])


def test_a_mode_is_taken_out_of_the_arguments() -> None:
    assert take_mode(["a.yaml", "--debug", "b=1"]) == (Mode("--debug"), ["a.yaml", "b=1"])
    assert take_mode(["--overfit", "8", "b=1"]) == (Mode("--overfit", 8), ["b=1"])
    assert take_mode(["--overfit=8"]) == (Mode("--overfit", 8), [])
    assert take_mode(["a.yaml"]) == (Mode(), ["a.yaml"])
    for bad in (["--overfit"], ["--overfit", "a.yaml"], ["--overfit=0"]):
        with pytest.raises(UserError, match="needs a number of images"):
            take_mode(bad)
    with pytest.raises(UserError, match="--debug and --profile: choose one"):
        take_mode(["--debug", "--profile"])


@pytest.mark.parametrize("make", [classifier, rpn])
def test_a_dry_run_tells_and_writes_nothing(
    make: type, demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: TaskConfig = make(demo_shards, tmp_path / "run")
    dry_run(config)
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "would begin anew" in words and "36 train, 9 val" in words
    task = build_task(config, build_reader(config, "train"), pretrained=False)
    parameters = sum(p.numel() for p in task.model.parameters())
    assert f"parameters {parameters:,}" in words
    steps = 12 if make is classifier else 10
    assert f"{steps} in all" in words
    if make is rpn:
        # Two scales by three ratios at each of 2 x 3 cells of stride 32.
        assert "feature maps 2 × 3" in words and "anchors 36 an image" in words
    assert not list(tmp_path.iterdir())


def test_the_memory_estimate_counts_what_the_backward_pass_keeps(demo_shards: Path) -> None:
    config = classifier(demo_shards, Path("none"))
    reader = build_reader(config, "train")
    task = build_task(config, reader, pretrained=False)
    batch = next(build_loader(config, reader, training=True).training(epoch=0))
    memory = step_memory(task, batch, averaged=False)
    weights = sum(p.nbytes for p in task.model.parameters())
    assert memory.gradients == weights < memory.weights < 1.1 * weights
    assert memory.optimizer == 2 * weights
    averaged = step_memory(task, batch, averaged=True)
    assert (memory.average, averaged.average) == (0, weights)
    assert averaged.total == memory.total + weights
    # At the very least the first convolution's input, and its output before and after the norm.
    size = config.input.size
    least = len(batch.indices) * (3 * size**2 * 4 + 2 * 16 * (size // 2) ** 2 * 4)
    assert least < memory.activations < 50 * least


def test_a_few_images_are_learned_by_heart(
    demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = overfit(classifier(demo_shards, tmp_path / "run"), images=4)
    assert outcome.last <= NEAR_ZERO * outcome.first and outcome.steps > 1
    assert "4 images" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_learned_are_an_error(demo_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--overfit: 3 images: .* 2 steps: not near zero"):
        overfit(rpn(demo_shards, tmp_path / "run"), images=3, max_steps=2)


def test_a_profile_has_all_parts_and_a_trace(
    demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = profile_run(rpn(demo_shards, tmp_path / "run"))
    assert tuple(shares) == PHASES and sum(shares.values()) == pytest.approx(1)
    assert min(shares[phase] for phase in ("forward", "backward", "optimizer")) > 0.001
    assert "of the time" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["run-profile"]
    with gzip.open(tmp_path / "run-profile" / "trace.json.gz") as trace:
        events = {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert {"aten::convolution", "aten::convolution_backward"} <= events
    assert "aten::" in (tmp_path / "run-profile" / "operators.txt").read_text()


def shares_of(**most: float) -> dict[str, float]:
    return {phase: most.get(phase.replace(" ", "_"), 0.05) for phase in PHASES}


@pytest.mark.parametrize(
    ("shares", "device", "cores", "words"),
    [
        (shares_of(data_wait=0.6), "cuda", 8, "raise data.num_workers"),
        (shares_of(data_wait=0.6), "cuda", 0, "max_side"),
        (shares_of(optimizer=0.5), "cuda", 8, "train.global_batch"),
        (shares_of(forward=0.5, backward=0.4), "cuda", 8, "mixed_precision=bf16"),
        (shares_of(forward=0.5, backward=0.4), "cpu", 8, "input.size"),
    ],
)
def test_the_advice_names_the_setting(
    shares: dict[str, float], device: str, cores: int, words: str
) -> None:
    config = ClassifierConfig(runtime=RuntimeConfig(mixed_precision="fp32"))
    assert words in advice(shares, config, device, cores, cached=False)


def test_the_advice_for_cached_features_names_no_setting_without_effect() -> None:
    waiting = {"data wait": 0.5, "forward": 0.3, "backward": 0.1, "optimizer": 0.1}
    words = advice(waiting, RpnConfig(), "cpu", 8, cached=True)
    assert "features.folder" in words and "num_workers" not in words


def test_phases_are_told_apart() -> None:
    now = [0.0]

    class Work:
        name = "work"

        def slow(self, seconds: float) -> float:
            now[0] += seconds
            return seconds

        def batches(self) -> Iterator[int]:
            for i in range(2):
                now[0] += 3.0
                yield i

    timer = PhaseTimer(torch.device("cpu"), clock=lambda: now[0])
    work = Timed(Work(), timer, {"slow": "forward"}, {"batches": "data wait"})
    assert work.slow(100.0) == 100.0
    timer.begin()
    for _ in work.batches():
        work.slow(1.0)
        now[0] += 0.5
    assert work.name == "work"
    expected = {"data wait": 6.0, "forward": 2.0, "backward": 0.0, "optimizer": 0.0, "other": 1.0}
    assert timer.seconds() == expected


def test_a_debug_run_differs_in_size_alone(tmp_path: Path) -> None:
    config = classifier(tmp_path, tmp_path / "run", "train.epochs=9", "data.limit_val=3")
    small = smaller(config, on_cpu=True)
    assert small.run.dir == tmp_path / "run-debug"
    assert (small.data.limit_train, small.data.limit_val, small.train.epochs) == (12, 3, 2)
    assert small.runtime.detect_anomaly and small.input == config.input
    large = classifier(tmp_path, tmp_path / "run", "train.global_batch=64")
    assert smaller(large, on_cpu=False).train.global_batch == 64
    assert smaller(large, on_cpu=True).train.global_batch == 16


def test_a_debug_run_does_everything(demo_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [f"data.shards={demo_shards}", f"run.dir={run}", *CLASSIFIER, "--debug"]
    done = run_script("train_classifier.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "going on from" in done.stdout
    assert "went on from step 1 in" in done.stdout and "the very same weights" in done.stdout
    left = {path.name for path in (tmp_path / "run-debug").iterdir()}
    assert {"config.yaml", "curves.png", "model.safetensors", "results.json"} <= left
    assert not run.exists()


def test_a_debug_run_spares_other_folders(demo_shards: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run-debug" / "mine"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(UserError, match="was not made by --debug"):
        debug_run(classifier(demo_shards, tmp_path / "run"))
    assert mine.exists()


def test_an_error_of_debug_has_its_traceback(tmp_path: Path) -> None:
    done = run_script("train_rpn.py", f"data.shards={tmp_path / 'none'}", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "no shards here" in done.stderr


def test_anomaly_mode_is_a_setting(demo_shards: Path, tmp_path: Path) -> None:
    for found in (True, False):
        config = classifier(demo_shards, tmp_path, f"runtime.detect_anomaly={str(found).lower()}")
        with NullTracker() as tracker:
            build_bare_trainer(config, build_accelerator(config.runtime), tracker)
        assert torch.is_anomaly_enabled() is found
