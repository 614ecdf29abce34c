"""Draw boxes with class names, or the proposals of an RPN run, on images.

  python scripts/visualize.py /path/to/VOC2012 keys=[2008_000008,2008_000015]
  python scripts/visualize.py shards/voc2012 split=train count=24
  python scripts/visualize.py runs/rpn proposals=20

Usage: visualize.py VOC_ROOT|SHARDS|RUN [key=value ...]; SHARDS may be a URL, and RUN one
of a run's checkpoints. Ground truth of an RPN run is green, its proposals are red.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vocdist.cli import run_command, split_arguments
from vocdist.config import VisualizeConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError
from vocdist.remote.location import Location, last_part, parse_location

if TYPE_CHECKING:
    from PIL import Image

    Pictures: TypeAlias = Iterator[tuple[str, Image.Image]]


def main(arguments: list[str]) -> None:
    """Draw one picture per image, and a sheet of them all."""
    source, overrides = split_arguments(arguments)
    if source is None:
        raise UserError("draw what? python scripts/visualize.py VOC_ROOT|SHARDS|RUN")
    config, folder = load_config(VisualizeConfig, None, overrides), parse_location(source)
    # Here and below, not above: `--help` and a slip do not wait for torch.
    from vocdist.drawing import contact_sheet
    from vocdist.runs.folder import run_around, weights_file
    from vocdist.shards.format import MANIFEST_NAME

    # A data set's folder is not written into: it holds what its manifest knows, and no more.
    name = last_part(folder.resolve() if isinstance(folder, Path) else folder)
    beside = Path("pictures") / name
    if not isinstance(folder, Path):
        pictures, output = from_shards(folder, config), beside
    elif (run := run_around(folder)) is not None:
        pictures, output = from_run(run, weights_file(folder), config), run / "pictures"
    elif (folder / MANIFEST_NAME).is_file():
        pictures, output = from_shards(folder, config), beside
    else:
        pictures, output = from_voc(folder, config), beside
    output = config.output or output
    output.mkdir(parents=True, exist_ok=True)
    drawn = []
    for key, picture in pictures:
        picture.save(output / f"{key}.png")
        drawn.append(picture)
    contact_sheet(drawn, columns=min(3, len(drawn))).save(output / "sheet.png")
    print(f"{len(drawn)} pictures and sheet.png are in {output}")


def from_voc(folder: Path, config: VisualizeConfig) -> Pictures:
    """Images of a VOC root with all their boxes, whatever the classes are called."""
    from vocdist.drawing import draw_boxes
    from vocdist.shards.images import BadImage, as_drawn_on, checked_size
    from vocdist.voc.annotation import box_rows, rows_to_xyxy
    from vocdist.voc.classes import class_ids
    from vocdist.voc.pairing import pair_samples
    from vocdist.voc.source import find_voc_root

    root = find_voc_root(folder)
    samples = {sample.stem: sample for sample in pair_samples(root).samples}
    for key in _chosen(list(samples), config, root):
        objects = samples[key].annotation.objects
        names = [item.name for item in objects]
        ids = class_ids(sorted(set(names)))
        encoded = samples[key].image.read_bytes()
        try:
            checked_size(encoded)
        except BadImage as bad:
            raise UserError(f"{samples[key].image}: {bad.detail}: mend or remove it") from None
        stated = samples[key].annotation.width, samples[key].annotation.height
        image, note = as_drawn_on(encoded, stated)
        if note:
            print(f"{key}: {note}", file=sys.stderr)
        boxes = rows_to_xyxy(box_rows(objects, ids), *image.size)
        yield key, draw_boxes(image, boxes, labels=names)


def from_shards(folder: Location, config: VisualizeConfig) -> Pictures:
    """Images of a shard folder's split with their boxes."""
    from PIL import Image

    from vocdist.data.dataset import decode_image
    from vocdist.drawing import class_colors, draw_boxes
    from vocdist.shards.reader import ShardReader
    from vocdist.voc.annotation import rows_to_xyxy

    reader = ShardReader(folder, config.split)
    index = {record.key: i for i, record in enumerate(reader.annotations)}
    for key in _chosen(list(index), config, folder):
        sample = reader.read(index[key])
        pixels = decode_image(sample.jpeg, f"{folder}: sample {key}").permute(1, 2, 0)
        image = Image.fromarray(pixels.numpy())
        rows = sample.annotations.boxes
        names = [reader.manifest.classes[class_id] for class_id in rows[:, 0]]
        boxes = rows_to_xyxy(rows, *image.size)
        yield key, draw_boxes(image, boxes, colors=class_colors(rows[:, 0].tolist()), labels=names)


def from_run(folder: Path, weights: Path, config: VisualizeConfig) -> Pictures:
    """Scaled images of an RPN run's split with their boxes, and what these weights propose."""
    from vocdist.distributed.processes import build_accelerator, runtime_of_use
    from vocdist.shards.reader import ShardReader
    from vocdist.tasks.task import load_run_config
    from vocdist.training.evaluation import load_task
    from vocdist.training.loaders import build_loader, cache_rule

    run = load_run_config(folder, ["data.num_workers=0"])
    task = load_task(run, folder, weights)
    if task.predicts != "boxes":
        raise UserError(
            f"{folder}: its task ({task.title}) proposes no boxes: pass an RPN run or shards"
        )
    runtime, notes = runtime_of_use(run.runtime, [])
    print(*notes, sep="\n", end="\n" if notes else "")
    task.model.to(build_accelerator(runtime).device)
    reader = ShardReader(run.data.shards, config.split, cache=cache_rule(run.data))
    loader = build_loader(run, reader, training=False)
    index = {record.key: i for i, record in enumerate(reader.annotations)}
    keys = _chosen(list(index), config, run.data.shards)
    overlays = task.pictures(loader, [index[k] for k in keys], drawn=config.proposals)
    yield from zip(keys, overlays, strict=True)


def _chosen(keys: Sequence[str], config: VisualizeConfig, where: Location) -> list[str]:
    if not keys:
        raise UserError(f"{where}: holds no image")
    if config.keys is None:
        return list(islice(keys, config.count))
    unknown = [key for key in config.keys if key not in set(keys)]
    if unknown:
        raise UserError(f"{where}: has no image '{unknown[0]}'; its first is '{keys[0]}'")
    return list(config.keys)


if __name__ == "__main__":
    run_command(main, __doc__, VisualizeConfig)
