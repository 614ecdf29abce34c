import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from vocdist.models.rpn.anchors import cell_anchors, centres_inside, clip_to_images, grid_anchors

CPU = torch.device("cpu")


def test_cell_anchors_by_hand():
    # Ratio is height / width; scale slowest. Areas are 32^2 and 64^2.
    expected = [
        [-32, -8, 32, 8],
        [-16, -16, 16, 16],
        [-8, -32, 8, 32],
        [-64, -16, 64, 16],
        [-32, -32, 32, 32],
        [-16, -64, 16, 64],
    ]
    assert_close(cell_anchors((32, 64), (0.25, 1.0, 4.0)), torch.tensor(expected).float())


def test_grid_by_hand_level_then_row_then_column_then_cell():
    anchors = grid_anchors([(2, 3), (1, 2)], (32, 48), ((16,), (32,)), (1.0,), CPU)
    expected = [
        [0, 0, 16, 16],
        [16, 0, 32, 16],
        [32, 0, 48, 16],
        [0, 16, 16, 32],
        [16, 16, 32, 32],
        [32, 16, 48, 32],
        [-4, 0, 28, 32],
        [20, 0, 52, 32],
    ]
    assert_close(anchors, torch.tensor(expected).float())


def test_unpadded_input_has_fractional_stride():
    anchors = grid_anchors([(3, 4)], (80, 107), ((2,),), (1.0,), CPU)
    assert_close(anchors[0], torch.tensor([107 / 8 - 1, 80 / 6 - 1, 107 / 8 + 1, 80 / 6 + 1]))
    assert_close(anchors[-1, 2:], torch.tensor([107 * 7 / 8 + 1, 80 * 5 / 6 + 1]))


def test_agrees_with_torchvision_up_to_its_half_cell_and_its_order():
    # torchvision puts anchors on the cells' top left corners, ratios slowest; these sides are even,
    # so that its rounding does nothing.
    scales, ratios = ((32, 64), (128, 256)), (0.25, 1.0, 4.0)
    shapes, strides = [(6, 8), (3, 4)], (16, 32)
    generator = AnchorGenerator(scales, (ratios,) * 2)
    image = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    theirs = generator(image, [torch.zeros(1, 1, *shape) for shape in shapes])[0]
    ours = grid_anchors(shapes, (96, 128), scales, ratios, CPU)
    start = 0
    for (height, width), stride in zip(shapes, strides, strict=True):
        size = height * width * 6
        level = theirs[start : start + size].reshape(-1, 3, 2, 4).transpose(1, 2).reshape(-1, 4)
        assert_close(ours[start : start + size], level + stride / 2)
        start += size
    assert start == len(ours)


def test_torchvision_rounding_is_half_a_pixel_at_most():
    theirs = AnchorGenerator(((32, 64, 128),), ((0.5, 1.0, 2.0),)).cell_anchors[0]
    ours = cell_anchors((32, 64, 128), (0.5, 1.0, 2.0)).reshape(3, 3, 4).transpose(0, 1)
    assert (ours.reshape(-1, 4) - theirs).abs().max() <= 0.5


def test_order_matches_a_head_map():
    height, width, cell = 3, 4, 2
    anchors = grid_anchors([(height, width)], (96, 128), ((16, 32),), (1.0,), CPU)
    # A map that says of each anchor where its cell is and how large it is.
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    maps = torch.stack([(y * 32 + 16) * 1000 + x * 32 + 16 + side for side in (0.0, 0.5)])
    rows = maps[None].permute(0, 2, 3, 1).reshape(-1)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    is_large = (anchors[:, 2] - anchors[:, 0] == 32).float()
    assert len(anchors) == height * width * cell
    assert_close(rows, centre[:, 1] * 1000 + centre[:, 0] + is_large / 2)


def test_same_geometry_is_made_once_also_under_inference_mode():
    with torch.inference_mode():
        first = grid_anchors([(5, 7)], (160, 224), ((32.0,),), (1.0,), CPU)
    assert grid_anchors([(5, 7)], (160, 224), ((32.0,),), (1.0,), CPU) is first
    assert not first.is_inference()


def test_levels_must_fit_scales():
    with pytest.raises(ValueError, match="one group of scales per level"):
        grid_anchors([(2, 2)], (64, 64), ((32,), (64,)), (1.0,), CPU)


def test_clip_and_centres_per_image():
    anchors = torch.tensor([[-10.0, -10, 30, 30], [40, 40, 80, 80], [90, 0, 110, 20]])
    sizes = torch.tensor([[100, 100], [50, 60]])
    clipped = clip_to_images(anchors, sizes)
    assert_close(
        clipped,
        torch.tensor(
            [
                [[0.0, 0, 30, 30], [40, 40, 80, 80], [90, 0, 100, 20]],
                [[0.0, 0, 30, 30], [40, 40, 60, 50], [60, 0, 60, 20]],
            ]
        ),
    )
    # The third is centred on x = 100: one past the last pixel.
    assert centres_inside(anchors, sizes).tolist() == [[True, True, False], [True, False, False]]
    assert_close(clip_to_images(clipped, sizes), clipped)
