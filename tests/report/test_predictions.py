from pathlib import Path

import numpy as np
from made_runs import classifier_predictions, examples, rpn_predictions

from vocdist.runs.predictions import load_predictions, save_predictions, shown_images


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    for predictions in (classifier_predictions(), rpn_predictions()):
        path = tmp_path / "predictions.npz"
        save_predictions(path, predictions, examples(predictions))
        again, pictures = load_predictions(path)
        assert type(again) is type(predictions)
        for name, value in vars(predictions).items():
            assert np.array_equal(np.asarray(getattr(again, name)), np.asarray(value)), name
        assert [one.jpeg for one in pictures] == [one.jpeg for one in examples(predictions)]
        assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_the_best_images_have_the_lowest_loss_and_none_is_shown_twice() -> None:
    predictions = classifier_predictions()
    best, worst = shown_images(predictions)
    order = np.argsort(predictions.losses, kind="stable").tolist()
    assert (best, worst) == (order[:8], order[::-1][:8])
    assert not set(best) & set(worst)


def test_rpn_images_are_ranked_by_the_recall_of_their_boxes() -> None:
    predictions = rpn_predictions()
    recall = predictions.recall_of_images()
    best, worst = shown_images(predictions)
    assert recall[best].min() >= recall[worst].max()
    own = predictions.at(200)[predictions.box_image == best[0]]
    by_hand = np.mean([[iou >= t / 100 for t in range(50, 100, 5)] for iou in own])
    assert recall[best[0]] == np.float32(by_hand)
