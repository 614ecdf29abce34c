import numpy as np
import pytest
from sklearn.metrics import f1_score

from vocdist.metrics.classification import best_thresholds, tuned_metrics


@pytest.mark.parametrize("seed", range(2))
def test_no_other_threshold_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random((60, 3)) < 0.3
    scores = np.clip(0.3 * labels + rng.random((60, 3)) * 0.7, 0, 1)
    for column, threshold in enumerate(best_thresholds(scores, labels)):
        best = f1_score(labels[:, column], scores[:, column] >= threshold)
        for other in np.linspace(0, 1, 201):
            assert f1_score(labels[:, column], scores[:, column] >= other) <= best + 1e-12


def test_it_lies_in_the_middle_of_the_gap() -> None:
    assert best_thresholds([[0.1], [0.3], [0.7], [0.9]], [[0], [0], [1], [1]]) == pytest.approx(0.5)


def test_a_class_that_was_never_there_keeps_one_half() -> None:
    assert best_thresholds([[0.1, 0.2]], [[1, 0]])[1] == 0.5


def test_everything_positive_is_a_threshold_too() -> None:
    threshold = best_thresholds([[0.2], [0.4]], [[1], [1]])
    assert (np.array([0.2, 0.4]) >= threshold).all()


def test_f1_at_each_class_s_own_threshold() -> None:
    scores = np.array([[0.3, 0.3], [0.1, 0.6], [0.3, 0.9]])
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    metrics = tuned_metrics(scores, labels, [0.2, 0.5], ("cat", "dog"))
    assert metrics["f1_tuned/cat"] == 1
    assert metrics["f1_tuned/dog"] == pytest.approx(2 / 3)
    assert metrics["macro_f1_tuned"] == pytest.approx(5 / 6)
    # Label sets: right, {dog} for {}, right.
    assert metrics["sample_f1_tuned"] == pytest.approx(2 / 3)
    assert metrics["threshold/dog"] == 0.5
