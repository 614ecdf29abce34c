import json
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_script
from safetensors.torch import load_file

from vocdist.data.order import epoch_order
from vocdist.runs.folder import load_results

FAST = [
    "model.weights=none",
    "loss.pos_weight=none",
    "input.size=48",
    "train.epochs=2",
    "train.global_batch=10",
    "data.num_workers=0",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]


@pytest.mark.parametrize(
    ("world", "drop_last"),
    [
        pytest.param(1, False, marks=pytest.mark.slow),
        (2, False),
        (4, True),
        pytest.param(4, False, marks=pytest.mark.slow),
    ],
)
def test_processes_see_each_sample_once_in_one_order_and_equal_steps(
    demo_shards: Path, tmp_path: Path, world: int, drop_last: bool
) -> None:
    output = tmp_path / "ranks.json"
    script = Path(__file__).with_name("show_ranks.py")
    overrides = [f"data.shards={demo_shards}", *FAST, f"train.drop_last={drop_last}"]
    done = run_script(script, str(output), *overrides, world=world)
    assert done.returncode == 0, done.stderr
    ranks = json.loads(output.read_text())
    assert [(row["world"], row["rank"]) for row in ranks] == [(world, r) for r in range(world)]
    # 36 = 3 * 10 + 6: four steps for each rank, or three and six samples left out.
    steps = 3 if drop_last else 4
    assert [len(row["seen"]) for row in ranks] == [steps] * world
    seen = [i for step in range(steps) for row in ranks for i in row["seen"][step]]
    expected = epoch_order(36, seed=0, epoch=0)[: steps * 10].tolist()
    assert seen == expected
    assert len(set(seen)) == len(seen) == (30 if drop_last else 36)


@pytest.mark.parametrize("task", ["classifier", "rpn"])
def test_metrics_are_the_same_to_the_last_digit_on_any_number_of_processes(
    demo_shards: Path, tmp_path: Path, task: str
) -> None:
    run, small = tmp_path / "run", "train.eval_batch=2"
    own = rpn_overrides(demo_shards) if task == "rpn" else [f"data.shards={demo_shards}", *FAST]
    done = run_script(f"train_{task}.py", *own, small, f"run.dir={run}", world=2)
    assert done.returncode == 0, done.stderr
    # One line an epoch and not two: the main process speaks alone.
    assert done.stdout.count("epoch 1/") == 1
    found = []
    for world in (1, 3):
        output = tmp_path / f"{world}.json"
        done = run_script("evaluate.py", str(run), "--json", str(output), world=world)
        assert done.returncode == 0, done.stderr
        found.append((json.loads(output.read_text()), done.stdout))
    # Val has nine samples in five batches of two: three ranks have two, two and one of them.
    assert found[0][0]["samples"] == 9
    assert found[1] == found[0]
    # And what the two processes of the training measured.
    results = load_results(run / "results.json")
    assert {name: results[name] for name in found[0][0]} == found[0][0]


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
        "runtime.mixed_precision=fp32",
    ]


@pytest.mark.parametrize("task", ["classifier", "rpn"])
def test_two_processes_train_as_one_does(demo_shards: Path, tmp_path: Path, task: str) -> None:
    # With augmentation, dropout, and BatchNorm over the samples of both; shares are uneven.
    own = [f"data.shards={demo_shards}", *FAST, "train.log_every=1", "train.global_batch=5"]
    overrides = rpn_overrides(demo_shards) if task == "rpn" else [*own, "train.epochs=1"]
    losses, weights = {}, {}
    for world in (1, 2):
        run = tmp_path / str(world)
        done = run_script(f"train_{task}.py", *overrides, f"run.dir={run}", world=world)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[world] = [row["train/loss"] for row in rows if "train/loss" in row]
        weights[world] = load_file(run / "model.safetensors")
    assert len(losses[1]) >= 8
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)
    for name, value in weights[1].items():
        # By their norm: where a gradient is nearly 0, Adam makes a whole step of its rounding.
        difference = weights[2][name].float() - value.float()
        assert difference.norm() <= 1e-3 * value.float().norm() + 1e-4, name


def test_uneven_shares_in_parts_give_the_gradient_of_the_whole_batch(
    demo_shards: Path, tmp_path: Path
) -> None:
    # Adam hardly feels a wrong factor, so the gradient itself is compared.
    script = Path(__file__).with_name("show_gradient.py")
    found = {}
    for world, step in ((1, "backward"), (2, "backward"), (2, "fixed")):
        output = tmp_path / f"{world}.pt"
        more = [*rpn_overrides(demo_shards), f"train.accumulate={world}"]
        done = run_script(script, str(output), step, *more, world=world)
        assert done.returncode == 0, done.stderr
        found[world, step] = torch.load(output, weights_only=True)
    # Five samples in parts of three and two, one of each on the first rank.
    assert [one["parts"] for one in found.values()] == [1, 2, 2]
    whole, by_ddp, by_hand = (one["gradient"] for one in found.values())
    torch.testing.assert_close(by_ddp, whole, rtol=1e-3, atol=1e-6)
    assert whole.norm() > 0.01
    # What a CUDA graph would compute, and one all-reduce, without DDP.
    torch.testing.assert_close(by_hand, by_ddp, rtol=1e-6, atol=1e-9)
