"""The pictures beside a data set's shards: statistics of the boxes, and a sheet of samples."""

import io
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from vocdist.drawing import class_colors, contact_sheet, draw_boxes
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.shards.format import MANIFEST_NAME, load_manifest
from vocdist.shards.plan import PlannedSample
from vocdist.shards.reader import ShardReader
from vocdist.voc.annotation import rows_to_xyxy

STATISTICS, SHEET = "dataset.png", "dataset_samples.jpg"
SHEET_ROWS = SHEET_COLUMNS = 4


def have_pictures(folder: Path) -> bool:
    """Whether both pictures are there, as new as the manifest: they are drawn once for each."""
    try:
        made = (folder / MANIFEST_NAME).stat().st_mtime
        return all((folder / name).stat().st_mtime >= made for name in (STATISTICS, SHEET))
    except FileNotFoundError:
        return False


@contextmanager
def statistics_apart(
    samples: Mapping[str, Sequence[PlannedSample]], classes: Sequence[str]
) -> Iterator[Connection]:
    """Draw the statistics of the boxes in another process, while shards are written.

    Yields where the bytes of the PNG arrive. matplotlib takes two seconds of a processor: at the
    end all others would be idle.
    """
    receiver, sender = Pipe(duplex=False)
    records = {split: [sample.record for sample in members] for split, members in samples.items()}
    process = Process(target=_send_statistics, args=(sender, records, classes), daemon=True)
    process.start()
    # What is left is the other process's: when that ends, there is no more to wait for.
    sender.close()
    try:
        yield receiver
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _send_statistics(
    sender: Connection, records: Mapping[str, Sequence[bytes]], classes: Sequence[str]
) -> None:
    """Draw the statistics and send them, as a PNG."""
    # Imported here: matplotlib takes most of a second, which a run that finds its work done saves.
    from vocdist.report.dataset import SplitBoxes, plot_dataset

    # The parent's to answer, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    boxes = {}
    for split, members in records.items():
        each = [json.loads(record)["boxes"] for record in members]
        rows = np.array([row for rows in each for row in rows], dtype=np.int64).reshape(-1, 5)
        # VOC's corners are inclusive: a box of w = xmax - xmin covers one pixel more.
        sizes = rows[:, 3:].astype(np.float64) + 1
        per_image = np.array([len(rows) for rows in each], dtype=np.int64)
        boxes[split] = SplitBoxes(rows[:, 0], sizes, per_image)
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
    sheet = contact_sheet([_drawn(fullest, index) for index in chosen], SHEET_COLUMNS)
    with replaced_when_done(folder / SHEET) as temporary:
        sheet.save(temporary, "JPEG", quality=88)


def _drawn(reader: ShardReader, index: int) -> Image.Image:
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
