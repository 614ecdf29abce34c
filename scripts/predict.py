"""Say which classes are in images: scores as JSON and CSV, and pictures of the first ones.

  python scripts/predict.py runs/classifier photos/
  python scripts/predict.py runs/classifier 'photos/**/*.png' more.jpg threshold=0.4 pictures=0
  python scripts/predict.py model.safetensors names.txt output=predictions device=cuda batch=128

Usage: predict.py RUN IMAGES... [key=value ...]. RUN is a run folder or a safetensors file, IMAGES
are files of any format that Pillow opens, folders, patterns, and .txt lists of these. Pixels are
taken as they are stored, as in training: rotation by EXIF is not applied. What cannot be read is
left out and named at the end, and makes the exit code 1. What a task of your own says of images is
written as JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vocdist.cli import run_command, split_places
from vocdist.config import PredictConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from vocdist.inference.files import FoundImages
    from vocdist.inference.trained import Trained


def main(arguments: list[str]) -> None:
    """Predict all images, then write the files and say where they are."""
    places, overrides = split_places(arguments)
    if len(places) < 2:
        raise UserError("a run and images are expected: predict.py runs/classifier photos/")
    config = load_config(PredictConfig, None, overrides)
    # Here and below: `--help` does not wait for torch.
    from vocdist.inference.files import find_images
    from vocdist.inference.trained import load_trained

    found = find_images(places[1:])
    trained = load_trained(places[0], config.device)
    # Before the work, not after it: it may be refused.
    output = config.output or trained.weights.parent / "predictions"
    output.mkdir(parents=True, exist_ok=True)
    predict = predict_values if trained.task.predicts == "values" else predict_classes
    predict(trained, found, output, config)


def predict_classes(
    trained: Trained, images: FoundImages, output: Path, config: PredictConfig
) -> None:
    """Write the classes of each image, and draw them on the first ones."""
    from tqdm import tqdm

    from vocdist.drawing import draw_scores
    from vocdist.inference.predict import Classifier, by_position, exit_if_unreadable
    from vocdist.inference.writing import (
        save_pictures,
        write_predictions_csv,
        write_predictions_json,
    )

    classifier = Classifier(trained)
    if config.threshold is not None:
        classifier.thresholds = dict.fromkeys(classifier.classes, config.threshold)
    found = classifier.predict_each(images.files, batch=config.batch, workers=config.workers)
    bar = tqdm(found, total=len(images.files), desc="predicting", unit="img", disable=None)
    predictions, unreadable = by_position(bar)
    unreadable = [*images.missing, *unreadable]

    results = output / "predictions.json"
    write_predictions_json(results, predictions, classifier.thresholds, unreadable)
    write_predictions_csv(output / "predictions.csv", predictions, classifier.classes)
    save_pictures(
        predictions[: config.pictures],
        output / "pictures",
        lambda image, one: draw_scores(image, one.scores, one.present),
    )
    print(f"{len(predictions):,} images predicted: {results} and predictions.csv")
    exit_if_unreadable(unreadable)


def predict_values(
    trained: Trained, images: FoundImages, output: Path, config: PredictConfig
) -> None:
    """Write what a task that is neither classifier nor RPN says of each image."""
    from tqdm import tqdm

    from vocdist.inference.predict import answer_each, by_position, exit_if_unreadable
    from vocdist.inference.writing import write_answers

    found = answer_each(trained, images.files, batch=config.batch, workers=config.workers)
    bar = tqdm(found, total=len(images.files), desc="predicting", unit="img", disable=None)
    answers, unreadable = by_position(bar)
    unreadable = [*images.missing, *unreadable]
    results = output / "predictions.json"
    write_answers(results, answers, unreadable)
    print(f"{len(answers):,} images predicted: {results}")
    exit_if_unreadable(unreadable)


if __name__ == "__main__":
    run_command(main, __doc__, PredictConfig)
