"""Pack a VOC data set into WebDataset shards, once.

  python scripts/make_shards.py source=/path/to/VOCdevkit/VOC2012 output=shards/voc2012
  python scripts/make_shards.py source=kaggle:gopalbhattrai/pascal-voc-2012-dataset
  python scripts/make_shards.py configs/demo/shards.yaml workers=2
  python scripts/make_shards.py source=s3://bucket/VOC2012 output=s3://bucket/shards/voc2012

Usage: make_shards.py [CONFIG.yaml] [key=value ...]; the default is configs/shards/voc2012.yaml.
Killed, it goes on where it was when run again.
"""

import io
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.console import Console

from vocdist.cli import config_from_arguments, run_command
from vocdist.config import ShardsConfig
from vocdist.config.file import plain_config
from vocdist.drawing import class_colors, contact_sheet, draw_boxes
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.remote.cache import default_cache
from vocdist.remote.location import last_part
from vocdist.shards.convert import claimed_output, convert
from vocdist.shards.manifest import MANIFEST_NAME, Manifest, SplitRule, load_manifest, save_manifest
from vocdist.shards.plan import plan_hash, plan_shards
from vocdist.shards.publish import data_set_entry, publish, published, staged
from vocdist.shards.reader import ShardReader
from vocdist.shards.samples import SplitSamples, samples_of
from vocdist.shards.shrink import Shrink
from vocdist.shards.summary import print_summary
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.rows import rows_to_xyxy
from vocdist.voc.source import resolve_source

DEFAULT = Path("configs/shards/voc2012.yaml")
STATISTICS, SHEET = "dataset.png", "dataset_samples.jpg"
SHEET_ROWS = SHEET_COLUMNS = 4


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
        with claimed_output(output) as claim:
            samples = read_samples(config, root)
            manifest = convert_samples(config, samples, output, claim)
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
            with claimed_output(folder) as claim:
                manifest = convert_samples(config, samples, folder, claim)
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
    config: ShardsConfig, samples: SplitSamples, folder: Path, claim: str
) -> Manifest:
    """Write the shards of what can be used, and draw what is in them."""
    seeded = samples.split_kind == "seeded"
    classes = config.classes or VOC_CLASSES
    wanted = config.pictures and not have_pictures(folder)
    with statistics_apart(samples, classes) if wanted else nullcontext() as statistics:
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
            claim=claim,
            workers=config.workers,
            engine=config.engine,
        )
        if statistics:
            save_pictures(folder, statistics)
    return manifest


def have_pictures(folder: Path) -> bool:
    """Whether both pictures are there, as new as the manifest: they are drawn once for each."""
    try:
        made = (folder / MANIFEST_NAME).stat().st_mtime
        return all((folder / name).stat().st_mtime >= made for name in (STATISTICS, SHEET))
    except FileNotFoundError:
        return False


@contextmanager
def statistics_apart(samples: SplitSamples, classes: Sequence[str]) -> Iterator[Connection]:
    """Draw the statistics of the boxes in another process, while shards are written.

    Yields where the bytes of the PNG arrive. matplotlib takes two seconds of a processor: at the
    end all others would be idle.
    """
    receiver, sender = Pipe(duplex=False)
    records = {
        split: [sample.record for sample in members] for split, members in samples.splits.items()
    }
    process = Process(target=send_statistics, args=(sender, records, classes), daemon=True)
    process.start()
    # What is left is the other process's: when that ends, there is no more to wait for.
    sender.close()
    try:
        yield receiver
    finally:
        receiver.close()
        process.terminate()
        process.join()


def send_statistics(
    sender: Connection, records: Mapping[str, Sequence[bytes]], classes: Sequence[str]
) -> None:
    """Draw the statistics and send them, as a PNG."""
    from vocdist.report.dataset import SplitBoxes, plot_dataset

    # The parent's to answer, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    boxes = {}
    for split, members in records.items():
        each = [json.loads(record)["boxes"] for record in members]
        rows = np.array([row for rows in each for row in rows], dtype=np.int64).reshape(-1, 5)
        # VOC's corners are inclusive: a box of w = xmax - xmin covers one pixel more.
        sizes = rows[:, 3:].astype(np.float64) + 1
        boxes[split] = SplitBoxes(rows[:, 0], sizes, np.array([len(rows) for rows in each]))
    sender.send_bytes(plot_dataset(boxes, classes))


def save_pictures(folder: Path, statistics: Connection) -> None:
    """Write the statistics, and draw a sheet of samples from the shards."""
    try:
        drawing = statistics.recv_bytes()
    except EOFError:
        raise UserError(
            f"{folder}: the shards are complete, but what drew their statistics ended early, most "
            f"likely for want of memory: run the same command again, or pass pictures=false"
        ) from None
    with replaced_when_done(folder / STATISTICS) as temporary:
        temporary.write_bytes(drawing)
    readers = [ShardReader(folder, split) for split in load_manifest(folder).splits]
    fullest = max(readers, key=len)
    count = min(len(fullest), SHEET_ROWS * SHEET_COLUMNS)
    # Evenly spaced: the same pictures each time, from all shards.
    chosen = np.linspace(0, len(fullest) - 1, count).astype(int).tolist()
    sheet = contact_sheet([drawn(fullest, index) for index in chosen], SHEET_COLUMNS)
    with replaced_when_done(folder / SHEET) as temporary:
        sheet.save(temporary, "JPEG", quality=88)


def log_to_wandb(config: ShardsConfig, manifest: Manifest, output: Path | str) -> str:
    """Log the data set as an artifact; returns where the W&B run is."""
    # Imported here, as wandb takes a second too.
    from vocdist.runs.wandb import data_set, picture, start_run, whereabouts

    run = start_run(
        config.tracking.wandb,
        project=config.tracking.project,
        name=f"shards-{manifest.name}",
        folder=None,
        config=plain_config(config),
    )
    if run is None:
        return whereabouts(run)
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
    return whereabouts(run)


def drawn(reader: ShardReader, index: int) -> Image.Image:
    """A stored image with its boxes and their class names."""
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
