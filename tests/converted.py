"""The drawn VOC root of the tests, as shards."""

from pathlib import Path

from vocdist.shards.convert import convert
from vocdist.shards.format import SplitRule
from vocdist.shards.samples import samples_of
from vocdist.voc.classes import VOC_CLASSES


def converted(root: Path, folder: Path, *, ratio: float = 0.8, samples_per_shard: int = 12) -> Path:
    """Pack a root into `folder`, which is returned; `ratio` of the images are train samples."""
    samples = samples_of(
        root,
        VOC_CLASSES,
        split_lists=False,
        split_ratio=ratio,
        split_seed=42,
        skip_difficult=False,
    )
    convert(
        samples,
        folder,
        name="demo",
        classes=VOC_CLASSES,
        split_rule=SplitRule(kind="seeded", ratio=ratio, seed=42),
        skip_difficult=False,
        samples_per_shard=samples_per_shard,
    )
    return folder
