import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from launch import command, environment, launch, run_script
from safetensors.torch import load_file

from vocdist.training.run_folder import load_results

FAST = [
    "model.weights=none",
    "model.pos_weight=false",
    "input.size=48",
    "train.epochs=2",
    "train.global_batch=10",
    "data.num_workers=0",
    "tracking.wandb=disabled",
]


def test_two_processes_really_run_and_see_disjoint_data(demo_shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranks.json"
    script = Path(__file__).with_name("show_ranks.py")
    overrides = [f"data.shards={demo_shards}", *FAST]
    subprocess.run(
        command(script, str(output), *overrides, config="two_cpu"),
        check=True,
        env=environment(),
        capture_output=True,
        timeout=240,
    )
    first, second = json.loads(output.read_text())
    assert (first["world"], first["rank"], second["rank"]) == (2, 0, 1)
    assert not set(first["seen"]) & set(second["seen"])
    assert sorted(first["seen"] + second["seen"]) == list(range(36))


def test_two_processes_measure_what_one_does_on_the_same_weights(
    demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    overrides = [f"data.shards={demo_shards}", f"run.dir={run}", *FAST]
    done = launch("train_classifier.py", *overrides, config="two_cpu")
    assert done.returncode == 0, done.stderr
    # One line an epoch and not two: the main process speaks alone.
    assert done.stdout.count("epoch 1/2") == done.stdout.count("epoch 2/2") == 1
    alone = run_script("evaluate.py", str(run), "--json", str(tmp_path / "one.json"))
    assert alone.returncode == 0, alone.stderr
    one, two = json.loads((tmp_path / "one.json").read_text()), load_results(run / "results.json")
    assert one["samples"] == 9
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-5, err_msg=name)


def rpn_overrides(shards: Path) -> list[str]:
    return [
        f"data.shards={shards}",
        "model.classifier=none",
        "model.weights=none",
        "model.strides=[32]",
        "model.scales=[[16, 32]]",
        "features.cache=false",
        "input.short_side=64",
        "input.long_side=96",
        "input.flip=true",
        "train.epochs=1",
        "train.global_batch=5",
        "train.log_every=1",
        "data.num_workers=0",
        "tracking.wandb=disabled",
    ]


def test_two_processes_train_as_one_does(demo_shards: Path, tmp_path: Path) -> None:
    # The RPN has neither BatchNorm that learns nor dropout: what is left must be the same sums.
    overrides = rpn_overrides(demo_shards)
    losses, weights = {}, {}
    for config in ("one_cpu", "two_cpu"):
        run = tmp_path / config
        done = launch("train_rpn.py", *overrides, f"run.dir={run}", config=config)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[config] = [row["train/loss"] for row in rows if "train/loss" in row]
        weights[config] = load_file(run / "model.safetensors")
    assert len(losses["one_cpu"]) >= 8
    np.testing.assert_allclose(losses["two_cpu"], losses["one_cpu"], rtol=1e-4)
    for name, value in weights["one_cpu"].items():
        torch.testing.assert_close(weights["two_cpu"][name], value, rtol=1e-3, atol=1e-4)


def test_uneven_shares_in_parts_give_the_gradient_of_the_whole_batch(
    demo_shards: Path, tmp_path: Path
) -> None:
    # Adam hardly feels a wrong factor, so the gradient itself is compared.
    script = Path(__file__).with_name("show_gradient.py")
    found = {}
    for config, parts in (("one_cpu", 1), ("two_cpu", 2)):
        output = tmp_path / f"{config}.pt"
        more = [*rpn_overrides(demo_shards), f"train.accumulate={parts}"]
        subprocess.run(
            command(script, str(output), *more, config=config),
            check=True,
            env=environment(),
            capture_output=True,
            timeout=240,
        )
        found[config] = torch.load(output, weights_only=True)
    # Five samples: two on the first rank and three on the second, each in two parts.
    assert (found["one_cpu"]["parts"], found["two_cpu"]["parts"]) == (1, 2)
    whole = found["one_cpu"]["gradient"]
    torch.testing.assert_close(found["two_cpu"]["gradient"], whole, rtol=1e-3, atol=1e-6)
    assert whole.norm() > 0.01
