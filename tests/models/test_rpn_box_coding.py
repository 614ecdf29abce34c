import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from vocdist.models.rpn.anchors import MAX_LOG_SIZE, decode, encode


def random_boxes(*shape: int, seed: int = 0, low: float = 1.0, high: float = 300.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 500
    sides = torch.rand(*shape, 2, generator=generator) * (high - low) + low
    return torch.cat([corner, corner + sides], dim=-1)


def test_by_hand():
    anchor = torch.tensor([0.0, 0, 10, 20])
    box = torch.tensor([5.0, 10, 25, 20])
    expected = torch.tensor([(15 - 5) / 10, (15 - 10) / 20, math.log(2), math.log(0.5)])
    assert_close(encode(box, anchor), expected)
    assert_close(decode(expected, anchor), box)


def test_zero_deltas_are_the_anchor():
    anchors = random_boxes(50)
    assert_close(decode(torch.zeros(50, 4), anchors), anchors)


side = st.floats(1, 800, width=32)
place = st.floats(-100, 1300, width=32)


@settings(deadline=None, max_examples=200)
@given(place, place, side, side, place, place, side, side)
def test_round_trip_within_the_size_bound(x, y, w, h, ax, ay, aw, ah):
    box = torch.tensor([x, y, x + w, y + h])
    anchor = torch.tensor([ax, ay, ax + aw, ay + ah])
    deltas = encode(box, anchor)
    assert deltas.isfinite().all()
    if deltas[2:].max() <= MAX_LOG_SIZE and (box[2:] - box[:2]).min() >= 1:
        assert_close(decode(deltas, anchor), box, rtol=1e-4, atol=0.02)


def test_agrees_with_torchvision():
    boxes, anchors = random_boxes(100, seed=1), random_boxes(100, seed=2)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas = coder.encode_single(boxes, anchors)
    assert_close(encode(boxes, anchors), deltas)
    wild = deltas * 10
    assert_close(decode(wild, anchors), coder.decode_single(wild, anchors), rtol=1e-4, atol=1e-2)


def test_leading_dimensions_broadcast():
    boxes, anchors = random_boxes(3, 20, seed=1), random_boxes(20, seed=2)
    deltas = encode(boxes, anchors)
    assert_close(deltas, torch.stack([encode(image, anchors) for image in boxes]))
    assert_close(decode(deltas, anchors), boxes, rtol=1e-4, atol=1e-2)


def test_finite_for_boxes_and_anchors_without_area_and_for_wild_deltas():
    nothing = torch.zeros(1, 4)
    speck = torch.tensor([[7.2, 7.2, 7.3, 7.25]])
    for box in (nothing, speck):
        for anchor in (nothing, speck, random_boxes(1)):
            assert encode(box, anchor).isfinite().all()
    assert decode(torch.full((1, 4), 1e4), random_boxes(1)).isfinite().all()
