"""Pack a VOC data set into WebDataset shards, once.

  python scripts/make_shards.py source=/path/to/VOCdevkit/VOC2012 output=shards/voc2012
  python scripts/make_shards.py source=kaggle:gopalbhattrai/pascal-voc-2012-dataset
  python scripts/make_shards.py configs/demo/shards.yaml workers=2
  python scripts/make_shards.py source=s3://bucket/VOC2012 output=s3://bucket/shards/voc2012

Usage: make_shards.py [CONFIG.yaml] [key=value ...]; the default is configs/shards/voc2012.yaml.
Killed, it goes on where it was when run again.
"""

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from vocdist.cli import config_from_arguments, run_command
from vocdist.config import ShardsConfig
from vocdist.config.file import plain_config
from vocdist.remote.cache import default_cache
from vocdist.remote.location import last_part
from vocdist.report.dataset_pictures import (
    SHEET,
    STATISTICS,
    have_pictures,
    save_pictures,
    statistics_apart,
)
from vocdist.shards.convert import convert, locked_output
from vocdist.shards.format import MANIFEST_NAME, Manifest, SplitRule, save_manifest
from vocdist.shards.images import Shrink
from vocdist.shards.plan import plan_hash, plan_shards
from vocdist.shards.publish import data_set_entry, publish, published, staged
from vocdist.shards.rejections import print_summary
from vocdist.shards.samples import SplitSamples, samples_of
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.source import resolve_source

DEFAULT = Path("configs/shards/voc2012.yaml")


def main(arguments: list[str]) -> None:
    """Convert, then say what was written and what was left out."""
    config = config_from_arguments(ShardsConfig, arguments, DEFAULT)
    root = resolve_source(config.source)
    output = config.output
    if config.engine not in ("local", "loky"):
        # A cluster's workers have working folders of their own.
        root = root.absolute()
        output = output.absolute() if isinstance(output, Path) else output
    if isinstance(output, Path):
        with locked_output(output) as lock_token:
            samples = read_samples(config, root)
            manifest = convert_samples(config, samples, output, lock_token)
    else:
        samples = read_samples(config, root)
        manifest = make_remote(config, samples, output)
    console = Console()
    print_summary(console, manifest, output, samples.notes)
    if config.name and config.name != manifest.name:
        console.print(
            f"{output} holds this data set already, as '{manifest.name}': the name stays, since "
            f"runs know their shards by the manifest."
        )
    if config.pictures:
        console.print(f"{output}/{STATISTICS} and {SHEET} show what is in them.")
    if config.tracking.wandb != "disabled":
        print(log_to_wandb(config, manifest, output))


def make_remote(config: ShardsConfig, samples: SplitSamples, url: str) -> Manifest:
    """Make the shards in a folder of this machine and upload them, unless they are there."""
    with staged(url, default_cache()) as folder:
        plans = plan_shards(
            samples.splits, config.samples_per_shard, images=samples.images, shrink=samples.shrink
        )
        manifest = published(url, plan_hash(plans))
        if manifest is None:
            with locked_output(folder) as lock_token:
                manifest = convert_samples(config, samples, folder, lock_token)
            publish(folder, url)
    return manifest


def read_samples(config: ShardsConfig, root: Path) -> SplitSamples:
    """Look at every file of the VOC root."""
    return samples_of(
        root,
        config.classes or VOC_CLASSES,
        split_lists={"auto": None, "lists": True, "seeded": False}[config.split],
        split_ratio=config.split_ratio,
        split_seed=config.split_seed,
        skip_difficult=config.skip_difficult,
        shrink=Shrink(config.max_side, config.jpeg_quality) if config.max_side else None,
        follow_links=config.follow_links,
        decode=config.decode_images,
        negatives=config.negatives,
        exif_boxes=config.exif_boxes,
        strict=config.strict,
        max_rejected=config.max_rejected,
        workers=config.workers,
        engine=config.engine,
    )


def convert_samples(
    config: ShardsConfig, samples: SplitSamples, folder: Path, lock_token: str
) -> Manifest:
    """Write the shards of what can be used, and draw what is in them."""
    seeded = samples.split_kind == "seeded"
    classes = config.classes or VOC_CLASSES
    wanted = config.pictures and not have_pictures(folder)
    with statistics_apart(samples.splits, classes) if wanted else nullcontext() as statistics:
        manifest = convert(
            samples,
            folder,
            name=config.name or last_part(config.output),
            classes=classes,
            split_rule=SplitRule(
                kind=samples.split_kind,
                ratio=config.split_ratio if seeded else None,
                seed=config.split_seed if seeded else None,
            ),
            skip_difficult=config.skip_difficult,
            samples_per_shard=config.samples_per_shard,
            lock_token=lock_token,
            workers=config.workers,
            engine=config.engine,
        )
        if statistics:
            save_pictures(folder, statistics)
    return manifest


def log_to_wandb(config: ShardsConfig, manifest: Manifest, output: Path | str) -> str:
    """Log the data set as an artifact; returns where the W&B run is."""
    # Imported here, as wandb takes a second too.
    from vocdist.runs.wandb import data_set, describe_location, picture, start_run

    run = start_run(
        config.tracking.wandb,
        project=config.tracking.project,
        name=f"shards-{manifest.name}",
        folder=None,
        config=plain_config(config),
    )
    if run is None:
        return describe_location(run)
    entry = data_set_entry(manifest, output)
    with run, TemporaryDirectory() as folder:
        # Of remote shards nothing else is left on this machine.
        save_manifest(manifest, Path(folder))
        artifact = data_set(
            manifest.name,
            manifest=Path(folder) / MANIFEST_NAME,
            references=entry.references,
            metadata=entry.metadata,
        )
        run.log_artifact(artifact)
        # Beside the artifact: it is to be the same for all who read the same shards.
        names = (STATISTICS, SHEET) if isinstance(output, Path) else ()
        pictures = {name: Path(output) / name for name in names}
        if any(path.exists() for path in pictures.values()):
            run.log({name: picture(path) for name, path in pictures.items() if path.exists()})
    return describe_location(run)


if __name__ == "__main__":
    run_command(main, __doc__, ShardsConfig, DEFAULT)
