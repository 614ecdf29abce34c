"""Images on a device: the same crops and labels, pixels of the exact resize."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config
from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.geometry import View, random_region, show
from vocdist.data.resident import (
    ImageStore,
    PlannedSamples,
    Room,
    WholeImages,
    materialised,
    missing_room,
    stored_shape,
    view_row,
)
from vocdist.models.layers import ImageNetPixels
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import task_class

GB = 10**9


def exact(image: Tensor, view: View) -> Tensor:
    """What a view shows, in float64: (3, h, w)."""
    top, left, height, width = view.region
    cut = image[:, top : top + height, left : left + width].double()[None]
    scaled = F.interpolate(cut, view.size, mode="bilinear", antialias=True)[0]
    scaled = scaled.flip(2) if view.mirrored else scaled
    if view.padded is None:
        return scaled
    return F.pad(scaled, (0, view.padded[1] - view.size[1], 0, view.padded[0] - view.size[0]))


def photograph(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Noise with edges, which antialiasing has most to do with; (3, h, w) uint8."""
    noise = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    noise[:, : height // 2, : width // 3] = 255
    return noise


def filled(images: list[Tensor]) -> ImageStore:
    height, width = (max(image.shape[i] for image in images) for i in (1, 2))
    store = ImageStore((len(images), height, 3, width), torch.device("cpu"))
    for space, image in zip(store.pixels, images, strict=True):
        space[: image.shape[1], :, : image.shape[2]] = image.transpose(0, 1)
    return store


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 0.01), (torch.float16, 0.5)])
def test_two_products_are_the_exact_resize_of_crops(dtype: torch.dtype, error: float) -> None:
    rng = np.random.default_rng(3)
    sizes = [(375, 500), (500, 333), (120, 96), (224, 224), (500, 375), (60, 500)]
    images = [photograph(height, width, rng) for height, width in sizes]
    store = filled(images)
    store._dtype = dtype
    views = [
        (
            index,
            View(random_region(*sizes[index], (0.08, 1.0), (0.5, 2.0), rng), (96, 80), flip),
        )
        for index in list(range(len(images))) * 4
        for flip in (False, True)
    ]
    shown = store.shown(torch.tensor([view_row(*view) for view in views]), (96, 80))
    assert shown.shape == (len(views), 3, 96, 80) and shown.dtype == torch.float32
    worst = loaded_worst = 0.0
    for pixels, (index, view) in zip(shown, views, strict=True):
        wanted = exact(images[index], view)
        worst = max(worst, float((pixels - wanted).abs().max()))
        loaded_worst = max(loaded_worst, float((show(images[index], view) - wanted).abs().max()))
    assert worst < error
    # What is loaded is rounded to whole grey levels, once for each axis.
    assert worst < loaded_worst <= 1.1


def test_padding_is_zero_and_a_view_of_its_own_size_is_the_image() -> None:
    rng = np.random.default_rng(4)
    images = [photograph(48, 64, rng), photograph(64, 40, rng)]
    views = [
        View((0, 0, 48, 64), (48, 64), mirrored=True, padded=(64, 64)),
        View((0, 0, 64, 40), (33, 21), padded=(64, 64)),
    ]
    rows = torch.tensor([view_row(i, view) for i, view in enumerate(views)])
    shown = filled(images).shown(rows, (64, 64))
    torch.testing.assert_close(shown[0, :, :48], images[0].flip(2).float(), rtol=0, atol=1e-3)
    assert not shown[0, :, 48:].any()
    torch.testing.assert_close(shown[1].double(), exact(images[1], views[1]), rtol=0, atol=0.01)
    assert not shown[1, :, :, 21:].any()


CONFIGS = {
    "classifier": (ClassifierConfig, ["input.size=64", "input.min_visible=0.25"], True),
    "jittered": (ClassifierConfig, ["input.size=64", "input.color_jitter=[0.3,0.3,0.3]"], True),
    "measured": (ClassifierConfig, ["input.size=64", "input.eval_view=frame"], False),
    "rpn": (RpnConfig, ["input.short_side=64", "input.long_side=128", "input.flip=true"], True),
}


@pytest.mark.parametrize("short_side", [None, 90])
@pytest.mark.parametrize("name", CONFIGS)
def test_batches_are_those_that_are_loaded(
    name: str, short_side: int | None, demo_shards: Path
) -> None:
    kind, overrides, training = CONFIGS[name]
    config = load_config(kind, None, overrides)
    reader = ShardReader(demo_shards, "train")
    task = task_class(config.task)
    transform = task.transform(config, len(reader.manifest.classes), training=training)
    whole = WholeImages(reader, short_side)
    every = [SampleRequest(i, 0) for i in range(len(reader))]
    store = ImageStore(stored_shape(reader, short_side), torch.device("cpu"))
    store.pixels.copy_(whole.collate(whole.__getitems__(every)).inputs[0])
    padded = (192, 192) if name in ("rpn", "measured") else None
    requests = [SampleRequest(index, 3, padded=padded) for index in (5, 0, 17, 5, 30)]
    batches: list[Batch] = []
    for samples in (RequestedSamples, PlannedSamples):
        dataset = samples(reader, transform, 7, short_side)
        batches.append(dataset.collate(dataset.__getitems__(requests)))
    loaded, planned = batches
    resident = materialised(planned, store)
    assert resident.size == loaded.size
    assert resident.targets.keys() == loaded.targets.keys()
    for key, value in loaded.targets.items():
        assert torch.equal(resident.targets[key], value), key
    for one, other in zip(resident.tensors()[-3:], loaded.tensors()[-3:], strict=True):
        assert torch.equal(one, other)
    assert float((resident.images - loaded.images).abs().max()) <= 1.1
    assert float((resident.images - loaded.images).abs().mean()) < 0.35


def test_images_that_are_float_already_are_not_written_to() -> None:
    pixels, images = ImageNetPixels(), torch.rand(2, 3, 4, 4) * 255
    before = images.clone()
    normalised = pixels(images)
    assert torch.equal(images, before)
    torch.testing.assert_close(normalised, pixels(images.double()).float())
    whole = images.round()
    assert torch.equal(pixels(whole), pixels(whole.to(torch.uint8)))


@pytest.mark.parametrize(
    ("needed", "room", "words"),
    [
        (6 * GB, Room("cuda", 10 * GB), ""),
        (7 * GB, Room("cuda", 10 * GB), "7.0 GB and cuda has 10.0 GB free"),
        (7 * GB, Room("cuda", 10 * GB), "lower data.short_side"),
        (GB, Room("cpu", 100 * GB), ""),
    ],
)
def test_whether_images_fit(needed: int, room: Room, words: str) -> None:
    why = missing_room(needed, room)
    assert words in why and bool(why) is bool(words)


def test_the_space_of_a_split_is_that_of_its_largest_image_as_shrunk(demo_shards: Path) -> None:
    reader = ShardReader(demo_shards, "train")
    heights, widths = reader.image_sizes.T
    count, height, colours, width = stored_shape(reader, None)
    assert (count, height, colours) == (36, heights.max(), 3)
    # Rows of whole vectors.
    assert width % 16 == 0 and widths.max() <= width < widths.max() + 16
    count, height, _, width = stored_shape(reader, 50)
    assert count == 36 and min(height, width) >= 50 and height < heights.max()
