"""Text and XML as tools write them: UTF-16, GB2312, Shift_JIS and others; no entities."""

import codecs
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from vocdist.errors import UserError

DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.:-]*)["']""")
# What expat cannot read and Python can, by Python's name -> the wider table that browsers take for
# it, as many files that are declared GB2312 hold a character of GBK.
EAST_ASIAN = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "hz": "hz",
    "big5": "cp950",
    "big5hkscs": "big5hkscs",
    "cp950": "cp950",
    "shift_jis": "cp932",
    "shift_jis_2004": "shift_jis_2004",
    "cp932": "cp932",
    "euc_jp": "euc_jp",
    "euc_jis_2004": "euc_jis_2004",
    "iso2022_jp": "iso2022_jp",
    "euc_kr": "cp949",
    "cp949": "cp949",
    "johab": "johab",
}
# The longer first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Begins at once, with the declaration as most tools write it or with the root. A parser that begins
# so reads `<!` as these two bytes only: it takes what has no declaration as UTF-8, and a character
# beyond ASCII holds no byte of ASCII in any of these encodings.
_PLAIN_BEGIN = re.compile(
    rb"""(<\?xml\s+version=["']1\.\d["'](\s+encoding=["'](utf-8|us-ascii|iso-8859-1)["'])?\s*\?>)?"""
    rb"""\s*<[a-z]""",
    re.IGNORECASE,
)


def readable_xml(content: bytes) -> bytes | str:
    """An XML file's content for a parser that knows UTF-8, UTF-16 and single-byte encodings.

    Text is given back, which the parser takes whatever its declaration says, where the file
    declares an East Asian encoding, or UTF-16 in a file of single bytes.

    Raises:
        ValueError: The bytes are not in the declared encoding; with the first wrong one.
    """
    if content.startswith(codecs.BOM_UTF8):
        # Whatever the declaration says: an editor that converts a file leaves it as it was.
        return _decoded(content, "utf-8-sig", "UTF-8 by its mark")
    declared = DECLARED.match(content)
    if declared is None:
        return content
    name = declared[1].decode("ascii")
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        return content  # the parser's to say
    if codec.startswith(("utf-16", "utf-32")):
        # The declaration was read as single bytes: .NET writes UTF-16 into what it stores as UTF-8.
        return _decoded(content, "utf-8-sig", name)
    if codec not in EAST_ASIAN:
        return content
    return _decoded(content, EAST_ASIAN[codec], name)


def wrong_bytes(content: bytes) -> str:
    """What is wrong with the bytes of an XML file that declares no encoding but UTF-8, if it is."""
    declared = DECLARED.match(content)
    name = declared[1].decode("ascii") if declared else "UTF-8"
    if name.lower() not in ("utf-8", "utf8") or content.startswith(
        (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ):
        return ""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        said = f"is declared {name}" if declared else "declares no encoding, which means UTF-8"
        return f"{said}, but byte {error.start + 1} (0x{content[error.start]:02x}) is not UTF-8"
    return ""


def _decoded(content: bytes, codec: str, declared: str) -> str:
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is declared {declared}, but byte {error.start + 1} (0x{content[error.start]:02x}) "
            f"is not {declared}"
        ) from None


def read_text_list(path: Path) -> str:
    """A list's text by its byte order mark: UTF-8 with or without one, UTF-16 or UTF-32 with one.

    Bytes that are not UTF-8 pass through by surrogateescape, as they do in `os.listdir`.

    Raises:
        UserError: It cannot be read, or is of another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not whole {encoding.upper()} text: save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path} is not UTF-8 text (UTF-16?): save it as UTF-8")
    return text


def printable(text: str) -> str:
    """A name for the terminal: control characters and bytes that are not UTF-8 are escaped."""
    escaped = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return escaped


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): a Mac's archives hold `u` and a combining mark."""
    return unicodedata.normalize("NFC", name)


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
