"""A task in a file outside the package lives the whole life of a run, through the real launcher."""

import json
from pathlib import Path

import torch
from forked import run_script
from launch import REPO, Launched
from safetensors.torch import load_file

from vocdist.runs.checkpoint import Checkpoints

SCRIPT = REPO / "examples" / "custom_task" / "count_objects.py"
SETTINGS = [
    "input.size=32",
    "train.epochs=2",
    "train.global_batch=6",
    "train.save_every=2",
    "train.log_every=1",
    "data.num_workers=1",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]


def trained(shards: Path, run: Path) -> Launched:
    settings = [f"data.shards={shards}", f"run.dir={run}", *SETTINGS]
    return Launched(str(SCRIPT), *settings)


def test_a_task_in_one_file_is_trained_killed_resumed_measured_shown_and_used(
    demo_shards: Path, demo_root: Path, tmp_path: Path
) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "killed"
    done = run_script(SCRIPT, f"data.shards={demo_shards}", f"run.dir={undisturbed}", *SETTINGS)
    assert done.returncode == 0, done.stderr
    killed = trained(demo_shards, run)
    killed.wait_until(lambda: Checkpoints(run / "checkpoints", keep=2).last())
    killed.kill()
    killed.end()
    assert not (run / "results.json").exists()
    code, output = trained(demo_shards, run).end()
    assert code == 0 and "going on from" in output, output
    expected = load_file(undisturbed / "model.safetensors")
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name

    figures = tmp_path / "figures.json"
    done = run_script("evaluate.py", str(run), "--json", str(figures))
    assert done.returncode == 0 and "skill" in done.stdout, done.stderr
    results = json.loads((run / "results.json").read_text())
    measured = json.loads(figures.read_text())
    assert {name: measured[name] for name in ("skill", "mae", "samples")} == {
        name: results[name] for name in ("skill", "mae", "samples")
    }
    done = run_script("report.py", str(run))
    assert done.returncode == 0, done.stderr
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Object counter" in page and "counts that are exact" in page

    photos = sorted((demo_root / "JPEGImages").iterdir())[:3]
    output_folder = tmp_path / "predictions"
    done = run_script("predict.py", str(run), *map(str, photos), f"output={output_folder}")
    assert done.returncode == 0, done.stderr
    images = json.loads((output_folder / "predictions.json").read_text())["images"]
    assert [image["file"] for image in images] == [str(photo) for photo in photos]
    classes = json.loads((demo_shards / "manifest.json").read_text())["classes"]
    assert all(list(image["counts"]) == classes for image in images)

    refused = run_script("propose.py", str(run), str(photos[0]))
    assert refused.returncode == 2 and "Object counter" in refused.stderr


def test_the_file_is_as_short_as_it_is_said_to_be() -> None:
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 200
