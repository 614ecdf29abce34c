"""Results as files: JSON and CSV of predictions, COCO results of proposals, pictures of both."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from vocdist.files.atomic import replaced_when_done
from vocdist.inference.files import Unreadable
from vocdist.inference.images import image_pixels
from vocdist.inference.predict import Answer, ImageProposals, Prediction

# COCO's results need a category; proposals know but this one.
CATEGORY = {"id": 1, "name": "object"}


def write_predictions_json(
    path: Path,
    predictions: Sequence[Prediction],
    thresholds: Mapping[str, float],
    unreadable: Sequence[Unreadable],
) -> None:
    """`thresholds`, `images` (file, present, scores) and `unreadable` (file, reason)."""
    _write_json(
        path,
        {
            "thresholds": dict(thresholds),
            "images": [
                {"file": p.name, "present": list(p.present), "scores": dict(p.scores)}
                for p in predictions
            ],
            "unreadable": [{"file": bad.name, "reason": bad.reason} for bad in unreadable],
        },
    )


def write_answers(path: Path, answers: Sequence[Answer], unreadable: Sequence[Unreadable]) -> None:
    """`images` (file, and what the task says of it) and `unreadable` (file, reason)."""
    _write_json(
        path,
        {
            "images": [{"file": answer.name, **answer.values} for answer in answers],
            "unreadable": [{"file": bad.name, "reason": bad.reason} for bad in unreadable],
        },
    )


def write_predictions_csv(
    path: Path, predictions: Sequence[Prediction], classes: Sequence[str]
) -> None:
    """One row per image: file, the present classes with `;` between, each class's score."""
    with (
        replaced_when_done(path) as temporary,
        # A file's name may be bytes that are no UTF-8: they are escaped.
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["file", "present", *classes])
        for p in predictions:
            scores = (f"{p.scores[name]:.6f}" for name in classes)
            rows.writerow([p.name, ";".join(p.present), *scores])


def write_coco_results(results: Path, images: Path, proposals: Sequence[ImageProposals]) -> None:
    """`results`: COCO's detection results; `images`: the data set they refer to, by `image_id`.

    `pycocotools.coco.COCO(images).loadRes(results)` reads the two; ids count from 1, and boxes are
    x, y, width, height in stored pixels.
    """
    _write_json(
        images,
        {
            "images": [
                {
                    "id": number,
                    "file_name": found.name,
                    "height": found.size_hw[0],
                    "width": found.size_hw[1],
                }
                for number, found in enumerate(proposals, start=1)
            ],
            "annotations": [],
            "categories": [CATEGORY],
        },
    )
    _write_json(
        results,
        [
            {
                "image_id": number,
                "category_id": CATEGORY["id"],
                "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 6),
            }
            for number, found in enumerate(proposals, start=1)
            for (x1, y1, x2, y2), score in zip(
                found.boxes.tolist(), found.scores.tolist(), strict=True
            )
        ],
    )


def _write_json(path: Path, content: Any) -> None:
    with replaced_when_done(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Named(Protocol):
    """A result that says which file it is of."""

    @property
    def name(self) -> str:
        """Path of the file."""
        ...


Drawn = TypeVar("Drawn", bound=Named)


def save_pictures(
    results: Sequence[Drawn], folder: Path, draw: Callable[[Image.Image, Drawn], Image.Image]
) -> None:
    """Draw each result on its image; files of one name in several folders are told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for result in results:
        stem = name = Path(result.name).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        pixels = image_pixels(result.name).permute(1, 2, 0)
        draw(Image.fromarray(pixels.numpy()), result).save(folder / f"{name}.jpg", quality=88)
