import numpy as np

from vocdist.voc.annotation import rows_to_xyxy


def test_box_rows_become_half_open_zero_based_corners() -> None:
    # The whole of a 10 x 8 image is (1, 1)-(10, 8) in VOC's XML.
    rows = np.array([[3, 1, 1, 9, 7], [0, 4, 2, 0, 3]], dtype=np.int32)
    assert rows_to_xyxy(rows, 10, 8).tolist() == [[0, 0, 10, 8], [3, 1, 4, 5]]


def test_corners_that_count_from_zero_are_taken_as_they_are() -> None:
    rows = np.array([[3, 4, 2, 5, 3]], dtype=np.int32)
    assert rows_to_xyxy(rows, 20, 20, one_based=False).tolist() == [[4, 2, 9, 5]]


def test_boxes_beyond_the_image_are_clipped() -> None:
    rows = np.array([[0, 0, -5, 50, 50]], dtype=np.int32)
    assert rows_to_xyxy(rows, 20, 10).tolist() == [[0, 0, 20, 10]]
    assert rows_to_xyxy(np.zeros((0, 5), np.int32), 20, 10).shape == (0, 4)
