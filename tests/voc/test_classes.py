import pytest

from vocdist.errors import UserError
from vocdist.voc.classes import VOC_CLASSES, class_ids


def test_the_twenty_classes_are_alphabetical_and_numbered_in_that_order():
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert class_ids(VOC_CLASSES)["aeroplane"] == 0
    assert class_ids(VOC_CLASSES)["tvmonitor"] == 19


def test_a_users_own_list_is_normalised_like_the_names_in_the_xml():
    assert class_ids(["Hard Hat", " vest"]) == {"hard hat": 0, "vest": 1}


@pytest.mark.parametrize(("names", "words"), [(["dog", "DOG "], "twice"), (["dog", " "], "blank")])
def test_a_list_that_cannot_be_meant_is_refused(names, words):
    with pytest.raises(UserError, match=words):
        class_ids(names)
