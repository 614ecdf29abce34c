import numpy as np
import pytest
import torch

from vocdist.data.geometry import fit_short_side, shrink, visible_shares
from vocdist.data.transforms import (
    ClassifierEvalTransform,
    ClassifierTrainTransform,
    Example,
    Transform,
)
from vocdist.shards.format import Annotations

# In VOC's frame: class 3 fills the left half of a 100 x 60 image, class 7 a corner at the right.
BOXES = np.array([[3, 1, 1, 49, 59], [7, 81, 41, 19, 19]], dtype=np.int32)
STORED = Annotations("a", 100, 60, BOXES, np.array([False, False]))


def half_green(height: int = 60, width: int = 100) -> torch.Tensor:
    """An image whose left half is green, so that a crop shows where it was cut."""
    image = torch.zeros((height, width, 3), dtype=torch.uint8)
    image[:, : width // 2, 1] = 255
    return image.permute(2, 0, 1)


def example_of(
    transform: Transform, image: torch.Tensor, seed: int = 0, padded: tuple[int, int] | None = None
) -> Example:
    height, width = image.shape[1:]
    rng = np.random.default_rng(seed)
    return transform.plan(STORED, (height, width), rng, padded).example(image)


def test_the_share_of_a_box_that_a_region_shows() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 25], [40, 0, 50, 10]], dtype=np.float32)
    # Region: top 5, left 0, height 15, width 10.
    np.testing.assert_allclose(visible_shares(boxes, (5, 0, 15, 10)), [0.5, 0.5, 0.0])
    # A crop inside a box shows that object alone, however little of it.
    np.testing.assert_allclose(visible_shares(boxes * 10, (10, 10, 20, 30)), [1.0, 0.0, 0.0])
    assert visible_shares(np.zeros((0, 4)), (0, 0, 5, 5)).shape == (0,)


@pytest.mark.parametrize("size", [(60, 100), (30, 50)])
@pytest.mark.parametrize("min_visible", [0.0, 0.3, 1.0])
def test_a_crop_has_the_classes_it_shows(size: tuple[int, int], min_visible: float) -> None:
    crops = ClassifierTrainTransform(20, 32, (0.05, 0.4), (0.5, 2.0), True, min_visible)
    seen = set()
    for seed in range(60):
        example = example_of(crops, half_green(*size), seed)
        labels = example.targets["labels"]
        green = float((example.image[1] > 127).float().mean())
        seen.add(bool(labels[3]))
        assert set(labels.nonzero()[:, 0].tolist()) <= {3, 7}
        if labels[3]:
            assert green > 0
        elif min_visible == 0.0:
            assert green < 0.05
    assert seen == {True, False} or min_visible == 1.0


def test_without_it_a_crop_has_the_classes_of_the_image() -> None:
    crops = ClassifierTrainTransform(20, 32, (0.05, 0.2), (0.5, 2.0), True)
    for seed in range(5):
        labels = example_of(crops, half_green(), seed).targets["labels"]
        assert labels.nonzero()[:, 0].tolist() == [3, 7]


def test_colors_are_drawn_last_so_that_crops_do_not_depend_on_them() -> None:
    plain = ClassifierTrainTransform(20, 32, (0.1, 0.9), (0.5, 2.0), True)
    colored = ClassifierTrainTransform(
        20, 32, (0.1, 0.9), (0.5, 2.0), True, None, color_jitter=(0.5, 0.0, 0.1)
    )
    drawn = []
    for seed in range(40):
        ours = example_of(colored, half_green(), seed)
        theirs = example_of(plain, half_green(), seed)
        assert torch.equal(ours.image, theirs.image)
        drawn.append(ours.targets["color"])
    factors = torch.stack(drawn)
    assert (factors[:, 1] == 1).all()
    assert 0.5 <= factors[:, 0].min() < 0.6 and 1.4 < factors[:, 0].max() <= 1.5
    assert factors[:, 2].min() >= 0.9 and factors[:, 2].max() <= 1.1


def test_an_evaluation_sees_the_square_the_squeezed_image_or_the_frame() -> None:
    squeezing = ClassifierEvalTransform(20, 30, None)
    centred = example_of(ClassifierEvalTransform(20, 30, 1.0), half_green())
    squeezed = example_of(squeezing, half_green())
    frame = example_of(squeezing, half_green(), padded=(32, 64))
    assert centred.image.shape == squeezed.image.shape == (3, 30, 30)
    assert frame.image.shape == (3, 32, 64)
    for example in (centred, squeezed, frame):
        # All are cut evenly about the middle, where green ends.
        assert float((example.image[1] > 127).float().mean()) == pytest.approx(0.5, abs=0.04)
        assert example.targets["labels"].nonzero()[:, 0].tolist() == [3, 7]


def test_shrinking_goes_down_only() -> None:
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    assert shrink(image, 20).shape == (3, *fit_short_side(40, 60, 20)) == (3, 20, 30)
    assert torch.equal(shrink(image, 40), image)
    assert torch.equal(shrink(image, 90), image)
    assert torch.equal(shrink(image, None), image)
