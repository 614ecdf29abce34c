import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional

from vocdist.data.geometry import (
    Padding,
    centre_square,
    crop_resize,
    distinct_sizes,
    fitted_size,
    pad_to,
    padded_size,
    random_region,
)

SIDE = st.integers(1, 600)


@given(SIDE, SIDE, st.integers(0, 2**32))
def test_random_regions_lie_inside(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top, left, h, w = random_region(height, width, (0.1, 1.0), (3 / 4, 4 / 3), rng)
    assert h >= 1 and w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w


def test_random_regions_are_distributed_as_torchvisions() -> None:
    rng, draws = np.random.default_rng(0), 4000
    scale, ratio = (0.3, 1.0), (3 / 4, 4 / 3)
    ours = np.array([random_region(300, 400, scale, ratio, rng) for _ in range(draws)])
    image = torch.zeros(3, 300, 400)
    torch.manual_seed(0)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio))
            for _ in range(draws)
        ]
    )
    # Standard errors of these means are below 1.5 pixels.
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=6)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=6)


def test_an_image_too_long_for_the_ratio_gives_its_centre() -> None:
    region = random_region(10, 600, (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0))
    assert region == (0, 293, 10, 13)


def test_one_scaling_agrees_with_the_notebooks_resize_and_centre_crop() -> None:
    rng = np.random.default_rng(0)
    # Smooth pixels: two resamplings of noise differ from one of it, those of a photograph hardly.
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    photo = coarse.resize((500, 375), Image.Resampling.BICUBIC)
    theirs = transforms.Compose([transforms.Resize(220), transforms.CenterCrop(192)])(photo)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    ours = crop_resize(pixels, centre_square(375, 500, 192 / 220), (192, 192))
    difference = np.abs(np.array(theirs, dtype=int) - ours.permute(1, 2, 0).numpy().astype(int))
    assert difference.mean() < 1.0


@pytest.mark.parametrize("size", [(192, 192), (40, 310)])
def test_pixels_that_come_as_nhwc_are_scaled_as_torchvision_does_and_stay_so(
    size: tuple[int, int],
) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).permute(2, 0, 1)
    ours = crop_resize(pixels, (10, 20, 250, 330), size)
    theirs = functional.resize(pixels[:, 10:260, 20:350].contiguous(), list(size), antialias=True)
    assert torch.equal(ours, theirs)
    # So no copy is made of the input's channels, nor when the result is put into a batch.
    assert ours.permute(1, 2, 0).is_contiguous()


def test_a_region_of_the_right_size_is_not_resampled() -> None:
    image = torch.randint(0, 255, (3, 20, 30), dtype=torch.uint8)
    assert torch.equal(crop_resize(image, (2, 3, 8, 9), (8, 9)), image[:, 2:10, 3:12])


@pytest.mark.parametrize(
    ("stored", "scaled"),
    [
        ((375, 500), (800, 1067)),
        ((500, 375), (1067, 800)),
        ((100, 1000), (133, 1333)),
        ((1, 4000), (1, 1333)),
    ],
)
def test_fitted_size_by_hand(stored: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert fitted_size(*stored, 800, 1333) == scaled


def test_padded_size_and_padding() -> None:
    assert padded_size(np.array([[10, 33], [20, 5]]), 32) == (32, 64)
    assert padded_size(np.array([[10, 33]]), 1) == (10, 33)
    image = torch.full((3, 4, 5), 7, dtype=torch.uint8)
    padded = pad_to(image, (6, 8))
    assert padded.shape == (3, 6, 8)
    assert torch.equal(padded[:, :4, :5], image)
    assert int(padded.sum()) == 7 * 3 * 4 * 5


@pytest.mark.parametrize(
    ("stored", "snapped"),
    [
        ((375, 500), (384, 512)),
        ((333, 500), (384, 576)),
        ((500, 375), (512, 384)),
        ((9, 9), (384,) * 2),
    ],
)
def test_snapped_sides_are_the_nearest_multiples(
    stored: tuple[int, int], snapped: tuple[int, int]
) -> None:
    assert fitted_size(*stored, 384, 640, 64) == snapped


def test_a_side_never_snaps_to_nothing() -> None:
    assert fitted_size(10, 1000, 384, 640, 64) == (64, 640)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((375, 500), (384, 512)),
        ((333, 500), (384, 512)),  # 3:2, stretched by an eighth
        ((500, 375), (512, 384)),
        ((400, 400), (384, 512)),  # as near to both: the first
        ((100, 1000), (384, 512)),
        ((1000, 10), (512, 384)),
    ],
)
def test_images_take_the_nearest_of_a_few_shapes(
    stored: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert fitted_size(*stored, 384, 640, 64, (4 / 3, 3 / 4)) == shape


def test_few_shapes_hold_the_bound_of_the_long_side_and_group_batches_by_shape() -> None:
    padding = Padding(384, 640, 64, snap=True, aspects=(2.5, 1.0, 0.5))
    stored = np.array([[100, 300], [300, 290], [90, 100], [500, 200], [375, 500]])
    sizes = padding.sizes(stored)
    assert sizes.tolist() == [[256, 640], [384, 384], [384, 384], [640, 320], [384, 384]]
    assert len(set(padding.groups(sizes).tolist())) == 3
    assert padding.padded(sizes[1:3]) == (384, 384)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30))
def test_distinct_sizes_are_numpys_distinct_rows(rows: list[tuple[int, int]]) -> None:
    sizes = np.array(rows, dtype=np.int64).reshape(-1, 2)
    distinct, which = distinct_sizes(sizes)
    expected, inverse = np.unique(sizes, axis=0, return_inverse=True)
    assert distinct.tolist() == expected.tolist()
    assert which.tolist() == inverse.reshape(-1).tolist()
