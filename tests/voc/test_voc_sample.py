"""Against the notebook's own way of reading, on the real images that VOCDIST_SAMPLE names."""

import glob
import os
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from vocdist.voc.annotation import box_rows, multi_hot, unknown_names
from vocdist.voc.classes import VOC_CLASSES, class_ids
from vocdist.voc.counts import count_split
from vocdist.voc.pairing import pair_samples
from vocdist.voc.source import resolve_source
from vocdist.voc.split import seeded_split

pytestmark = [
    pytest.mark.sample,
    pytest.mark.skipif("VOCDIST_SAMPLE" not in os.environ, reason="VOCDIST_SAMPLE is not set"),
]


def notebook_split(root: Path) -> dict[str, list[str]]:
    stems = []
    for xml in sorted(glob.glob(os.path.join(root, "Annotations", "*.xml"))):
        stem = os.path.splitext(os.path.basename(xml))[0]
        image = os.path.join(root, "JPEGImages", stem + ".jpg")
        if os.path.exists(image) and len(ET.parse(xml).getroot().findall("object")):
            stems.append(stem)
    random.Random(42).shuffle(stems)
    cut = int(len(stems) * 0.8)
    return {"train": stems[:cut], "val": stems[cut:]}


def notebook_boxes(xml: Path) -> list[list[int]]:
    rows = []
    for item in ET.parse(xml).getroot().findall("object"):
        name = (item.findtext("name") or "").strip().lower()
        if name in VOC_CLASSES:
            sides = [item.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")]
            x1, y1, x2, y2 = (int(float(side or "")) for side in sides)
            rows.append([VOC_CLASSES.index(name), x1, y1, max(0, x2 - x1), max(0, y2 - y1)])
    return rows


def test_the_real_sample_reads_as_the_notebook_reads_it():
    root = resolve_source(os.environ["VOCDIST_SAMPLE"])
    pairing = pair_samples(root)
    samples = {sample.stem: sample for sample in pairing.samples}
    ids = class_ids(VOC_CLASSES)
    split = seeded_split(list(samples), 0.8, 42)
    assert split == notebook_split(root)
    assert all(split.values())
    for stems in split.values():
        rows = [box_rows(samples[stem].annotation.objects, ids) for stem in stems]
        expected = [notebook_boxes(samples[stem].annotation_path) for stem in stems]
        assert [boxes.tolist() for boxes in rows] == expected
        labels = np.stack([multi_hot(boxes, 20) for boxes in rows])
        assert count_split(rows, VOC_CLASSES).images == {
            name: sum(any(row[0] == i for row in boxes) for boxes in expected)
            for i, name in enumerate(VOC_CLASSES)
        }
        assert labels.sum() == sum(len({row[0] for row in boxes}) for boxes in expected)
    assert not any(unknown_names(s.annotation.objects, ids) for s in pairing.samples)
