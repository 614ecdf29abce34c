import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from vocdist.metrics.classification import multilabel_metrics, prior_map, tuned_metrics

NAMES = ("cat", "dog", "sofa")


def random_case(samples: int = 200, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, classes)) < 0.3).astype(np.int64)
    scores = np.clip(labels * 0.3 + rng.random((samples, classes)) * 0.7, 0, 1)
    return scores.astype(np.float32), labels


def notebook_f1(scores, labels):
    predicted, truth = (scores >= 0.5).astype(np.float64), labels.astype(np.float64)
    hits, wrong, missed = (
        (predicted * truth).sum(0),
        (predicted * (1 - truth)).sum(0),
        ((1 - predicted) * truth).sum(0),
    )
    precision, recall = hits / (hits + wrong + 1e-8), hits / (hits + missed + 1e-8)
    macro = (2 * precision * recall / (precision + recall + 1e-8)).mean()
    hits, wrong, missed = (
        (predicted * truth).sum(1),
        (predicted * (1 - truth)).sum(1),
        ((1 - predicted) * truth).sum(1),
    )
    return macro, (2 * hits / (2 * hits + wrong + missed + 1e-8)).mean()


def test_by_hand():
    scores = [[0.9, 0.1, 0.6], [0.8, 0.7, 0.2], [0.3, 0.4, 0.1], [0.2, 0.6, 0.5]]
    labels = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    metrics = multilabel_metrics(scores, labels, NAMES)
    # Ranks of the positives: cat 1 and 3, dog 1 and 2, no sofa.
    assert metrics["ap/cat"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics["ap/dog"] == pytest.approx(1)
    assert "ap/sofa" not in metrics
    assert metrics["mAP"] == pytest.approx((5 / 6 + 1) / 2)
    assert metrics["f1/cat"] == pytest.approx(0.5)
    assert metrics["f1/dog"] == pytest.approx(1)
    assert metrics["f1/sofa"] == 0
    # The sofa, which no image shows, has no part in it.
    assert metrics["macro_f1"] == pytest.approx(0.75)
    # Label sets: {cat, sofa} for {cat}; {cat, dog} for {dog}; {} for {cat}; {dog, sofa} for {dog}.
    assert metrics["sample_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 2 / 3) / 4)
    assert metrics["samples"] == 4
    assert metrics["classes_without_positives"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_notebook_and_sklearn(seed):
    scores, labels = random_case(seed=seed)
    metrics = multilabel_metrics(scores, labels, NAMES)
    macro, sample = notebook_f1(scores, labels)
    assert metrics["macro_f1"] == pytest.approx(macro, abs=1e-6)
    assert metrics["sample_f1"] == pytest.approx(sample, abs=1e-6)
    assert metrics["mAP"] == pytest.approx(average_precision_score(labels, scores))
    by_class = f1_score(labels, scores >= 0.5, average=None, zero_division=0)
    assert [metrics[f"f1/{name}"] for name in NAMES] == pytest.approx(by_class.tolist())


def test_threshold_belongs_to_the_positives():
    metrics = multilabel_metrics([[0.3], [0.1]], [[1], [0]], ["cat"], threshold=0.3)
    assert metrics["f1/cat"] == 1


def test_without_any_positive_the_means_are_left_out():
    metrics = multilabel_metrics(np.full((3, 3), 0.2), np.zeros((3, 3)), NAMES)
    assert not {"mAP", "macro_f1", "sample_f1"} & metrics.keys()
    assert metrics["classes_without_positives"] == 3
    assert all(np.isfinite(value) for value in metrics.values())
    assert prior_map(np.zeros((3, 3))) == 0


def test_prior_is_the_map_of_a_constant_score():
    _, labels = random_case()
    labels[:, 2] = 0
    metrics = multilabel_metrics(np.full(labels.shape, 0.5), labels, NAMES)
    assert prior_map(labels) == pytest.approx(metrics["mAP"])


def test_wrong_shapes_say_what_to_pass():
    with pytest.raises(ValueError, match="3 class names"):
        multilabel_metrics(np.zeros((4, 2)), np.zeros((4, 2)), NAMES)
    with pytest.raises(ValueError, match="at least one row"):
        multilabel_metrics(np.zeros((0, 3)), np.zeros((0, 3)), NAMES)


def test_one_class_is_measured_as_beside_one_that_is_not_there():
    scores, labels = np.array([[0.9], [0.2], [0.6], [0.1]]), np.array([[1], [1], [0], [0]])
    pad = np.zeros_like(labels)
    alone = multilabel_metrics(scores, labels, ["cat"]) | tuned_metrics(
        scores, labels, [0.3], ["cat"]
    )
    both = multilabel_metrics(np.hstack([scores, pad]), np.hstack([labels, pad]), ["cat", "dog"])
    both |= tuned_metrics(
        np.hstack([scores, pad]), np.hstack([labels, pad]), [0.3, 0.5], ["cat", "dog"]
    )
    shared = alone.keys() - {"classes_without_positives"}
    assert {name: alone[name] for name in shared} == {name: both[name] for name in shared}
    assert alone["sample_f1_tuned"] == 0.25
