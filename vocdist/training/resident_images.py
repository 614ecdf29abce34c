"""Deciding whether a training's images stay on its device, and bringing them there."""

import sys
from collections.abc import Iterator, Sequence

import psutil
import torch
from accelerate import Accelerator
from torch import distributed
from tqdm import tqdm

from vocdist.config.training import DataConfig
from vocdist.data.batch import SampleRequest
from vocdist.data.resident import (
    ImageStore,
    Room,
    WholeImages,
    resident_place,
    stored_shape,
)
from vocdist.data.workers import LoaderProcesses, usable_cores
from vocdist.distributed.processes import gather_lists, local_ranks, raise_together
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader

# Images that a loader process decodes, and that go to the device, at once.
CHUNK = 16


def resident_images(
    data: DataConfig, readers: Sequence[ShardReader], accelerator: Accelerator
) -> list[ImageStore] | None:
    """The images of all splits on this rank's device, or None: they are loaded (a collective).

    Raises:
        UserError: `data.resident=device` and they do not fit.
        SharedError: An image cannot be decoded.
    """
    if data.resident == "none" or (data.resident == "auto" and accelerator.device.type != "cuda"):
        return None
    shapes = [stored_shape(reader, data.short_side) for reader in readers]
    needed = sum(count * height * 3 * width for count, height, _, width in shapes)
    room = Room(accelerator.device.type, free_bytes(accelerator.device) // sharers())
    place, reason = resident_place(data.resident, needed, room)
    # All ranks or none: their steps are the same ones.
    reasons = [other for other in gather_lists(accelerator, [reason]) if other]
    if place == "none" or reasons:
        if data.resident == "device":
            raise UserError(f"data.resident=device, but {reasons[0]}, or set data.resident=auto")
        if reasons:
            accelerator.print(f"data.resident: images are loaded, {reasons[0]}")
        return None
    stores = [ImageStore(shape, accelerator.device) for shape in shapes]
    with tqdm(
        desc=f"decoding images onto {accelerator.device.type}",
        total=sum(len(reader) for reader in readers),
        leave=False,
        disable=not (accelerator.is_main_process and sys.stderr.isatty()),
    ) as bar:
        for reader, store in zip(readers, stores, strict=True):
            for done in _fill(store, WholeImages(reader, data.short_side), accelerator):
                bar.update(done)
    return stores


def sharers() -> int:
    """Processes of this run that share a device's memory, each of which holds all images."""
    return -(-local_ranks() // max(1, torch.cuda.device_count()))


def free_bytes(device: torch.device) -> int:
    """Bytes that nobody uses on a device: the GPU's, or those of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _fill(store: ImageStore, images: WholeImages, accelerator: Accelerator) -> Iterator[int]:
    """Decode a split, each rank its share of the chunks, and give every rank all of it.

    Yields how many images have come.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    starts = range(0, len(images), CHUNK)
    own = [
        [SampleRequest(index, 0) for index in range(start, min(start + CHUNK, len(images)))]
        for start in starts[rank::world]
    ]
    cores = max(1, usable_cores() // local_ranks())
    processes = LoaderProcesses(
        [images],
        # A core that decodes in a process of its own, unless it is the only one.
        workers=min(cores, len(own)) if cores > 1 else 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    decoded, failure = iter(processes.batches(images, own)), ""
    try:
        for number, start in enumerate(starts):
            space = store.pixels[start : start + CHUNK]
            if number % world == rank and not failure:
                try:
                    space.copy_(next(decoded).inputs[0], non_blocking=True)
                except UserError as error:
                    # The others wait for this chunk; what is in it no longer matters.
                    failure = str(error)
            if world > 1:
                distributed.broadcast(space, src=number % world)
            yield len(space)
    finally:
        processes.close()
    raise_together(accelerator, failure)
