import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vocdist.voc.annotation import multi_hot
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.counts import (
    class_count_table,
    class_image_counts,
    class_object_counts,
    count_split,
    notes_on_absent,
    notes_on_no_objects,
)

NAMES = ("cat", "cow", "dog")


def boxes(*ids: int) -> np.ndarray:
    return np.array([[i, 1, 1, 5, 5] for i in ids], dtype=np.int32).reshape(-1, 5)


def test_counts_by_hand():
    samples = [boxes(0, 0, 2), boxes(2), boxes()]
    counts = count_split(iter(samples), NAMES)
    assert counts.samples == 3
    assert counts.images == class_image_counts(samples, NAMES) == {"cat": 1, "cow": 0, "dog": 2}
    assert counts.objects == class_object_counts(samples, NAMES) == {"cat": 2, "cow": 0, "dog": 2}
    # Plain ints, which JSON can hold.
    assert {type(n) for n in [*counts.images.values(), *counts.objects.values()]} == {int}


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=6))
def test_image_counts_are_the_sums_of_the_label_vectors(ids_per_sample):
    samples = [boxes(*ids) for ids in ids_per_sample]
    labels = np.array([multi_hot(rows, 3) for rows in samples]).reshape(-1, 3)
    assert list(class_image_counts(samples, NAMES).values()) == labels.sum(axis=0).tolist()
    total = sum(class_object_counts(samples, NAMES).values())
    assert total == sum(len(rows) for rows in samples)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_ids_of_another_class_list_are_refused(wrong):
    with pytest.raises(ValueError, match=f"class id {wrong} does not fit 3 classes"):
        count_split([boxes(0, wrong)], NAMES)


def test_the_table_holds_every_number_per_split_and_in_all():
    splits = {
        "train": count_split([boxes(0, 0, 2)] * 1200, NAMES),
        "val": count_split([boxes(1), boxes()], NAMES),
    }
    out = io.StringIO()
    Console(file=out, width=120).print(class_count_table(splits))
    lines = [line.replace("│", " ").split() for line in out.getvalue().splitlines()]
    assert ["cat", "1,200", "0", "1,200", "2,400", "0", "2,400"] in lines
    assert ["cow", "0", "1", "1", "0", "1", "1"] in lines
    assert ["dog", "1,200", "0", "1,200", "1,200", "0", "1,200"] in lines
    assert ["all", "1,200", "2", "1,202", "3,600", "1", "3,601"] in lines
    # A heading takes two lines: the split above, what is counted below.
    assert ["train", "val", "total", "train", "val", "total"] in lines
    assert ["class", *["images"] * 3, *["objects"] * 3] in lines


def test_the_table_of_voc2012_fits_into_80_columns_uncut():
    boxes_of_all = [np.array([[i, 1, 1, 5, 5] for i in range(20)] * 3, dtype=np.int32)]
    splits = {name: count_split(boxes_of_all * 5_000, VOC_CLASSES) for name in ("train", "val")}
    out = io.StringIO()
    Console(file=out, width=80).print(class_count_table(splits))
    for name in VOC_CLASSES:
        assert f" {name} " in out.getvalue()
    assert "…" not in out.getvalue()
    assert " 300,000 " in out.getvalue()


def test_a_table_of_one_split_and_of_none():
    table = class_count_table({"test": count_split([boxes(1)], NAMES)})
    assert [c.header for c in table.columns][:3] == ["class", "test\nimages", "total\nimages"]
    assert class_count_table({}).row_count == 0


def test_classes_that_no_image_shows_are_named():
    full = {"cat": 3, "cow": 1}
    assert notes_on_absent(full, full) == []
    lacking = {"cat": 3, "cow": 0}
    assert notes_on_absent(lacking, full) == ["train has no image of cow: it cannot be learned"]
    assert notes_on_absent(full, lacking) == ["val has no image of cow: it is not measured"]
    (line,) = notes_on_absent(full, {"cat": 0, "cow": 0})
    assert "val has no image of any class" in line and "lowest val loss" in line
    (line,) = notes_on_absent({str(i): 0 for i in range(30)}, full)
    assert line == f"train has no image of {', '.join(map(str, range(10)))} and 20 more: " + (
        "they cannot be learned"
    )


def test_splits_without_any_object_are_named():
    assert notes_on_no_objects(3, 1) == []
    (line,) = notes_on_no_objects(3, 0)
    assert line.startswith("val has no object: nothing but the loss is measured")
    assert len(notes_on_no_objects(0, 0)) == 2
