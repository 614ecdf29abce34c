"""XML from anywhere -> a tree of elements, without entities and external references.

Bombs, and files that an XML makes its reader open, are declared by entities, and those need markup
that begins with `<!`. A file that holds none, in an encoding that cannot hide it, goes through the
parser of Python that is written in C, all others through defusedxml's, which is not and takes
two and a half times as long.
"""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from vocdist.voc.encodings import readable_xml

# Begins at once, with the declaration as most tools write it or with the root. A parser that begins
# so reads `<!` as these two bytes only: it takes what has no declaration as UTF-8, and a character
# beyond ASCII holds no byte of ASCII in any of these encodings.
_PLAIN_BEGIN = re.compile(
    rb"""(<\?xml\s+version=["']1\.\d["'](\s+encoding=["'](utf-8|us-ascii|iso-8859-1)["'])?\s*\?>)?"""
    rb"""\s*<[a-z]""",
    re.IGNORECASE,
)


def parse_xml(content: bytes) -> Element:
    """The root element; tags in a namespace keep it, as `{uri}tag`.

    Raises:
        DefusedXmlException: It declares an entity or refers to another file.
        ParseError: It is not well-formed.
        ValueError, LookupError: Its bytes are not in its encoding, or nobody knows that.
    """
    readable = readable_xml(content)
    parse = ElementTree.fromstring if cannot_declare(readable) else fromstring
    root: Element = parse(readable)
    return root


def cannot_declare(xml: bytes | str) -> bool:
    """Whether it is certain that a parser finds no declaration: of entities, elements, a DTD.

    Text is text: the parser takes it whatever encoding its declaration states.
    """
    if isinstance(xml, str):
        return "<!" not in xml
    return b"<!" not in xml and _PLAIN_BEGIN.match(xml) is not None
