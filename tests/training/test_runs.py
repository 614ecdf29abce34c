import json
import os
import re
import runpy
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from forked import run_script
from launch import CLASSIFIER, REPO, command, environment, launch
from PIL import Image
from safetensors.torch import load_file
from wandb_file import read_history

from vocdist.errors import UserError
from vocdist.runs.folder import load_results
from vocdist.shards.verify import verify_shards


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(classifier_run: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "model.safetensors", "results.json"):
        assert (classifier_run / name).is_file()
    with Image.open(classifier_run / "curves.png") as curves:
        assert curves.width >= 1000
    rows = rows_of(classifier_run)
    assert [row["global_step"] for row in rows if "val/mAP" in row] == [6, 12]
    assert [row["global_step"] for row in rows if "train/loss" in row] == [2, 4, 6, 8, 10, 12]
    assert all(0 <= row["perf/data_wait"] <= 1 for row in rows if "perf/data_wait" in row)
    results = load_results(classifier_run / "results.json")
    assert results["mAP"] == max(row["val/mAP"] for row in rows if "val/mAP" in row)


def shown_values(page: str, attribute: str) -> list[float]:
    """Values of the `<data>` elements in the elements that carry an attribute."""
    return [
        float(value)
        for part in page.split(attribute)[1:]
        for value in re.findall(r'<data value="([^"]+)"', part)[:1]
    ]


def test_the_report_shows_the_runs_figures_and_can_be_made_again(classifier_run: Path) -> None:
    page = (classifier_run / "report.html").read_text(encoding="utf-8")
    results = load_results(classifier_run / "results.json")
    for key in ("mAP", "macro_f1", "sample_f1", "loss"):
        assert shown_values(page, f'id="metric-{key}"') == [results[key]]
    for key in (key for key in results if key.startswith("ap/")):
        assert shown_values(page, f'data-ap="{key[3:]}"') == [results[key]]
    assert "demo_0000" in page and page.count("data:image/jpeg") == 8
    (start,) = json.loads((classifier_run / "environment.json").read_text())
    assert start["processes"] == 1 and start["packages"]["torch"] in page
    (classifier_run / "report.html").unlink()
    again = run_script("report.py", str(classifier_run))
    assert again.returncode == 0, again.stderr
    assert (classifier_run / "report.html").read_text(encoding="utf-8") == page
    alone = run_script("report.py", str(classifier_run / "checkpoints"))
    assert alone.returncode == 2 and f"lies in the run {classifier_run}" in alone.stderr


def test_wandb_has_the_rows_of_the_file(classifier_run: Path) -> None:
    history = [row for row in read_history(classifier_run) if "epoch" in row]
    written = rows_of(classifier_run)
    assert [{key: row[key] for key in written[i]} for i, row in enumerate(history)] == written


def test_started_again_a_finished_run_does_nothing(classifier_run: Path, demo_shards: Path) -> None:
    before = (classifier_run / "metrics.jsonl").read_bytes()
    again = run_script(
        "train_classifier.py",
        f"data.shards={demo_shards}",
        f"run.dir={classifier_run}",
        *CLASSIFIER,
    )
    assert again.returncode == 0, again.stderr
    assert "already trained for 2 epochs" in again.stdout
    assert (classifier_run / "metrics.jsonl").read_bytes() == before


def test_other_settings_in_its_folder_are_refused(classifier_run: Path, demo_shards: Path) -> None:
    arguments = [f"data.shards={demo_shards}", f"run.dir={classifier_run}", *CLASSIFIER]
    other = run_script("train_classifier.py", *arguments, "optim.lr=0.5")
    assert other.returncode == 2
    assert "optim.lr: 0.001 -> 0.5" in other.stderr
    never = run_script("train_classifier.py", *arguments, "--resume", "never")
    assert never.returncode == 2
    assert "train.resume=never" in never.stderr
    assert "Traceback" not in other.stderr + never.stderr


def test_evaluate_prints_a_table_and_writes_flat_keys(classifier_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    done = run_script("evaluate.py", str(classifier_run), "--json", str(output))
    assert done.returncode == 0, done.stderr
    metrics = json.loads(output.read_text())
    results = load_results(classifier_run / "results.json")
    assert metrics["mAP"] == pytest.approx(results["mAP"], abs=1e-6)
    assert {"mAP", "macro_f1", "sample_f1", "samples"} <= metrics.keys()
    assert f"{metrics['mAP']:.3f}" in done.stdout
    assert "person" in done.stdout


def test_the_rpn_has_the_classifiers_features_and_leaves_them(
    rpn_run: Path, classifier_run: Path
) -> None:
    ours = load_file(rpn_run / "model.safetensors")
    theirs = load_file(classifier_run / "model.safetensors")
    shared = {name for name in theirs if name.startswith("network.features.")}
    assert len(shared) == 240
    for name in shared:
        assert torch.equal(ours[name.replace("network.", "backbone.body.")], theirs[name])


def test_the_rpn_is_measured_and_pictured(rpn_run: Path, tmp_path: Path) -> None:
    results = load_results(rpn_run / "results.json")
    for count in (50, 100, 200, 300):
        assert 0 <= results[f"AR@{count}"] <= results[f"recall50@{count}"] <= 1
    assert {"samples", "boxes", "recall50@200/grid", "recall50@200/random"} <= results.keys()
    with Image.open(rpn_run / "proposals.png") as picture:
        assert picture.width > 500
    page = (rpn_run / "report.html").read_text(encoding="utf-8")
    assert shown_values(page, 'id="metric-AR@200"') == [results["AR@200"]]
    assert "Anchors (rings)" in page and 'class="proposal"' in page
    done = run_script("visualize.py", str(rpn_run), f"output={tmp_path}", "count=2")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_images_of_shards_and_voc_roots_are_drawn(
    demo_root: Path, demo_shards: Path, tmp_path: Path
) -> None:
    for source in (demo_root, demo_shards):
        key = "demo_000003" if source == demo_root else None
        chosen = f"keys=[{key}]" if key else "count=1"
        output = tmp_path / source.parent.name
        done = run_script("visualize.py", str(source), f"output={output}", chosen)
        assert done.returncode == 0, done.stderr
        assert len(list(output.glob("demo_*.png"))) == 1


def test_shards_that_were_drawn_are_whole(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    visualize = runpy.run_path(str(REPO / "scripts" / "visualize.py"))["main"]
    visualize([str(demo_shards), "count=1"])
    assert (tmp_path / "pictures" / demo_shards.name / "sheet.png").is_file()
    assert verify_shards(demo_shards, fast=True) == []
    with pytest.raises(UserError, match="keys=.*at least 1"):
        visualize([str(demo_shards), "keys=[]"])


def test_half_precision_trains_and_where_it_cannot_says_so(
    demo_shards: Path, tmp_path: Path
) -> None:
    arguments = [f"data.shards={demo_shards}", f"run.dir={tmp_path / 'run'}", *CLASSIFIER]
    short = [*arguments, "train.epochs=1", "data.limit_train=12", "tracking.wandb=disabled"]
    done = run_script("train_classifier.py", *short, "runtime.mixed_precision=bf16")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stdout
    refused = run_script(
        "train_classifier.py", *short, "runtime.mixed_precision=fp16", "runtime.device=cpu"
    )
    assert refused.returncode == 2


@pytest.mark.parametrize("script", ["train_classifier.py", "train_rpn.py"])
def test_without_shards_it_says_how_to_make_some(script: str, tmp_path: Path) -> None:
    done = run_script(script, f"data.shards={tmp_path / 'none'}", f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "no shards here" in done.stderr
    assert done.stderr.count("scripts/make_shards.py source=") == 2
    assert "scripts/make_demo_data.py" in done.stderr
    assert not (tmp_path / "run").exists()


def killed_in_the_middle(arguments: list[str], run: Path, at_step: int) -> None:
    """Start a training and SIGKILL all of it once it has saved `at_step`, mid-epoch."""
    script = REPO / "scripts" / "train_classifier.py"
    process = subprocess.Popen(
        command(script, *arguments),
        cwd=REPO,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    last = run / "checkpoints" / "last"
    deadline = time.monotonic() + 120
    while not (last.is_file() and int(last.read_text().strip()[5:]) >= at_step):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it was killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# Through the launcher; tests/training/test_resume.py kills more often and in more places.
@pytest.mark.slow
def test_a_killed_run_ends_with_the_very_same_weights(demo_shards: Path, tmp_path: Path) -> None:
    def arguments(run: Path) -> list[str]:
        # Six epochs of nine steps: long enough to be killed in the middle of one. (Of a single tiny
        # image, PyTorch's own gradients vary from run to run on several threads.)
        own = [f"data.shards={demo_shards}", f"run.dir={run}", "tracking.wandb=disabled"]
        more = ["train.global_batch=4", "train.save_every=4", "train.log_every=3", "train.epochs=6"]
        # All that is random, and all that is kept from step to step.
        recipe = ["optim.ema_decay=0.9", "optim.backbone_lr=1e-4", "optim.schedule=one_cycle"]
        drawn = ["input.color_jitter=[0.2,0.2,0.2]", "input.min_visible=0.25"]
        return [*own, *CLASSIFIER, *more, *recipe, *drawn, "data.decoded_cache=50MB"]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch("train_classifier.py", *arguments(whole)).returncode == 0
    killed_in_the_middle(arguments(broken), broken, at_step=12)
    assert not (broken / "results.json").exists()
    resumed = launch("train_classifier.py", *arguments(broken))
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    ours, theirs = load_file(broken / "model.safetensors"), load_file(whole / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [timeless(row) for row in rows_of(broken)] == [timeless(row) for row in rows_of(whole)]


def timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("perf/")}
