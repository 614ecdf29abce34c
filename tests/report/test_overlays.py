import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from vocdist.drawing import (
    GROUND_TRUTH_COLOR,
    PALETTE,
    class_colors,
    contact_sheet,
    draw_boxes,
    draw_proposals,
)

GRAY = (120, 120, 120)
GREEN = ImageColor.getrgb(GROUND_TRUTH_COLOR)


def gray(width: int = 200, height: int = 150) -> Image.Image:
    return Image.new("RGB", (width, height), GRAY)


def has_color(image: Image.Image, color: tuple[int, ...]) -> NDArray[np.bool_]:
    return (np.asarray(image) == color).all(axis=-1)


def frame(
    size_wh: tuple[int, int], box: tuple[int, int, int, int], width: int
) -> NDArray[np.bool_]:
    """The pixels of a half-open box's edge, `width` thick, inside the box."""
    x1, y1, x2, y2 = box
    mask = np.zeros((size_wh[1], size_wh[0]), dtype=bool)
    mask[y1:y2, x1:x2] = True
    mask[y1 + width : y2 - width, x1 + width : x2 - width] = False
    return mask


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("box", [(20, 30, 120, 90), (0, 0, 200, 150), (199, 149, 200, 150)])
def test_a_box_colors_its_edge_and_nothing_else(box: tuple[int, int, int, int], width: int) -> None:
    drawn = draw_boxes(gray(), [box], width=width)
    edge = frame((200, 150), box, width)
    np.testing.assert_array_equal(has_color(drawn, GREEN), edge)
    np.testing.assert_array_equal(has_color(drawn, GRAY), ~edge)


def test_the_given_image_is_left_as_it_was() -> None:
    image = gray()
    draw_proposals(image, [[10, 10, 50, 50]], [[20, 20, 90, 90]])
    assert has_color(image, GRAY).all()


def test_boxes_are_cut_off_at_the_image() -> None:
    drawn = draw_boxes(gray(), [[-50.0, -50.0, 400.0, 400.0]], width=2)
    np.testing.assert_array_equal(
        has_color(drawn, GREEN), frame((200, 150), (0, 0, 200, 150), width=2)
    )


def test_each_box_has_its_own_color_and_small_boxes_lie_on_large_ones() -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    drawn = draw_boxes(
        gray(), [[10, 10, 30, 30], [10, 10, 150, 120]], colors=["#ff0000", "#0000ff"], width=2
    )
    np.testing.assert_array_equal(
        has_color(drawn, red), frame((200, 150), (10, 10, 30, 30), width=2)
    )
    assert has_color(drawn, blue).any()


@pytest.mark.parametrize("box", [(60, 60, 140, 120), (60, 0, 140, 150), (190, 5, 200, 20)])
def test_a_name_is_dark_text_on_a_tag_inside_the_image(box: tuple[int, int, int, int]) -> None:
    plain = np.asarray(draw_boxes(gray(), [box])).astype(int)
    named = np.asarray(draw_boxes(gray(), [box], labels=["person"])).astype(int)
    changed = np.abs(plain - named).sum(axis=-1) > 0
    # About 6 letters of 11 pixels: wide, one line high, dark letters and green ground.
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert 30 <= np.ptp(columns) <= 60
    assert 10 <= np.ptp(rows) <= 22
    ink = named[changed].sum(axis=-1)
    assert (ink < 150).sum() > 40
    assert (named[changed] == GREEN).all(axis=-1).mean() > 0.4


def test_names_of_boxes_at_one_corner_do_not_cover_each_other() -> None:
    box = [60, 60, 140, 120]

    def tag_pixels(*labels: str) -> int:
        boxes = [box] * len(labels)
        drawn = draw_boxes(gray(), boxes, labels=labels, width=1)
        return int((~has_color(drawn, GRAY)).sum())

    no_tag, one_tag, two_tags = tag_pixels(""), tag_pixels("cat"), tag_pixels("cat", "cat")
    # The second tag lies inside the box and on its edge: little less than the first in new pixels.
    assert two_tags - one_tag > 0.8 * (one_tag - no_tag)


def test_ground_truth_lies_on_top_of_translucent_proposals() -> None:
    box = [40, 40, 120, 100]
    drawn = draw_proposals(gray(), [box, [60, 20, 160, 140]], [box], opacity=0.5)
    pixels = np.asarray(drawn).astype(int)
    assert has_color(drawn, GREEN)[40, 40:120].all()
    red, green, blue = pixels[20, 100]
    assert red > GRAY[0] > green, "half red, half image"
    assert 60 < blue < GRAY[2]


def test_proposals_that_agree_add_up() -> None:
    box = [40, 40, 120, 100]
    once = draw_proposals(gray(), [box], []).getpixel((80, 40))
    thrice = draw_proposals(gray(), [box] * 3, []).getpixel((80, 40))
    assert isinstance(once, tuple) and isinstance(thrice, tuple)
    assert thrice[0] > once[0] > GRAY[0]


def test_no_boxes_leave_the_image_alone() -> None:
    drawn = draw_proposals(gray(), np.zeros((0, 4)), np.zeros((0, 4)), gt_labels=[])
    assert has_color(drawn, GRAY).all()


def test_gray_and_transparent_images_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        assert draw_boxes(Image.new(mode, (50, 40)), [[5, 5, 20, 20]]).mode == "RGB"


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5\) are not \(N, 4\)"):
        draw_boxes(gray(), [[0, 1, 2, 3, 4]])
    with pytest.raises(ValueError, match="2 labels for 1 boxes"):
        draw_boxes(gray(), [[1, 2, 3, 4]], labels=["a", "b"])


def test_a_class_keeps_its_color() -> None:
    assert class_colors([0, 3, 0]) == [PALETTE[0], PALETTE[3], PALETTE[0]]
    assert class_colors([len(PALETTE)]) == [PALETTE[0]]


def test_a_contact_sheet_holds_every_image_centred_in_its_cell() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(100, 50), (50, 100), (40, 40)]
    images = [Image.new("RGB", size, color) for size, color in zip(sizes, colors, strict=True)]
    sheet = contact_sheet(images, 2, cell_size=(100, 100), gap=10)
    assert sheet.size == (230, 230)
    expected = [(10, 35, 110, 85), (145, 10, 195, 110), (10, 120, 110, 220)]
    for color, (x1, y1, x2, y2) in zip(colors, expected, strict=True):
        mask = np.zeros((230, 230), dtype=bool)
        mask[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(has_color(sheet, color), mask)


def test_a_contact_sheet_is_no_wider_than_its_images() -> None:
    assert contact_sheet([gray()], 4, cell_size=(200, 150), gap=0).size == (200, 150)
    with pytest.raises(ValueError, match="cannot lay out 0 images"):
        contact_sheet([], 2)
