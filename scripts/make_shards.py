"""Pack a VOC data set into WebDataset shards, once.

  python scripts/make_shards.py source=/path/to/VOCdevkit/VOC2012 output=shards/voc2012
  python scripts/make_shards.py source=kaggle:gopalbhattrai/pascal-voc-2012-dataset
  python scripts/make_shards.py configs/demo/shards.yaml workers=2

Usage: make_shards.py [CONFIG.yaml] [key=value ...]; the default is configs/shards/voc2012.yaml.
Keys: source, output, name, classes, split, split_ratio, split_seed, skip_difficult, strict,
max_rejected, follow_links, max_side, jpeg_quality, samples_per_shard, workers, engine.
Killed, it goes on where it was when run again.
"""

from pathlib import Path

from rich.console import Console

from vocdist.command import config_from_arguments, run_command
from vocdist.config import ShardsConfig
from vocdist.shards.convert import convert
from vocdist.shards.manifest import SplitRule
from vocdist.shards.samples import samples_of
from vocdist.shards.shrink import Shrink
from vocdist.shards.summary import print_summary
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.source import resolve_source


def main(arguments: list[str]) -> None:
    """Convert, then say what was written and what was left out."""
    config = config_from_arguments(ShardsConfig, arguments, Path("configs/shards/voc2012.yaml"))
    classes = config.classes or VOC_CLASSES
    seeded = config.split == "seeded"
    samples = samples_of(
        resolve_source(config.source),
        classes,
        split_lists=not seeded,
        split_ratio=config.split_ratio,
        split_seed=config.split_seed,
        skip_difficult=config.skip_difficult,
        shrink=Shrink(config.max_side, config.jpeg_quality) if config.max_side else None,
        follow_links=config.follow_links,
        strict=config.strict,
        max_rejected=config.max_rejected,
        workers=config.workers,
        engine=config.engine,
    )
    manifest = convert(
        samples,
        config.output,
        name=config.name or config.output.name,
        classes=classes,
        split_rule=SplitRule(
            kind=config.split,
            ratio=config.split_ratio if seeded else None,
            seed=config.split_seed if seeded else None,
        ),
        skip_difficult=config.skip_difficult,
        samples_per_shard=config.samples_per_shard,
        workers=config.workers,
        engine=config.engine,
    )
    print_summary(Console(), manifest, config.output)


if __name__ == "__main__":
    run_command(main, __doc__)
