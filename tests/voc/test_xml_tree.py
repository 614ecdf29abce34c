"""Whatever can declare an entity goes through defusedxml, and the rest gives the tree it gives."""

import codecs
from xml.etree.ElementTree import Element, ParseError

import pytest
from annotations import ONE_DOG
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st

from vocdist.voc.text import cannot_declare, parse_xml, readable_xml

ENTITY = '<!DOCTYPE a [<!ENTITY e "boom">]><annotation>&e;</annotation>'
# What begins plainly, so that no declaration before it can give the rest away.
LATER = '<annotation><!DOCTYPE a [<!ENTITY e "boom">]>&e;</annotation>'


def declared(encoding: str, body: str = ENTITY) -> bytes:
    return f'<?xml version="1.0" encoding="{encoding}"?>{body}'.encode()


def tree(element: Element) -> tuple:
    children = [tree(child) for child in element]
    return element.tag, element.attrib, element.text, element.tail, children


@pytest.mark.parametrize(
    "content",
    [
        ENTITY.encode(),
        b"\n " + ENTITY.encode(),
        LATER.encode(),
        b"<!-- nothing -->" + ENTITY.encode(),
        codecs.BOM_UTF8 + ENTITY.encode(),
        ENTITY.encode("utf-16"),
        codecs.BOM_UTF16_BE + ENTITY.encode("utf-16-be"),
        # UTF-16 without a mark: a parser sees it by the zero in the first two bytes.
        ENTITY.encode("utf-16-le"),
        ENTITY.encode("utf-16-be"),
        f'<?xml version="1.0" encoding="UTF-16"?>{ENTITY}'.encode("utf-16"),
        f'<?xml version="1.0" encoding="UTF-16LE"?>{ENTITY}'.encode("utf-16-le"),
        ENTITY.encode("utf-32"),
        declared("utf-16"),
        declared("utf-8"),
        declared("ISO-8859-1"),
        declared("windows-1252"),
        declared("gb2312"),
        declared("hz"),
        declared("utf-8", "<?php ?>" + ENTITY),
        # Encodings in which other bytes, or other characters of ASCII, stand for `<!`.
        b'<?xml version="1.0" encoding="utf-7"?>' + ENTITY.encode().replace(b"<!", b"+ADwAIQ-"),
        f"<?xml version='1.0' encoding='cp037'?>{ENTITY}".encode("cp037"),
        b'<?xml version="1.0" encoding="cp037"?>' + ENTITY.encode("cp037"),
    ],
)
def test_entities_are_never_read(content: bytes) -> None:
    with pytest.raises((DefusedXmlException, ParseError, ValueError, LookupError)):
        parse_xml(content)
    try:
        readable = readable_xml(content)
    except ValueError:
        return
    assert not cannot_declare(readable)


@pytest.mark.parametrize(
    "content",
    [
        # Not `<!` in the bytes as they are, and what they say is read with another encoding.
        b'<?xml version="1.0" encoding="utf-7"?><a>+ADwAIQ-</a>',
        b'<?xml version="1.0" encoding="cp1026"?><a/>',
        b'<?xml version="1.0" encoding="unheard-of"?><a/>',
        b'<?xml\nversion = "1.0" encoding = "utf-7" ?><a/>',
        b'<?xml version="1.0"  standalone="no" ?><a/>',
        b"<?xml-stylesheet href='x'?><a/>",
        "<a/>".encode("utf-16-le"),
        "<a/>".encode("utf-16-be"),
        "<a/>".encode("utf-16"),
        codecs.BOM_UTF16_LE + b"<a/>",
        b"<a><![CDATA[x]]></a>",
        b"<a><!-- x --></a>",
        b"",
        b"a",
        b"\0<a/>",
    ],
)
def test_what_is_not_certain_goes_the_safe_way(content: bytes) -> None:
    assert not cannot_declare(content)


@pytest.mark.parametrize(
    "content",
    [
        ONE_DOG.encode(),
        declared("utf-8", ONE_DOG),
        declared("UTF-8", "\n" + ONE_DOG),
        f"<?xml version='1.0'?>\r\n{ONE_DOG}".encode(),
        '<?xml version="1.0" encoding="iso-8859-1"?><a>Öl &lt;!ENTITY</a>'.encode("latin-1"),
        declared("gb2312", "<a>&#60;!</a>"),
        codecs.BOM_UTF8 + ONE_DOG.encode(),
        b"<n:a xmlns:n='urn:x'><n:b c='d'/> tail</n:a>",
    ],
)
def test_common_files_go_the_fast_way_and_give_the_same_tree(content: bytes) -> None:
    readable = readable_xml(content)
    assert cannot_declare(readable)
    assert tree(parse_xml(content)) == tree(fromstring(readable))


@pytest.mark.parametrize(
    "body", ["<a>", "<a></b>", "<a>&e;</a>", "<a/>x", "<a\xff/>", "<a>\x01</a>"]
)
def test_faults_are_named_alike(body: str) -> None:
    content = body.encode("latin-1")
    assert cannot_declare(content)
    with pytest.raises(ParseError) as fast:
        parse_xml(content)
    with pytest.raises(ParseError) as safe:
        fromstring(content)
    assert str(fast.value) == str(safe.value)


@given(st.lists(st.sampled_from(["<!", "<", "!", "a", "/>", ">", "&e;", "+ADw-", "\0", "é", " "])))
def test_both_parsers_agree_on_what_is_taken_as_certain(parts: list[str]) -> None:
    for encoding in ("utf-8", "latin-1", "utf-16-le"):
        content = "".join(["<a>", *parts, "</a>"]).encode(encoding)
        if not cannot_declare(content):
            continue
        results = []
        for parse in (parse_xml, fromstring):
            try:
                results.append(tree(parse(content)))
            except ParseError as error:
                results.append(str(error))
        assert results[0] == results[1]
