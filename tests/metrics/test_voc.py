import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vocdist.metrics.classification import voc_average_precision, voc_metrics


def test_by_hand() -> None:
    # Ranked: hit, miss, miss, hit, hit: precisions 1, 1/2, 1/3, 2/4, 3/5; raised: 1, 3/5, 3/5.
    scores, present = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 0, 1, 1]
    assert voc_average_precision(scores, present, np.zeros(5)) == pytest.approx((1 + 0.6 + 0.6) / 3)


def test_what_is_only_there_in_difficult_objects_counts_as_neither() -> None:
    scores, present = [0.9, 0.8, 0.7], [1, 1, 0]
    assert voc_average_precision(scores, present, [1, 0, 0]) == pytest.approx(1)
    # Counted as a negative, the first would have halved it.
    assert voc_average_precision(scores, [0, 1, 0], np.zeros(3)) == pytest.approx(0.5)
    assert voc_average_precision(scores, present, [1, 1, 0]) is None


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_area_under_the_raised_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, present = rng.permutation(80) / 80, rng.random(80) < 0.3
    order = np.argsort(-scores)
    hits = np.cumsum(present[order])
    # The devkit's own way: bounds added, precisions raised from the right, steps of recall summed.
    recall = np.concatenate([[0], hits / hits[-1], [1]])
    precision = np.concatenate([[0], hits / np.arange(1, 81), [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    expected = float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())
    ours = voc_average_precision(scores, present, np.zeros(80))
    assert ours == pytest.approx(expected)
    assert ours >= average_precision_score(present, scores) - 1e-12


def test_the_mean_leaves_out_classes_without_positives() -> None:
    labels, ignored = np.array([[1, 1], [0, 0]]), np.array([[0, 1], [0, 0]])
    metrics = voc_metrics(np.array([[0.9, 0.9], [0.1, 0.1]]), labels, ignored, ("cat", "dog"))
    assert metrics == {"mAP_voc": 1.0, "ap_voc/cat": 1.0}
