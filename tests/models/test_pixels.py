import torch
from torchvision.transforms.v2 import functional as transforms

from vocdist.models.layers import IMAGENET_MEAN, IMAGENET_STD, LUMA, ImageNetPixels, jitter_color


def test_agrees_with_torchvisions_to_tensor_and_normalize() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = transforms.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(ImageNetPixels()(images), expected)


def test_padding_becomes_zero_and_the_image_stays() -> None:
    images = torch.full((2, 3, 4, 6), 200, dtype=torch.uint8)
    sizes = torch.tensor([[4, 5], [2, 6]])
    pixels = ImageNetPixels()(images, sizes)
    whole = ImageNetPixels()(images)
    assert torch.equal(pixels[0, :, :, :5], whole[0, :, :, :5])
    assert torch.equal(pixels[1, :, :2], whole[1, :, :2])
    assert (pixels[0, :, :, 5:] == 0).all()
    assert (pixels[1, :, 2:] == 0).all()


def test_no_checkpoint_holds_the_constants() -> None:
    assert ImageNetPixels().state_dict() == {}


def test_colors_change_as_torchvision_blends_them() -> None:
    # Dark and even enough that torchvision clips nothing.
    images = torch.randint(60, 110, (3, 3, 8, 9), dtype=torch.uint8)
    factors = torch.tensor([[1.2, 0.7, 1.4], [0.8, 1.3, 0.6], [1.0, 1.0, 1.0]])
    expected = []
    for image, (brightness, contrast, saturation) in zip(images, factors.tolist(), strict=True):
        changed = transforms.adjust_brightness(image.float() / 255, brightness)
        changed = transforms.adjust_contrast(changed, contrast)
        expected.append(transforms.adjust_saturation(changed, saturation))
    torch.testing.assert_close(
        jitter_color(images.float(), factors, torch.tensor(LUMA)) / 255,
        torch.stack(expected),
        atol=2e-4,
        rtol=1e-3,
    )
    ours = ImageNetPixels()(images, color=factors)
    torch.testing.assert_close(ours[2], ImageNetPixels()(images)[2], atol=1e-4, rtol=1e-4)


def test_colors_leave_the_layout_alone() -> None:
    pixels = ImageNetPixels()
    pixels.memory_format = torch.channels_last
    images = torch.randint(0, 256, (2, 3, 8, 10), dtype=torch.uint8)
    colored = pixels(images, color=torch.ones(2, 3))
    assert colored.is_contiguous(memory_format=torch.channels_last)


def test_pixels_stay_float32_under_autocast() -> None:
    images = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8)
    factors = torch.tensor([[1.2, 0.7, 1.4], [0.8, 1.3, 0.6], [1.0, 1.0, 1.0], [0.9, 1.1, 0.0]])
    sizes = torch.tensor([[9, 7], [5, 7], [9, 3], [1, 1]])
    for dtype in (torch.bfloat16, torch.float16):
        for color in (None, factors):
            expected = ImageNetPixels()(images, sizes, color)
            with torch.autocast("cpu", dtype):
                found = ImageNetPixels()(images, sizes, color)
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)
