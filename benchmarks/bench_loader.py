"""Images per second of loading for training: random crop, one antialiased resize, flip, batches.

  python benchmarks/bench_loader.py VOC_ROOT SHARDS

One core each, in this process, one thread, by the CPU time it took, which other work on the machine
changes least; then `--workers` loader processes, by the clock. Rounds take turns and the best one
counts. All but the notebook's end in uint8 batches, as ours does; its floats are what
its training takes.

  bare decode         simplejpeg over the same bytes in memory, nothing else: the measure
  notebook            Pillow, Resize, RandomResizedCrop, flip, ToTensor, Normalize
  WebDataset          stock wds.WebDataset over the same shards, the same decoder as ours, v2 crop
  torchvision v2      map-style over loose files: decode_image, v2.RandomResizedCrop, v2 flip
  ours                vocdist's loader over the shards
  ours, cached        the same, second epoch with data.decoded_cache
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torchvision.transforms as T
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from vocdist.config import ClassifierConfig
from vocdist.config.file import load_config
from vocdist.data.workers import usable_cores
from vocdist.shards.reader import ShardReader
from vocdist.training.loaders import build_loader, build_reader

BATCH = 32


def main() -> None:
    """Measure every contender, in turns, on one core and with workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--size", type=int, default=192, help="side of the batches, pixels")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {usable_cores()} cores, torch {torch.__version__}, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}; ", end="")
    print(f"{args.images} images -> {args.size} px, best of {args.rounds}")
    for workers in (0, args.workers):
        compare(args, workers)


def compare(args: argparse.Namespace, workers: int) -> None:
    """Print images per second, and the ratios to bare decoding and to the notebook's."""
    reader = ShardReader(args.shards, "train", args.images)
    images = len(reader)
    keys = [annotations.key for annotations in reader.annotations]
    files = [args.root / "JPEGImages" / f"{key}.jpg" for key in keys]
    contenders: dict[str, Callable[[], float]] = {
        "notebook": lambda: rate(batches(PillowFiles(files, args.size), workers), images, workers),
        "WebDataset": lambda: rate(webdataset(args, images, workers), images, workers),
        "torchvision v2": lambda: rate(
            batches(TensorFiles(files, args.size), workers), images, workers
        ),
        "ours": lambda: ours(args, images, workers, cached=False),
        "ours, cached": lambda: ours(args, images, workers, cached=True),
    }
    if not workers:
        jpegs = [reader.read(i).jpeg for i in range(images)]
        bare = {"bare decode": lambda: rate(map(simplejpeg.decode_jpeg, jpegs), images, workers)}
        contenders = bare | contenders
    best: dict[str, float] = {}
    for _ in range(args.rounds):
        for name, measure in contenders.items():
            best[name] = max(best.get(name, 0.0), measure())
    print(f"\n{f'{workers} workers' if workers else 'one core':16}{'images/s':>10}", end="")
    print(f"{'of bare decode':>16}{'of the notebook':>17}")
    for name, value in best.items():
        of_bare = " " * 16 if workers else f"{value / best['bare decode']:16.2f}"
        print(f"{name:16}{value:10.0f}{of_bare}{value / best['notebook']:17.2f}")


def rate(items: Iterable[object], images: int, workers: int) -> float:
    """Images per second of going through all items once."""
    clock = time.perf_counter if workers else time.process_time
    started = clock()
    for _ in items:
        pass
    return images / (clock() - started)


def batches(dataset: Dataset[Tensor], workers: int) -> DataLoader[Tensor]:
    """Shuffled batches by torch's own loader."""
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)


class PillowFiles(Dataset[Tensor]):
    """The notebook's Dataset and transform."""

    def __init__(self, files: list[Path], size: int) -> None:
        """Keep the paths."""
        self.files = files
        self.view = T.Compose(
            [
                T.Resize(int(size * 1.15)),
                T.RandomResizedCrop(size, scale=(0.7, 1.0)),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """Float pixels (3, size, size)."""
        image: Tensor = self.view(Image.open(self.files[index]).convert("RGB"))
        return image


def crop_and_flip(size: int) -> v2.Compose:
    """Torchvision's own, on uint8 tensors."""
    crop = v2.RandomResizedCrop(size, scale=(0.7, 1.0), antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


class TensorFiles(Dataset[Tensor]):
    """torchvision v2 over loose files."""

    def __init__(self, files: list[Path], size: int) -> None:
        """Keep the paths."""
        self.files = files
        self.view = crop_and_flip(size)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        """uint8 pixels (3, size, size)."""
        image: Tensor = self.view(decode_image(str(self.files[index]), ImageReadMode.RGB))
        return image


def webdataset(args: argparse.Namespace, images: int, workers: int) -> Iterable[object]:
    """Stock WebDataset with our decoder and torchvision's crop, until `images` have come."""
    view = crop_and_flip(args.size)

    def pixels(sample: dict[str, bytes]) -> Tensor:
        decoded = simplejpeg.decode_jpeg(sample["jpg"])
        cut: Tensor = view(torch.from_numpy(np.ascontiguousarray(decoded)).permute(2, 0, 1))
        return cut

    shards = sorted(str(path) for path in args.shards.glob("train-*.tar"))
    split = wds.split_by_worker if workers else wds.single_node_only
    dataset = wds.WebDataset(shards, shardshuffle=False, workersplitter=split, empty_check=False)
    stream = dataset.shuffle(200).map(pixels)
    loader = DataLoader(stream, batch_size=BATCH, num_workers=workers)
    seen = 0
    for batch in loader:
        yield batch
        seen += len(batch)
        if seen >= images:
            return


def ours(args: argparse.Namespace, images: int, workers: int, *, cached: bool) -> float:
    """Our loader over the shards; with a cache, its second epoch."""
    overrides = [
        f"data.shards={args.shards}",
        f"data.limit_train={images}",
        f"data.num_workers={workers}",
        f"data.decoded_cache={'8GB' if cached else 'null'}",
        f"input.size={args.size}",
        "input.crop_scale=[0.7,1.0]",
        f"train.global_batch={BATCH}",
    ]
    if cached:
        overrides.append("data.short_side=320")
    config = load_config(ClassifierConfig, None, overrides)
    reader = build_reader(config, "train")
    loader = build_loader(config, reader, training=True, keep_decoded=True)
    if cached:
        rate(loader.training(epoch=0), images, workers)
    return rate(loader.training(epoch=1), images, workers)


if __name__ == "__main__":
    main()
