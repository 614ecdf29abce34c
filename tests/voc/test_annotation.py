import pickle
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vocdist.errors import UserError
from vocdist.voc.annotation import (
    MAX_COORDINATE,
    Annotation,
    AnnotationError,
    VocObject,
    box_rows,
    multi_hot,
    parse_annotation,
    unknown_names,
    without_difficult,
)
from vocdist.voc.classes import VOC_CLASSES, class_ids

IDS = class_ids(VOC_CLASSES)
NAMES = st.sampled_from([*VOC_CLASSES, "unicorn", "hard hat", "öltank"])
COORDINATES = st.integers(-MAX_COORDINATE, MAX_COORDINATE)
OBJECTS = st.builds(
    VocObject, NAMES, COORDINATES, COORDINATES, COORDINATES, COORDINATES, st.booleans(),
    st.booleans(),
)  # fmt: skip


def voc(name="dog", xmin=1, ymin=2, xmax=11, ymax=22, difficult=False, truncated=False):
    return VocObject(name, xmin, ymin, xmax, ymax, difficult, truncated)


def parse_text(text: str | bytes) -> Annotation:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return parse_annotation(path)


def as_xml(annotation: Annotation) -> str:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = annotation.filename
    size = ElementTree.SubElement(root, "size")
    for tag in ("width", "height"):
        ElementTree.SubElement(size, tag).text = str(getattr(annotation, tag))
    for item in annotation.objects:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = item.name
        part = ElementTree.SubElement(element, "part")
        for owner, offset in ((part, 7), (element, 0)):
            box = ElementTree.SubElement(owner, "bndbox")
            for tag in ("xmax", "xmin", "ymax", "ymin"):
                ElementTree.SubElement(box, tag).text = str(getattr(item, tag) + offset)
        ElementTree.SubElement(element, "difficult").text = str(int(item.difficult))
        ElementTree.SubElement(element, "truncated").text = str(int(item.truncated))
    return ElementTree.tostring(root, encoding="unicode")


@settings(deadline=None)  # a slow disk is no failure
@given(
    st.builds(
        Annotation,
        filename=st.sampled_from(["a.jpg", "ü.jpg", ""]),
        width=st.integers(0, 9999),
        height=st.integers(0, 9999),
        objects=st.lists(OBJECTS, max_size=4).map(tuple),
    )
)
def test_what_is_written_is_read_and_part_boxes_are_no_objects(annotation):
    # Corners of 0 and 1 alone are taken for shares, see below.
    corners = [{o.xmin, o.ymin, o.xmax, o.ymax} for o in annotation.objects]
    assume({0, 1} not in corners)
    assert parse_text(as_xml(annotation)) == annotation


def test_a_file_of_the_voc2012_kind(tmp_path):
    path = tmp_path / "2011_000001.xml"
    path.write_text(
        """<annotation><filename>2011_000001.jpg</filename><folder>VOC2012</folder>
        <object><name> Person\n</name><actions><walking>1</walking></actions>
          <bndbox><xmax>208.9756</xmax><xmin>169.8029</xmin><ymax>145</ymax><ymin>-0.5</ymin></bndbox>
          <part><name>head</name>
            <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
          <part><object><name>hand</name></object></part>
        </object></annotation>"""
    )
    # The fraction is cut off towards zero; absent size and flags read as 0 and False.
    expected = VocObject("person", 169, 0, 208, 145, difficult=False, truncated=False)
    assert parse_annotation(path) == Annotation("2011_000001.jpg", 0, 0, (expected,))


def with_box(box: str) -> str:
    return f"<annotation><object><name>dog</name>{box}</object></annotation>"


def box_with(xmin: str) -> str:
    rest = "<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    return with_box(f"<bndbox><xmin>{xmin}</xmin>{rest}</bndbox>")


def with_corners(xmin: str, ymin: str, xmax: str, ymax: str) -> str:
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return with_box(f"<bndbox>{corners}</bndbox>")


def one_object(name: str) -> str:
    return with_corners("1", "2", "11", "22").replace("dog", name)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
LEAK = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed_xml"),
        ("<annotation><object>", "malformed_xml"),
        ("no XML at all", "malformed_xml"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "malformed_xml"),
        (b"<annotation><filename>\xff</filename></annotation>", "malformed_xml"),
        (BOMB, "forbidden_xml"),
        (LEAK, "forbidden_xml"),
        ("<VOC><item/></VOC>", "not_voc_xml"),
    ],
)
def test_bad_files_are_named_with_their_reason(tmp_path, text, reason):
    path = tmp_path / "bad.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(AnnotationError) as caught:
        parse_annotation(path)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object><name> </name></object></annotation>", "missing_name"),
        (with_box(""), "missing_box"),
        (with_box("<part><bndbox/></part>"), "missing_box"),
        (with_box("<bndbox><xmin>1</xmin></bndbox>"), "missing_box"),
        (box_with(" "), "missing_box"),
        (box_with("left"), "bad_box"),
        (box_with("nan"), "bad_box"),
        (box_with("inf"), "bad_box"),
        (box_with("1e12"), "bad_box"),
        (with_corners("0.27", "0.17", "0.73", "0.57"), "box_in_shares"),
        (with_corners("0.0", "0.0", "1.0", "1.0"), "box_in_shares"),
        (with_corners("0", "0", "1", "1"), "box_in_shares"),
        (with_corners("-0.004", "0.2", "0.5", "1.002"), "box_in_shares"),
    ],
)
def test_one_object_that_cannot_be_used_leaves_the_others(text, reason):
    good = with_corners("1", "2", "11", "22").removeprefix("<annotation>")
    annotation = parse_text(text.removesuffix("</annotation>") + good)
    assert annotation.objects == (voc(),)
    (bad,) = annotation.bad_objects
    assert bad.reason == reason and bad.detail


@pytest.mark.parametrize("corners", ["1 1 2 2", "0 0 0 0", "1 1 1 1", "0 0 1 2", "0.5 0.5 1.5 1.5"])
def test_small_boxes_in_pixels_are_no_shares(corners):
    assert parse_text(with_corners(*corners.split())).bad_objects == ()


@pytest.mark.parametrize(
    "encoding", ["gb2312", "GBK", "GB18030", "Big5", "Shift_JIS", "EUC-KR", "EUC-JP", "latin-1"]
)
def test_declared_encodings_are_read(encoding):
    name = {"EUC-KR": "한국", "latin-1": "öl"}.get(encoding, "安全")
    text = f'<?xml version="1.0" encoding="{encoding}"?>{one_object(name)}'
    assert parse_text(text.encode(encoding)).objects[0].name == name


def test_marks_and_wrong_declarations_of_unicode():
    body = one_object("öl")
    for declared, stored in [("utf-16", "utf-8"), ("gb2312", "utf-8-sig"), ("utf-8", "utf-8-sig")]:
        text = f'<?xml version="1.0" encoding="{declared}"?>{body}'
        assert parse_text(text.encode(stored)).objects[0].name == "öl", declared


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'<?xml version="1.0" encoding="GB2312"?><annotation>\xff</annotation>', "byte 52 (0xff)"),
        (b'<?xml version="1.0" encoding="UTF-8"?><annotation>\xe9</annotation>', "byte 51 (0xe9)"),
        (b"<annotation>\xe9</annotation>", "declares no encoding, which means UTF-8, but byte 13"),
    ],
)
def test_bytes_of_another_encoding_are_named(tmp_path, content, words):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(AnnotationError) as caught:
        parse_annotation(path)
    assert caught.value.reason == "malformed_xml" and words in caught.value.detail


def test_entities_stay_refused_in_every_encoding():
    head = '<?xml version="1.0" encoding="gb2312"?>'
    with pytest.raises(AnnotationError) as caught:
        parse_text((head + LEAK).encode("gb2312"))
    assert caught.value.reason == "forbidden_xml"


def test_a_namespace_does_not_hide_the_objects(one_dog):
    spaced = one_dog.replace("<annotation>", '<annotation xmlns="urn:voc">')
    assert parse_text(spaced) == parse_text(one_dog)


def test_a_file_that_cannot_be_opened_is_an_annotation_error_too(tmp_path):
    with pytest.raises(AnnotationError) as caught:
        parse_annotation(tmp_path)
    assert caught.value.reason == "unreadable"


def test_utf16_is_read(one_dog):
    assert parse_text(one_dog.encode("utf-16")).objects == (voc("dog", 3, 4, 30, 40, False, True),)


@settings(deadline=None)  # a slow disk is no failure
@given(st.data())
def test_damage_never_escapes_as_another_exception(data):
    whole = as_xml(Annotation("a.jpg", 5, 5, (voc(), voc("cat")))).encode()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 30)))
    try:
        parsed = parse_text(whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:])
    except AnnotationError as error:
        assert error.reason and error.detail
    else:
        assert isinstance(parsed, Annotation)


def test_the_error_survives_the_way_back_from_a_worker_process(tmp_path):
    error = AnnotationError(tmp_path / "a.xml", "bad_box", "object 1 has no sense")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, copy.detail) == (error.path, error.reason, error.detail)
    assert str(copy) == str(error)


def test_box_rows_by_hand():
    objects = [voc("dog"), voc("unicorn"), voc("aeroplane", 9, 8, 7, 6)]
    rows = box_rows(objects, IDS)
    assert rows.dtype == np.int32
    # The aeroplane's box is inverted: its sides are 0, never negative.
    assert rows.tolist() == [[11, 1, 2, 10, 20], [0, 9, 8, 0, 0]]
    assert box_rows([], IDS).shape == box_rows([voc("unicorn")], IDS).shape == (0, 5)


@given(st.lists(OBJECTS, max_size=8))
def test_each_object_is_a_row_or_a_counted_unknown(objects):
    rows = box_rows(objects, IDS)
    unknown = unknown_names(objects, IDS)
    assert len(rows) + unknown.total() == len(objects)
    assert not unknown.keys() & IDS.keys()
    assert (rows[:, 3:] >= 0).all()
    known = [item for item in objects if item.name in IDS]
    for row, item in zip(rows.tolist(), known, strict=True):
        assert row[:3] == [IDS[item.name], item.xmin, item.ymin]
        # Where the box is a box, its right and bottom edges come back.
        if item.xmax >= item.xmin and item.ymax >= item.ymin:
            assert (row[1] + row[3], row[2] + row[4]) == (item.xmax, item.ymax)


def test_the_largest_box_that_is_read_fits_a_row():
    ends = (-MAX_COORDINATE, -MAX_COORDINATE, MAX_COORDINATE, MAX_COORDINATE)
    assert box_rows([voc("dog", *ends)], IDS)[0, 3:].tolist() == [2 * MAX_COORDINATE] * 2


@given(st.lists(st.integers(0, 5), max_size=9))
def test_multi_hot_marks_exactly_the_classes_there(ids):
    boxes = np.array([[i, 1, 1, 2, 2] for i in ids], dtype=np.int32).reshape(-1, 5)
    labels = multi_hot(boxes, 6)
    assert labels.dtype == np.int8
    assert labels.tolist() == [int(i in ids) for i in range(6)]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_multi_hot_refuses_ids_of_another_class_list(wrong):
    with pytest.raises(ValueError, match="do not fit 3 classes"):
        multi_hot(np.array([[0, 1, 1, 2, 2], [wrong, 1, 1, 2, 2]], dtype=np.int32), 3)


def test_without_difficult_keeps_the_rest_in_order():
    easy, hard, last = voc("dog"), voc("cat", difficult=True), voc("cow", truncated=True)
    assert without_difficult([easy, hard, last]) == (easy, last)


def test_a_namespace_on_the_root_makes_no_difference(tmp_path, one_dog):
    plain, named = tmp_path / "a.xml", tmp_path / "b.xml"
    plain.write_text(one_dog)
    named.write_text(one_dog.replace("<annotation>", '<annotation xmlns="http://example.org/voc">'))
    assert parse_annotation(named) == parse_annotation(plain)


def test_xml_of_another_kind_is_refused_by_the_name_of_its_root(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotations><image name='a.jpg'/></annotations>")
    with pytest.raises(AnnotationError, match=r"root is <annotations>.*not_voc_xml"):
        parse_annotation(path)
