"""Pack a VOC data set into WebDataset shards, once.

  python scripts/make_shards.py source=/path/to/VOCdevkit/VOC2012 output=shards/voc2012
  python scripts/make_shards.py source=kaggle:gopalbhattrai/pascal-voc-2012-dataset
  python scripts/make_shards.py configs/demo/shards.yaml workers=2
  python scripts/make_shards.py source=s3://bucket/VOC2012 output=s3://bucket/shards/voc2012

Usage: make_shards.py [CONFIG.yaml] [key=value ...]; the default is configs/shards/voc2012.yaml.
Killed, it goes on where it was when run again.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.console import Console

from vocdist.cli import config_from_arguments, run_command
from vocdist.config import ShardsConfig
from vocdist.config.file import plain_config
from vocdist.drawing import class_colors, contact_sheet, draw_boxes
from vocdist.files.atomic import replaced_when_done
from vocdist.remote.cache import default_cache
from vocdist.remote.location import last_part
from vocdist.shards.convert import convert, locked_output
from vocdist.shards.manifest import MANIFEST_NAME, Manifest, SplitRule, load_manifest, save_manifest
from vocdist.shards.plan import plan_hash, plan_shards
from vocdist.shards.publish import data_set_entry, publish, published, staged
from vocdist.shards.reader import ShardReader
from vocdist.shards.samples import SplitSamples, samples_of
from vocdist.shards.shrink import Shrink
from vocdist.shards.summary import print_summary
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.source import resolve_source

DEFAULT = Path("configs/shards/voc2012.yaml")
STATISTICS, SHEET = "dataset.png", "dataset_samples.jpg"
SHEET_ROWS = SHEET_COLUMNS = 4


def main(arguments: list[str]) -> None:
    """Convert, then say what was written and what was left out."""
    config = config_from_arguments(ShardsConfig, arguments, DEFAULT)
    root = resolve_source(config.source)
    output = config.output
    if config.engine != "loky":
        # A cluster's workers have working folders of their own.
        root = root.absolute()
        output = output.absolute() if isinstance(output, Path) else output
    if isinstance(output, Path):
        with locked_output(output) as lock_token:
            samples = read_samples(config, root)
            manifest = convert_samples(config, samples, output, lock_token)
        if config.pictures:
            draw_pictures(output)
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
            if config.pictures:
                draw_pictures(folder)
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
    """Write the shards of what can be used."""
    seeded = samples.split_kind == "seeded"
    return convert(
        samples,
        folder,
        name=config.name or last_part(config.output),
        classes=config.classes or VOC_CLASSES,
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


def draw_pictures(folder: Path) -> None:
    """Statistics of the boxes, and a sheet of samples, beside the shards; once per manifest."""
    made = (folder / MANIFEST_NAME).stat().st_mtime
    pictures = [folder / name for name in (STATISTICS, SHEET)]
    if all(path.exists() and path.stat().st_mtime >= made for path in pictures):
        return
    # Imported here: matplotlib takes a second, which a run that finds its work done does without.
    from vocdist.report.dataset import SplitBoxes, plot_dataset

    readers = [ShardReader(folder, split) for split in load_manifest(folder).splits]
    boxes = {}
    for reader in readers:
        rows = np.concatenate([np.zeros((0, 5), np.int64), *(a.boxes for a in reader.annotations)])
        per_image = np.array([len(a.boxes) for a in reader.annotations], dtype=np.int64)
        # VOC's corners are inclusive: a box of w = xmax - xmin covers one pixel more.
        sizes = rows[:, 3:].astype(np.float64) + 1
        boxes[reader.split] = SplitBoxes(rows[:, 0], sizes, per_image)
    plot_dataset(boxes, readers[0].manifest.classes, pictures[0])
    fullest = max(readers, key=len)
    count = min(len(fullest), SHEET_ROWS * SHEET_COLUMNS)
    # Evenly spaced: the same pictures each time, from all shards.
    chosen = np.linspace(0, len(fullest) - 1, count).astype(int).tolist()
    sheet = contact_sheet([drawn(fullest, index) for index in chosen], SHEET_COLUMNS)
    with replaced_when_done(pictures[1]) as temporary:
        sheet.save(temporary, "JPEG", quality=88)


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


def drawn(reader: ShardReader, index: int) -> Image.Image:
    """A stored image with its boxes and their class names."""
    # Imported here, as torch takes seconds.
    from vocdist.data.geometry import rows_to_xyxy

    sample = reader.read(index)
    notes = sample.annotations
    ids = notes.boxes[:, 0].tolist()
    return draw_boxes(
        Image.open(io.BytesIO(sample.jpeg)),
        rows_to_xyxy(notes.boxes, notes.width, notes.height),
        colors=class_colors(ids),
        labels=[reader.manifest.classes[i] for i in ids],
    )


if __name__ == "__main__":
    run_command(main, __doc__, ShardsConfig, DEFAULT)
