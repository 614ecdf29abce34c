import torch
from torchvision.transforms.v2 import functional as transforms

from vocdist.models.pixels import IMAGENET_MEAN, IMAGENET_STD, ImageNetPixels


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
