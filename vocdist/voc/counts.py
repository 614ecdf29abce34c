"""How many images and objects each class has, per split, as numbers and as a table."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.table import Table

# Classes that a line names.
MOST_NAMED = 10
Boxes = npt.NDArray[np.int32]  # (N, 5) rows [class_id, x, y, w, h] of one image


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What one split holds; `images` and `objects` map each class name to its count."""

    samples: int
    images: dict[str, int]
    objects: dict[str, int]


def count_split(boxes_per_sample: Iterable[Boxes], class_names: Sequence[str]) -> SplitCounts:
    """Count in one pass: samples, images that contain a class, objects of a class.

    Args:
        boxes_per_sample: Per image an (N, 5) array of box rows; N may be 0.
        class_names: C names in the order of their ids.

    Raises:
        ValueError: A class id lies outside `range(C)`.
    """
    return count_class_ids((boxes[:, 0].tolist() for boxes in boxes_per_sample), class_names)


def count_class_ids(
    ids_per_sample: Iterable[Sequence[int]], class_names: Sequence[str]
) -> SplitCounts:
    """What `count_split` counts, from the class ids of each image's boxes.

    Raises:
        ValueError: A class id lies outside `range(C)`.
    """
    samples = 0
    images: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    for ids in ids_per_sample:
        samples += 1
        images.update(set(ids))
        objects.update(ids)
    for class_id in sorted(objects):
        if not 0 <= class_id < len(class_names):
            raise ValueError(
                f"class id {class_id} does not fit {len(class_names)} classes: "
                "make the boxes and the counts from the same class list"
            )
    return SplitCounts(
        samples=samples,
        images={name: images[i] for i, name in enumerate(class_names)},
        objects={name: objects[i] for i, name in enumerate(class_names)},
    )


def class_image_counts(
    boxes_per_sample: Iterable[Boxes], class_names: Sequence[str]
) -> dict[str, int]:
    """Class name -> number of images with at least one object of it. See `count_split`."""
    return count_split(boxes_per_sample, class_names).images


def class_object_counts(
    boxes_per_sample: Iterable[Boxes], class_names: Sequence[str]
) -> dict[str, int]:
    """Class name -> number of objects. See `count_split`."""
    return count_split(boxes_per_sample, class_names).objects


def notes_on_absent(train: Mapping[str, int], val: Mapping[str, int]) -> list[str]:
    """Lines on classes that no image of a split shows; both map class names to images."""
    notes = []
    unseen = [name for name, images in train.items() if not images]
    if unseen:
        pronoun = "it" if len(unseen) == 1 else "they"
        notes.append(f"train has no image of {_listed(unseen)}: {pronoun} cannot be learned")
    unmeasured = [name for name, images in val.items() if not images]
    if len(unmeasured) == len(val):
        notes.append(
            "val has no image of any class: nothing but the loss is measured, and the best epoch "
            "is that of the lowest val loss"
        )
    elif unmeasured:
        verb = "it is" if len(unmeasured) == 1 else "they are"
        notes.append(f"val has no image of {_listed(unmeasured)}: {verb} not measured")
    return notes


def notes_on_no_objects(train: int, val: int) -> list[str]:
    """Lines on splits without any object, for a task that knows no classes.

    Both are counts of objects, or of images that show one: only 0 matters.
    """
    notes = []
    if not train:
        notes.append("train has no object: nothing but background can be learned")
    if not val:
        notes.append(
            "val has no object: nothing but the loss is measured, and the best epoch is that of "
            "the lowest val loss"
        )
    return notes


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def class_count_table(splits: Mapping[str, SplitCounts]) -> Table:
    """One row a class: images per split and in all, objects per split and in all.

    The closing row counts all samples and all objects; its image cells are no column sums, as an
    image with two classes stands in two rows.
    """
    parts = list(splits.values())
    # Two-line headings and narrow gaps, so that two splits fit into 80 columns.
    table = Table(title="Images and objects per class", show_footer=True, box=SIMPLE_HEAD)
    table.add_column("class", footer="all", no_wrap=True)
    sample_cells = _with_total([part.samples for part in parts])
    object_cells = _with_total([sum(part.objects.values()) for part in parts])
    for kind, footers in (("images", sample_cells), ("objects", object_cells)):
        for name, footer in zip([*splits, "total"], footers, strict=True):
            table.add_column(f"{name}\n{kind}", footer=footer, justify="right")
    for name in parts[0].images if parts else ():
        table.add_row(
            name,
            *_with_total([part.images[name] for part in parts]),
            *_with_total([part.objects[name] for part in parts]),
        )
    return table


def _with_total(numbers: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in [*numbers, sum(numbers)]]
