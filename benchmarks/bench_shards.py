"""Images per second of packing a VOC data set, against what one would use otherwise.

  python benchmarks/bench_shards.py /path/to/VOC_ROOT --images 2000 20000

The source is copied to as many images as asked for, under new names, into a temporary folder. Each
contender runs in a process of its own, from start to end, imports and XML parsing included:

  tar              tar cf over the same files, the floor: it parses, checks and hashes nothing
  tar, synced      the same, and the file is on the disk when it ends, as ours is
  ShardWriter      webdataset's own writer in a plain loop, as its documentation has it
  datasets         Hugging Face datasets, from a generator to a folder on disk (if installed)
  decoding, N      N processes that read and decode every image, as the conversion checks it
  decoding RGB, N  the same to all pixels, as a loader decodes
  ours, N          every image decoded, every file hashed, read back and synced, index and manifest
  no decode, N     the same with decode_images=false: images are looked at, not decoded
  script, N        scripts/make_shards.py: ours, the table and the pictures

The files are read from memory ("warm") or, with --cold, from the disk. Seconds are best where the
machine is quiet; CPU seconds, of a contender and its workers, say more where it is shared.
"""

import argparse
import importlib.util
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__)


def main() -> None:
    """Measure every contender, in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?", default=os.environ.get("VOCDIST_SAMPLE"))
    parser.add_argument("--images", type=int, nargs="+", default=[2000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 2])
    parser.add_argument("--only", nargs="+", help="contenders whose names begin with one of these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where to work; the default is TMPDIR")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        in_python(arguments.workers)[arguments.contender](arguments.source, arguments.scratch)
        return
    if arguments.source is None:
        parser.error("pass a VOC root, or set VOCDIST_SAMPLE")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}")
    for images in arguments.images:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            root = copy_source(Path(arguments.source), Path(folder) / "voc", images)
            chosen = {
                name: command
                for name, command in commands(root, Path(folder) / "out", arguments.workers).items()
                if not arguments.only or name.startswith(tuple(arguments.only))
            }
            compare(chosen, root, images, arguments.rounds, arguments.cold)


def compare(
    contenders: dict[str, list[str]], root: Path, images: int, rounds: int, cold: bool
) -> None:
    """The best of some rounds for each contender; in turns, so that a busy spell hits all."""
    files = [path for name in ("JPEGImages", "Annotations") for path in (root / name).iterdir()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"\n{images:,} images, {size:,.0f} MB, {'cold' if cold else 'warm'}, best of {rounds}")
    out = root.parent / "out"
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, command in contenders.items():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            os.sync()
            set_cache(files, cold)
            began = time.perf_counter()
            cpu, memory = run(command)
            measured[name].append((time.perf_counter() - began, cpu, memory))
    heads = f"{'img/s':>9}{'MB/s':>8}{'seconds':>9}{'CPU s':>8}"
    print(f"{'':18}{heads}{'peak RSS of a process':>24}")
    for name, runs in measured.items():
        seconds, cpu, memory = (min(column) for column in zip(*runs, strict=True))
        rate = f"{images / seconds:9,.0f}{size / seconds:8,.0f}{seconds:9.2f}{cpu:8.2f}"
        print(f"{name:18}{rate}{memory:20,.0f} MB")
    print(f"load {os.getloadavg()[0]:.1f}")


def commands(root: Path, out: Path, workers: list[int]) -> dict[str, list[str]]:
    """Name and command line of each contender."""
    tar = f"tar cf '{out}/a.tar' -C '{root}' JPEGImages Annotations"
    found = {
        "tar": ["sh", "-c", tar],
        "tar, synced": ["sh", "-c", f"{tar} && sync '{out}/a.tar'"],
    }
    for name in in_python(workers):
        if name == "datasets" and importlib.util.find_spec("datasets") is None:
            print("datasets is not installed: left out")
            continue
        own = [sys.executable, str(HERE), str(root), "--scratch", str(out), "--contender", name]
        found[name] = [*own, "--workers", *map(str, workers)]
    script = [sys.executable, str(HERE.parents[1] / "scripts/make_shards.py"), f"source={root}"]
    for n in workers:
        found[f"script, {n}"] = [*script, f"output={out}/shards", "split=seeded", f"workers={n}"]
    return found


def run(command: list[str]) -> tuple[float, float]:
    """Run to the end: CPU seconds, and the peak resident memory of its largest process in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # Of the process and of all that it has waited for.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3


def set_cache(files: list[Path], cold: bool) -> None:
    """Bring the source into the page cache, or drop it from there."""
    for path in files:
        with path.open("rb") as stream:
            if cold:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                stream.read()


def copy_source(source: Path, root: Path, images: int) -> Path:
    """A VOC root of so many images, by copying the source's as often as it takes."""
    from vocdist.voc.source import find_voc_root

    source = find_voc_root(source)
    stems = sorted(path.stem for path in (source / "Annotations").glob("*.xml"))
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for number in range(images):
        stem = stems[number % len(stems)]
        for name, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            shutil.copy(source / name / f"{stem}.{suffix}", root / name / f"{number:07d}.{suffix}")
    return root


def samples(root: Path) -> Iterator[dict[str, object]]:
    """What the plain loops write: JPEG bytes and the boxes of the XML."""
    import xml.etree.ElementTree as ET

    sides = ("xmin", "ymin", "xmax", "ymax")
    for path in sorted((root / "Annotations").iterdir()):
        objects = [
            [item.findtext("name"), *(float(item.findtext(f"bndbox/{s}") or 0) for s in sides)]
            for item in ET.parse(path).getroot().iter("object")
        ]
        image = (root / "JPEGImages" / f"{path.stem}.jpg").read_bytes()
        yield {"__key__": path.stem, "jpg": image, "json": {"objects": objects}}


def with_shard_writer(root: Path, out: Path) -> None:
    """The loop of webdataset's documentation."""
    import webdataset as wds

    with wds.ShardWriter(f"{out}/train-%06d.tar", maxcount=500, verbose=0) as sink:
        for sample in samples(root):
            sink.write(sample)


def with_datasets(root: Path, out: Path) -> None:
    """Hugging Face datasets: a generator, written as Arrow files."""
    import datasets

    def rows() -> Iterator[dict[str, object]]:
        for sample in samples(root):
            boxes = [{"name": o[0], "box": o[1:]} for o in sample["json"]["objects"]]  # type: ignore[index]
            yield {"key": sample["__key__"], "image": {"bytes": sample["jpg"]}, "objects": boxes}

    datasets.disable_progress_bars()
    written = datasets.Dataset.from_generator(rows, cache_dir=str(out / "cache"))
    written.save_to_disk(str(out / "saved"))


def with_ours(root: Path, out: Path, workers: int, decode: bool = True) -> None:
    """The conversion, without the closing table."""
    from vocdist.shards.convert import convert
    from vocdist.shards.format import SplitRule
    from vocdist.shards.samples import samples_of
    from vocdist.voc.classes import VOC_CLASSES

    found = samples_of(
        root,
        VOC_CLASSES,
        split_lists=False,
        split_ratio=0.8,
        split_seed=42,
        skip_difficult=False,
        decode=decode,
        workers=workers,
    )
    convert(
        found,
        out,
        name="bench",
        classes=VOC_CLASSES,
        split_rule=SplitRule(kind="seeded", ratio=0.8, seed=42),
        skip_difficult=False,
        samples_per_shard=500,
        workers=workers,
    )


def with_decoding(root: Path, workers: int, pixels: bool) -> None:
    """Nothing but reading and decoding every image."""
    images = sorted((root / "JPEGImages").iterdir())
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for _ in pool.imap(decode_pixels if pixels else decode_to_check, images, chunksize=64):
            pass


def decode_pixels(image: Path) -> None:
    """To RGB."""
    import simplejpeg

    simplejpeg.decode_jpeg(image.read_bytes())


def decode_to_check(image: Path) -> None:
    """Likewise all the coded data, but to an eighth of the resolution."""
    from vocdist.shards.images import checked_size

    checked_size(image.read_bytes())


def in_python(workers: list[int]) -> dict[str, Callable[[Path, Path], None]]:
    """What runs in this file, in a process of its own: name -> function of source and output."""
    found = {"ShardWriter": with_shard_writer, "datasets": with_datasets}
    for n in workers:
        found[f"decoding, {n}"] = lambda root, _, n=n: with_decoding(root, n, pixels=False)
        found[f"decoding RGB, {n}"] = lambda root, _, n=n: with_decoding(root, n, pixels=True)
        found[f"ours, {n}"] = lambda root, out, n=n: with_ours(root, out, n)
        found[f"no decode, {n}"] = lambda root, out, n=n: with_ours(root, out, n, decode=False)
    return found


if __name__ == "__main__":
    main()
