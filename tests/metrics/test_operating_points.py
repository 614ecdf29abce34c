import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from vocdist.metrics.classification import f1_over, false_positives_beside, precision_recall


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    # Rounded, so that scores tie.
    return rng.random((80, 4)).round(1), rng.random((80, 4)) < 0.3


def test_the_area_is_average_precision(scored: tuple[np.ndarray, np.ndarray]) -> None:
    for scores, truth in zip(*(part.T for part in scored), strict=True):
        curve = precision_recall(scores, truth)
        steps = np.diff(np.concatenate([[0.0], curve.recall]))
        area = float((steps * curve.precision).sum())
        assert area == pytest.approx(average_precision_score(truth, scores))
        assert np.all(np.diff(curve.thresholds) < 0)


def test_f1_is_scikit_learns_at_each_threshold(scored: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = scored
    thresholds = [0.0, 0.35, 0.5, 1.1]
    ours = f1_over(scores, truth, thresholds)
    for column, threshold in enumerate(thresholds):
        theirs = f1_score(truth, scores >= threshold, average=None, zero_division=0)
        assert ours[:, column] == pytest.approx(theirs)
    curve = precision_recall(scores[:, 0], truth[:, 0])
    assert curve.f1 == pytest.approx(f1_over(scores, truth, curve.thresholds)[0])


def test_a_class_without_a_positive_has_no_recall() -> None:
    curve = precision_recall([0.1, 0.9], [False, False])
    assert curve.recall.tolist() == curve.precision.tolist() == curve.f1.tolist() == [0, 0]


def test_false_positives_beside_by_hand() -> None:
    scores = [[0.9, 0.6, 0.1], [0.2, 0.8, 0.1]]
    labels = [[1, 0, 1], [1, 0, 0]]
    assert false_positives_beside(scores, labels, 0.5).tolist() == [[0] * 3, [2, 0, 1], [0] * 3]
    of_classes = false_positives_beside(scores, labels, [0.5, 0.7, 0.05])
    assert of_classes.tolist() == [[0] * 3, [1, 0, 0], [1, 0, 0]]
