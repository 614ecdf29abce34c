"""Measuring a run: which of its weights, and on a device that it was not trained on."""

import shutil
from pathlib import Path

import pytest

from vocdist.config.training import RuntimeConfig
from vocdist.distributed.processes import runtime_of_use
from vocdist.errors import UserError
from vocdist.runs.folder import load_results
from vocdist.training.evaluation import measure_run

CPU = ["runtime.device=cpu", "data.num_workers=0"]


def test_a_checkpoint_of_a_run_is_measured_as_the_run_is(classifier_run: Path) -> None:
    results = load_results(classifier_run / "results.json")
    del results["epoch"]
    checkpoints = classifier_run / "checkpoints"
    best = checkpoints / (checkpoints / "best").read_text().strip()
    for place in (checkpoints / "best", best):
        measured = measure_run(place, CPU).evaluation.metrics
        # Thresholds are chosen at the end of a run, for its final weights.
        assert measured == pytest.approx(
            {k: v for k, v in results.items() if "tuned" not in k and "threshold/" not in k},
            abs=1e-5,
        )


def test_what_is_of_no_run_is_refused(classifier_run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.safetensors"
    shutil.copy(classifier_run / "model.safetensors", alone)
    for place, message in (
        (alone, "of no run"),
        (tmp_path / "nowhere", "no such file or run"),
        (classifier_run / "checkpoints" / "step-99999999", "no such file or run"),
    ):
        with pytest.raises(UserError, match=message):
            measure_run(place, CPU)


def test_a_run_in_fp16_is_measured_in_fp32_where_there_is_no_gpu(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "model.safetensors"):
        shutil.copy(classifier_run / name, run)
    config = (run / "config.yaml").read_text()
    assert "mixed_precision: fp32" in config
    (run / "config.yaml").write_text(config.replace("precision: fp32", "precision: fp16"))
    measured = measure_run(run, CPU).evaluation.metrics
    assert (
        capsys.readouterr().out.count("trained in fp16, which needs a GPU: computed in fp32") == 1
    )
    results = load_results(classifier_run / "results.json")
    assert measured["mAP"] == pytest.approx(results["mAP"], abs=1e-5)
    # What is asked for by name is not changed without being asked.
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        measure_run(run, [*CPU, "runtime.mixed_precision=fp16"])


def test_other_precisions_are_kept() -> None:
    for precision in ("auto", "bf16", "fp32"):
        runtime = RuntimeConfig(device="cpu", mixed_precision=precision)
        assert runtime_of_use(runtime, []) == (runtime, [])
