import json
from pathlib import Path

import pytest
from forked import train_to_the_end

from vocdist.config.training import OptimConfig
from vocdist.models.classifier import Classifier
from vocdist.training.optim import build_optimizer, learning_rates, lr_factor


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier("mobilenet_v3_small", classes=3)


def test_the_notebooks_is_one_group(model: Classifier) -> None:
    (group,) = build_optimizer(model, OptimConfig(lr=3e-4, weight_decay=1e-4)).param_groups
    assert (group["peak_lr"], group["weight_decay"]) == (3e-4, 1e-4)
    assert len(group["params"]) == len(list(model.parameters()))


def test_backbone_and_head_norms_and_weights_go_their_own_ways(model: Classifier) -> None:
    optim = OptimConfig(lr=1e-3, backbone_lr=1e-4, weight_decay=0.01, decay_norms=False)
    found = {
        id(parameter): (group["peak_lr"], group["weight_decay"])
        for group in build_optimizer(model, optim).param_groups
        for parameter in group["params"]
    }
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        head = name.startswith("network.classifier.")
        vector = parameter.ndim == 1
        expected = (1e-3 if head else 1e-4, 0.0 if vector else 0.01)
        assert found[id(parameter)] == expected, name


def test_a_frozen_backbone_is_left_out() -> None:
    model = Classifier("resnet18", classes=3)
    model.network.layer1.requires_grad_(False)
    groups = build_optimizer(model, OptimConfig(backbone_lr=1e-5)).param_groups
    listed = sum(len(group["params"]) for group in groups)
    assert listed == sum(parameter.requires_grad for parameter in model.parameters())


def test_a_step_has_the_backbones_rate_only_where_it_has_its_own() -> None:
    assert learning_rates(OptimConfig(lr=0.5), 0.5) == {"lr": 0.25}
    own = OptimConfig(lr=0.5, backbone_lr=0.125)
    assert learning_rates(own, 0.5) == {"lr": 0.25, "backbone_lr": 0.0625}


def test_a_run_logs_the_heads_rate_as_the_learning_rate(demo_shards: Path, tmp_path: Path) -> None:
    # The backbone's parameters come first in the model, and in the optimizer.
    run = tmp_path / "run"
    settings = [
        *(f"data.shards={demo_shards}", f"run.dir={run}", "data.num_workers=0"),
        *("data.limit_train=20", "data.limit_val=5", "train.epochs=1", "train.global_batch=5"),
        *("model.weights=none", "input.size=32", "tracking.wandb=disabled", "train.log_every=1"),
        *("optim.lr=0.01", "optim.backbone_lr=0.001", "optim.warmup_steps=1"),
    ]
    train_to_the_end("classifier", settings, tmp_path / "log")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "train/lr" in row]
    factors = [
        lr_factor("cosine", step, steps_per_epoch=4, epochs=1, warmup_steps=1) for step in range(4)
    ]
    assert [row["train/lr"] for row in steps] == pytest.approx([0.01 * f for f in factors])
    assert [row["train/backbone_lr"] for row in steps] == pytest.approx(
        [0.001 * f for f in factors]
    )
