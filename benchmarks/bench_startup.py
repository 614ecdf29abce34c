"""Seconds and memory of one rank from its start to the requests of its first batch.

  python benchmarks/bench_startup.py
  python benchmarks/bench_startup.py --images 10000000 --ranks 8

The samples are invented: an `.idx` file, and JSON records one behind the other where a tar would
be, as a reader of local shards opens them by offset. No image is read or decoded, so the figures
are those of what grows with the data set alone. Of several ranks only the first is measured, in a
process of its own, which has imported everything before the clock starts.

Each case is measured with an empty cache folder, as at the first start on a machine, and again with
what that start left there. Files were just written or read and are in the page cache.

  open       the manifest and where each sample lies
  sizes      the image sizes and the groups that share a batch, of the RPN's loader
  requests   the order of the epoch, and requests until the first batch can be loaded
  private    memory of this process alone, beyond what it had after its imports
  resident   the same with pages of mapped files, which ranks and loader processes share
"""

import argparse
import hashlib
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.data.batch import SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.loader import BatchLoader
from vocdist.remote.cache import CacheRule
from vocdist.shards.format import (
    IndexEntry,
    Manifest,
    ShardRecord,
    SplitRecord,
    SplitRule,
    index_bytes,
    index_path,
    save_manifest,
)
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import task_class
from vocdist.voc.classes import VOC_CLASSES

SIZES = ((375, 500), (500, 375), (333, 500), (500, 333), (480, 640))
STAGES = ("open", "sizes", "requests")


def main() -> None:
    """Measure every case, or with `--measure` one, whose figures are printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--global-batch", type=int, default=256)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the samples go for as long as this runs")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.ranks[0], args.global_batch)))
        return
    print(f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    print("| images | ranks | start | open, s | sizes, s | requests, s | in all, s |", end="")
    print(" private, MB | resident, MB |\n" + "|---" * 9 + "|")
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write_shards(Path(folder) / "shards", images, args.per_shard)
            for ranks in args.ranks:
                compare_starts(Path(folder), images, ranks, args.global_batch)


def compare_starts(folder: Path, images: int, ranks: int, global_batch: int) -> None:
    """A row for the start with an empty cache, and one for the next."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    command = [sys.executable, __file__, "--measure", str(folder)]
    command += ["--ranks", str(ranks), "--global-batch", str(global_batch)]
    for start in ("first", "next"):
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        figures = json.loads(done.stdout)
        seconds = [figures[stage] for stage in STAGES]
        times = " | ".join(f"{value:.2f}" for value in (*seconds, sum(seconds)))
        memory = f"{figures['private']:.0f} | {figures['resident']:.0f}"
        print(f"| {images:,} | {ranks} | {start} | {times} | {memory} |", flush=True)


def measure(folder: Path, ranks: int, global_batch: int) -> dict[str, float]:
    """Seconds of each stage and MB of memory at the end, of the first of so many ranks."""
    config = load_config(RpnConfig, None, [f"data.shards={folder / 'shards'}"])
    task, classes = task_class(config.task), len(VOC_CLASSES)
    process = psutil.Process()
    before = process.memory_full_info()
    marks = [time.perf_counter()]
    reader = ShardReader(folder / "shards", "train", None, CacheRule(folder / "cache"))
    marks.append(time.perf_counter())
    loader = BatchLoader(
        FirstRequests(reader, task.transform(config, classes, training=True), seed=0),
        global_batch,
        rank=0,
        world_size=ranks,
        padding=task.padding(config, training=True),
    )
    marks.append(time.perf_counter())
    try:
        next(loader.training(epoch=0))
    except RequestsMade as made:
        assert made.args == (global_batch // ranks,), made.args
    marks.append(time.perf_counter())
    after = process.memory_full_info()
    figures = dict(zip(STAGES, np.diff(marks).tolist(), strict=True))
    figures["private"] = (after.uss - before.uss) / 1e6
    figures["resident"] = (after.rss - before.rss) / 1e6
    return figures


class RequestsMade(Exception):  # noqa: N818 - it is the end of the measurement, and no error
    """The first batch was asked for; the argument is how many samples."""


class FirstRequests(RequestedSamples):
    """A dataset that reads nothing."""

    def __getitems__(self, requests: Sequence[SampleRequest]) -> list[object]:  # type: ignore[override]
        """Stop here."""
        raise RequestsMade(len(requests))


def write_shards(folder: Path, images: int, per_shard: int) -> None:
    """A train split of invented samples, one to five boxes each, and an empty val split.

    One shard's records are drawn and the others repeat them under their own keys.
    """
    folder.mkdir(parents=True)
    rng = random.Random(0)
    bodies, boxes = [], []
    for _ in range(min(images, per_shard)):
        height, width = rng.choice(SIZES)
        rows = [_drawn(rng, height, width) for _ in range(rng.randint(1, 5))]
        body = {"width": width, "height": height, "boxes": rows, "difficult": [False] * len(rows)}
        bodies.append(json.dumps(body, separators=(",", ":"))[1:].encode())
        boxes.append(len(rows))
    shards = []
    for first in range(0, images, per_shard):
        count = min(per_shard, images - first)
        path = folder / f"train-{len(shards):06d}.tar"
        size = _write_shard(path, first, bodies[:count])
        shards.append(_record(path, count, sum(boxes[:count]), size))
    nothing = {name: 0 for name in VOC_CLASSES}
    splits = {
        name: SplitRecord(
            samples=sum(s.samples for s in of_split),
            objects=sum(s.objects for s in of_split),
            class_images=nothing,
            class_objects=nothing,
            shards=of_split,
        )
        for name, of_split in (("train", tuple(shards)), ("val", ()))
    }
    rule = SplitRule(kind="seeded", ratio=1.0, seed=0)
    manifest = Manifest(
        format_version=1,
        name="invented",
        classes=VOC_CLASSES,
        split_rule=rule,
        skip_difficult=False,
        splits=splits,
        left_out={},
        unknown_objects={},
        plan_sha256="0" * 64,
    )
    save_manifest(manifest, folder)


def _write_shard(path: Path, first: int, bodies: Sequence[bytes]) -> int:
    """Records from the key number `first` on; the size of the file, bytes."""
    entries, records, offset = [], [], 0
    for number, body in enumerate(bodies, first):
        key = f"{number:09d}"
        record = b'{"key":"%s",%s' % (key.encode(), body)
        # No image is ever read: any place will do for it.
        entries.append(IndexEntry(key, 0, 100_000, offset, len(record)))
        records.append(record)
        offset += len(record)
    path.write_bytes(b"".join(records))
    index_path(path).write_bytes(index_bytes(entries))
    return offset


def _record(path: Path, samples: int, objects: int, size: int) -> ShardRecord:
    # No local reader looks at the hash.
    digest = hashlib.sha256(path.name.encode()).hexdigest()
    return ShardRecord(name=path.name, samples=samples, objects=objects, bytes=size, sha256=digest)


def _drawn(rng: random.Random, height: int, width: int) -> list[int]:
    x, y = rng.randint(1, width // 2), rng.randint(1, height // 2)
    w, h = rng.randint(8, width - x), rng.randint(8, height - y)
    return [rng.randrange(len(VOC_CLASSES)), x, y, w, h]


if __name__ == "__main__":
    main()
