import pytest
import torch
import torch.nn.functional as F

from vocdist.models.classifier import MultilabelLoss

LOGITS = torch.linspace(-6, 6, 24).view(4, 6).requires_grad_()
LABELS = (torch.arange(24).view(4, 6) % 3 == 0).float()


def test_plain_and_weighted_are_torchs() -> None:
    weight = torch.arange(1.0, 7.0)
    for pos_weight in (None, weight):
        expected = F.binary_cross_entropy_with_logits(
            LOGITS, LABELS, pos_weight=pos_weight, reduction="none"
        )
        loss = MultilabelLoss(pos_weight)(LOGITS, LABELS)
        torch.testing.assert_close(loss, expected.mean(dim=1))


def test_smoothing_moves_targets_towards_a_half() -> None:
    loss = MultilabelLoss(label_smoothing=0.2)(LOGITS, LABELS)
    targets = torch.where(LABELS > 0, 0.9, 0.1)
    expected = F.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none")
    torch.testing.assert_close(loss, expected.mean(dim=1))


def test_equal_focus_is_torchvisions_focal_loss() -> None:
    from torchvision.ops import sigmoid_focal_loss

    loss = MultilabelLoss(focus_positive=2.0, focus_negative=2.0)(LOGITS, LABELS)
    expected = sigmoid_focal_loss(LOGITS, LABELS, alpha=-1, gamma=2.0)
    torch.testing.assert_close(loss, expected.mean(dim=1))


def test_negatives_within_the_margin_count_nothing() -> None:
    loss = MultilabelLoss(focus_negative=4.0, negative_margin=0.05)
    easy = torch.tensor([[-5.0, -3.5]])
    assert loss(easy, torch.zeros(1, 2)).item() == 0
    hard = loss(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    plain = MultilabelLoss()(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    assert 0 < hard.item() < plain.item()
    # By hand: p = 1/2, lowered to 0.45: 0.45^4 * -log(0.55).
    assert loss(torch.zeros(1, 1), torch.zeros(1, 1)).item() == pytest.approx(0.0245149, rel=1e-4)


@pytest.mark.parametrize("focus", [0.0, 2.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_gradients_stay_finite_where_probabilities_saturate(focus: float, margin: float) -> None:
    logits = torch.tensor([[-120.0, 120.0, -120.0, 120.0]], requires_grad=True)
    loss = MultilabelLoss(None, focus_positive=focus, focus_negative=focus, negative_margin=margin)
    loss(logits, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


EXPONENTS = [0.0, 0.25, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("focus", EXPONENTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_any_exponent_has_finite_gradients_at_large_logits(
    focus: float, smoothing: float, margin: float
) -> None:
    values = [-100.0, -20.0, -3.0, 0.0, 3.0, 20.0, 100.0]
    for label in (0.0, 1.0):
        for own in ({"focus_positive": focus}, {"focus_negative": focus}):
            logits = torch.tensor([values], requires_grad=True)
            made = MultilabelLoss(label_smoothing=smoothing, negative_margin=margin, **own)
            loss = made(logits, torch.full((1, 7), label))
            loss.sum().backward()
            assert torch.isfinite(loss).all()
            assert logits.grad is not None and torch.isfinite(logits.grad).all(), (label, own)


@pytest.mark.parametrize("focus", EXPONENTS)
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_focused_losses_are_the_papers_formula(focus: float, margin: float) -> None:
    # In float64, and where probabilities are far from 0 and 1, it can be written down as it stands.
    made = MultilabelLoss(focus_positive=focus, focus_negative=focus, negative_margin=margin)
    ours = LOGITS.detach().clone().requires_grad_()
    exact = ours.detach().double().requires_grad_()
    p = exact.sigmoid()
    wrong = (p - margin).clamp(min=0)
    positive = -((1 - p) ** focus) * p.log()
    negative = -((wrong + 1e-300) ** focus) * (1 - wrong).log()
    expected = torch.where(LABELS > 0, positive, negative).mean(dim=1)
    loss = made(ours, LABELS)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    loss.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None and exact.grad is not None
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
