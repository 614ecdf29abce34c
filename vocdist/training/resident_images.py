"""Deciding whether a training's images stay on its device, and bringing them there."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil
import torch
from accelerate import Accelerator
from torch import distributed
from tqdm import tqdm

from vocdist.config import TaskConfig
from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.resident import (
    ImageStore,
    Room,
    WholeImages,
    missing_room,
    stored_shape,
)
from vocdist.data.workers import LoaderProcesses, loader_errors, usable_cores
from vocdist.distributed.processes import gather_lists, local_ranks, raise_together
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader

# Images that a loader process decodes, and that go to the device, at once: few, since two such
# chunks of each process wait in shared memory, and a container may have 64 MB of that.
CHUNK = 4


def resident_images(
    config: TaskConfig, readers: Sequence[ShardReader], accelerator: Accelerator
) -> list[ImageStore] | None:
    """The images of all splits on this rank's device, or None: they are loaded (a collective).

    Raises:
        UserError: `data.resident=device` and they do not fit.
        SharedError: An image cannot be decoded, or the machine lacks what decoding takes.
    """
    data, device = config.data, accelerator.device
    if data.resident == "none" or (data.resident == "auto" and device.type != "cuda"):
        return None
    shapes = [stored_shape(reader, data.short_side) for reader in readers]
    needed = sum(count * height * 3 * width for count, height, _, width in shapes)
    reason = missing_room(needed, Room(device.type, free_bytes(device) // sharers(device)))
    stores: list[ImageStore] = []
    if not reason:
        try:
            stores = [ImageStore(shape, device) for shape in shapes]
        except RuntimeError as error:  # another program was quicker
            reason = f"there is no room for them ({str(error).splitlines()[0]})"
    # All ranks or none: their steps are the same ones.
    reasons = [other for other in gather_lists(accelerator, [reason]) if other]
    if reasons:
        if data.resident == "device":
            raise UserError(f"data.resident=device, but {reasons[0]}, or set data.resident=auto")
        accelerator.print(f"data.resident: images are loaded, {reasons[0]}")
        return None
    with tqdm(
        desc=f"decoding images onto {device.type}",
        total=sum(len(reader) for reader in readers),
        leave=False,
        disable=not (accelerator.is_main_process and sys.stderr.isatty()),
    ) as bar:
        for reader, store in zip(readers, stores, strict=True):
            for done in _fill(store, WholeImages(reader, data.short_side), config, accelerator):
                bar.update(done)
    return stores


def sharers(device: torch.device) -> int:
    """Processes of this run that share a device's memory, each of which holds all images."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return -(-local_ranks() // max(1, devices))


def free_bytes(device: torch.device) -> int:
    """Bytes that nobody uses on a device: the GPU's, or those of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _fill(
    store: ImageStore, images: WholeImages, config: TaskConfig, accelerator: Accelerator
) -> Iterator[int]:
    """Decode a split, each rank its share of the chunks, and give every rank all of it.

    Yields how many images have come.

    Raises:
        SharedError: A rank could not decode its share.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    starts = range(0, len(images), CHUNK)
    own = [
        [SampleRequest(index, 0) for index in range(start, min(start + CHUNK, len(images)))]
        for start in starts[rank::world]
    ]
    cores = max(1, usable_cores() // local_ranks())
    # A core that decodes in a process of its own, unless it is the only one.
    workers = min(cores, len(own)) if cores > 1 and config.data.num_workers else 0
    failures: list[str] = []
    with ExitStack() as stack:
        decoded: Iterator[Batch] = iter(())
        # What fails on one rank is kept until all have had every chunk: they wait for its part.
        with _noting(failures):
            pinned = accelerator.device.type == "cuda"
            processes = LoaderProcesses([images], workers=workers, pin_memory=pinned)
            stack.callback(processes.close)
            decoded = iter(processes.batches(images, own))
        for number, start in enumerate(starts):
            space = store.pixels[start : start + CHUNK]
            if number % world == rank and not failures:
                with _noting(failures):
                    space.copy_(next(decoded).inputs[0], non_blocking=True)
            if world > 1:
                distributed.broadcast(space, src=number % world)
            yield len(space)
    raise_together(accelerator, failures[0] if failures else "")


@contextmanager
def _noting(failures: list[str]) -> Iterator[None]:
    """Add what the user can mend, and what the machine lacks, to `failures`, and go on."""
    try:
        with loader_errors():
            yield
    except (UserError, RuntimeError, OSError) as error:
        failures.append(str(error) or type(error).__name__)
