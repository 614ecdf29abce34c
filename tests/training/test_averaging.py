import copy

import torch
from torch import nn

from vocdist.training.optim import WeightAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_it_is_the_exponential_moving_average() -> None:
    model = network()
    average = WeightAverage(model, decay=0.5)
    expected = [p.detach().clone() for p in model.parameters()]
    for step in range(1, 8):
        moved(model)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [
            e * decay + p.detach() * (1 - decay)
            for e, p in zip(expected, model.parameters(), strict=True)
        ]
    live = [p.detach().clone() for p in model.parameters()]
    with average.applied():
        for parameter, value in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), value)
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), live, strict=True))


def test_the_models_own_weights_come_back_when_measuring_fails() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    moved(model)
    before = copy.deepcopy(model.state_dict())
    try:
        with average.applied():
            raise ValueError
    except ValueError:
        pass
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_goes_on_exactly_from_what_was_saved() -> None:
    model = network()
    average = WeightAverage(model, 0.9)
    moved(model)
    average.update(1)
    live = average.live_parameters()
    with average.applied():
        measured = copy.deepcopy(model.state_dict())
    other = network()
    resumed = WeightAverage(other, 0.9)
    other.load_state_dict(measured)
    resumed.restore(live)
    for step in (2, 3):
        for each, kept in ((model, average), (other, resumed)):
            torch.manual_seed(step)
            moved(each)
            kept.update(step)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with average.applied(), resumed.applied():
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_frozen_parameters_are_none_of_its_business() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert set(WeightAverage(model, 0.9).live_parameters()) == {
        "1.weight", "1.bias", "2.weight", "2.bias",
    }  # fmt: skip
