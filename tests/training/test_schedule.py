import pytest
import torch

from vocdist.training.optim import lr_factor


def rates(schedule: str, steps: int, epochs: int, warmup: int = 0) -> list[float]:
    return [
        lr_factor(schedule, step, steps_per_epoch=steps, epochs=epochs, warmup_steps=warmup)
        for step in range(steps * epochs)
    ]


def test_cosine_by_epoch_is_torchs_stepped_once_an_epoch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    expected = []
    for _ in range(8):
        expected += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        scheduler.step()
    assert rates("cosine_by_epoch", 5, 8) == pytest.approx(expected)


def test_cosine_falls_from_one_to_nearly_zero_every_step() -> None:
    factors = rates("cosine", 10, 4)
    assert factors[0] == 1.0
    assert all(a > b for a, b in zip(factors, factors[1:], strict=False))
    assert factors[20] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.01


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_evenly_to_the_peak(schedule: str) -> None:
    factors = rates(schedule, 10, 4, warmup=4)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(factors) == 1.0


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'linear'"):
        rates("linear", 1, 1)


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=401, cycle_momentum=False, final_div_factor=1e9
    )
    expected = []
    for _ in range(400):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # Torch counts its rise to the step before: the curves are a step apart at most.
    assert rates("one_cycle", 50, 8) == pytest.approx(expected, abs=0.02)
    assert rates("one_cycle", 50, 8)[0] == pytest.approx(1 / 25)
    assert max(rates("one_cycle", 50, 8)) == 1.0
