"""What lies in a folder of shards: the manifest, each shard's index, each sample's record.

The index has the byte offsets of a shard's members in DALI's public `.idx` form; the manifest
comes with timm's `_info.json`.
"""

import hashlib
import json
import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.remote.location import Location, is_url, join
from vocdist.remote.transfer import NotThereError, read_whole
from vocdist.voc.annotation import multi_hot
from vocdist.voc.source import find_voc_root

INDEX_VERSION = "v1.2"
# The members of a sample, in the order in which WebDataset's writer stores them.
EXTENSIONS = ("jpg", "json")
MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
INFO_NAME = "_info.json"
# Of a conversion that is not finished.
PROGRESS_NAME = ".progress.jsonl"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where one sample's members lie in the tar: byte offsets and sizes of JPEG and JSON."""

    key: str
    jpg_offset: int
    jpg_size: int
    json_offset: int
    json_size: int


def index_path(shard: Path) -> Path:
    """`train-000000.tar` -> `train-000000.idx`."""
    return shard.with_suffix(".idx")


def scan_tar(path: Path) -> list[IndexEntry]:
    """List a shard's samples by walking its tar headers.

    Raises:
        UserError: The members are not jpg, json, jpg, json, … of matching keys, or the tar is cut.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a whole tar file ({error}): make the shards again") from None
    entries = []
    for jpg, record in zip(members[0::2], members[1::2], strict=False):
        key, _, extension = jpg.name.rpartition(".")
        if (extension, record.name) != ("jpg", f"{key}.json"):
            raise UserError(f"{path}: {jpg.name} and {record.name} are not one sample's members")
        entries.append(IndexEntry(key, jpg.offset_data, jpg.size, record.offset_data, record.size))
    if len(members) % 2:
        raise UserError(f"{path}: {members[-1].name} has no partner: the tar is cut")
    return entries


def index_bytes(entries: Sequence[IndexEntry]) -> bytes:
    """Entries as the content of a DALI index file."""
    lines = [f"{INDEX_VERSION} {len(entries)}"]
    lines += [
        f"jpg {e.jpg_offset} {e.jpg_size} {e.key}.jpg "
        f"json {e.json_offset} {e.json_size} {e.key}.json"
        for e in entries
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def read_index(path: Path) -> list[IndexEntry]:
    """Read an index file of the form of `index_bytes`.

    Raises:
        UserError: It is missing, of another version, or not of our form.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        version, count = header.split()
        if version != INDEX_VERSION or int(count) != len(lines):
            raise ValueError(f"header '{header}' over {len(lines)} lines")
        return [_parse_line(line) for line in lines]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no usable index ({error}): make the shards again") from None


def _parse_line(line: str) -> IndexEntry:
    jpg, jpg_offset, jpg_size, jpg_name, json, json_offset, json_size, _ = line.split(" ")
    if (jpg, json) != EXTENSIONS:
        raise ValueError(f"'{jpg}' and '{json}' where {EXTENSIONS} are expected")
    return IndexEntry(
        key=jpg_name.removesuffix(".jpg"),
        jpg_offset=int(jpg_offset),
        jpg_size=int(jpg_size),
        json_offset=int(json_offset),
        json_size=int(json_size),
    )


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Annotations:
    """The stored record of one sample, as arrays.

    Attributes:
        key: The sample's key in its shard.
        width: Of the stored image, pixels.
        height: Of the stored image, pixels.
        boxes: (N, 5) int32 rows `[class_id, x, y, w, h]` as in the XML (1-based minima).
        difficult: (N,) bool.
    """

    key: str
    width: int
    height: int
    boxes: np.ndarray
    difficult: np.ndarray

    def multi_hot(self, classes: int) -> np.ndarray:
        """(classes,) int8, 1 for each class that has a box."""
        return multi_hot(self.boxes, classes)


def parse_record(stored: bytes) -> Annotations:
    """Read a JSON member.

    Raises:
        ValueError: It is none, or not of our form; a KeyError or TypeError, likewise.
    """
    record = json.loads(stored)
    # Pictures are named by it.
    if not isinstance(record["key"], str) or "/" in record["key"]:
        raise ValueError(f"key {record['key']!r}")
    width, height = record["width"], record["height"]
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ValueError(f"size {width!r} x {height!r}")
    boxes = np.asarray(record["boxes"], dtype=np.int32).reshape(-1, 5)
    difficult = np.asarray(record["difficult"], dtype=bool)
    if difficult.shape != (len(boxes),):
        raise ValueError(f"{len(boxes)} boxes and {difficult.shape} flags")
    return Annotations(record["key"], width, height, boxes, difficult)


class ShardRecord(BaseModel):
    """One tar file: its name in the folder, what is in it, and how to tell it is whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A plain file name: it is opened in the folder, and a copy of it is written into the cache.
    name: str = Field(pattern=r"^[^/\\\x00]+-\d{6}\.tar$")
    samples: int
    objects: int
    bytes: int
    sha256: str


class SplitRecord(BaseModel):
    """One split: totals, per-class counts (images that hold the class; boxes), and its shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int
    objects: int
    class_images: dict[str, int]
    class_objects: dict[str, int]
    shards: tuple[ShardRecord, ...]


class SplitRule(BaseModel):
    """How samples were divided; `seed` and `ratio` are null for lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["seeded", "lists"]
    ratio: float | None
    seed: int | None


class ImageRule(BaseModel):
    """How images were made smaller: long side in pixels and JPEG quality; null: they were not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_side: int | None = None
    jpeg_quality: int | None = None


class Manifest(BaseModel):
    """Everything a reader needs to know before it opens a shard.

    `left_out` counts the files of the source that became no sample, by reason; `boxes_left_out`
    the boxes that were left out, `boxes_clipped` those cut to the image, and `unknown_objects`
    those whose class is not in `classes`. `changed` counts files and boxes that were taken
    otherwise than the source has them, by reason, and `negatives` the samples of nothing.
    `plan_sha256` identifies source content and settings, so that a second conversion can tell that
    its work is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = Field(FORMAT_VERSION, strict=True, ge=1)
    name: str
    classes: tuple[str, ...]
    split_rule: SplitRule
    skip_difficult: bool
    image_rule: ImageRule = ImageRule()
    splits: dict[str, SplitRecord]
    left_out: dict[str, int]
    boxes_left_out: dict[str, int] = {}
    boxes_clipped: int = 0
    changed: dict[str, int] = {}
    negatives: int = 0
    unknown_objects: dict[str, int]
    plan_sha256: str


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Publish the folder: write `manifest.json` by temporary name, fsync and rename."""
    # Only where there is something to state: versions that do not know these fields read the rest.
    unused = {name for name in ("changed", "negatives") if not getattr(manifest, name)}
    text = manifest.model_dump_json(indent=1, exclude=unused)
    with replaced_when_done(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_manifest(folder: Location) -> Manifest:
    """Read the manifest of a shard folder.

    Raises:
        UserError: There is none (the message says how to make shards), it cannot be read, or it
            was written by a newer version.
    """
    return parse_manifest(read_manifest(folder), folder)


def read_manifest(folder: Location) -> bytes:
    """The manifest of a shard folder as stored.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    try:
        if is_url(folder):
            return read_whole(join(folder, MANIFEST_NAME))
        return (Path(folder) / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError, NotThereError):
        raise UserError(_no_shards(folder)) from None


def parse_manifest(content: bytes, folder: Location) -> Manifest:
    """What `read_manifest` read.

    Raises:
        UserError: It is not one, or of a newer version.
    """
    path = f"{folder}/{MANIFEST_NAME}"
    try:
        # Before all else: a newer format may differ in anything but this.
        version = json.loads(content)["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {version} is newer than this vocdist's {FORMAT_VERSION}: "
                f"update vocdist, or convert the data set again with this one"
            )
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        what = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
    raise UserError(
        f"{path}: not a vocdist manifest ({what}): delete {folder} and make the shards again"
    )


def manifest_hash(folder: Location) -> str:
    """SHA-256 of the manifest file: the identity of a data set's shards."""
    return hashlib.sha256(read_manifest(folder)).hexdigest()


def describe_splits(manifest: Manifest) -> str:
    """What the shards hold, in a line: `voc2012: train 13700 samples in 28 shards, val ...`."""
    splits = [
        f"{name} {split.samples} samples in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    ]
    return f"{manifest.name}: {', '.join(splits)}"


def _no_shards(folder: Location) -> str:
    """What to do where no manifest is; nothing is proposed to be written among other files."""
    if isinstance(folder, Path) and folder.is_dir() and any(folder.iterdir()):
        return _no_shards_among(folder)
    return (
        f"{folder}: no shards here (no {MANIFEST_NAME}). Make some, from the demo data set:\n"
        f"  python scripts/make_demo_data.py data/demo && "
        f"python scripts/make_shards.py source=data/demo output={folder}\n"
        f"or from VOC2012, a folder or Kaggle's copy:\n"
        f"  python scripts/make_shards.py source=kaggle:gopalbhattrai/pascal-voc-2012-dataset "
        f"output={folder}"
    )


def _no_shards_among(folder: Path) -> str:
    begin = f"{folder}: no shards here (no {MANIFEST_NAME}), but "
    if (folder / PROGRESS_NAME).is_file():
        return f"{begin}a conversion that is not finished: run make_shards.py again as it was begun"
    try:
        find_voc_root(folder)
    except UserError:
        return (
            f"{begin}other files. Of images with annotations make a VOC tree, then shards:\n"
            f"  python scripts/make_voc.py {shlex.quote(str(folder))} data/mine && "
            f"python scripts/make_shards.py source=data/mine output=shards/mine\n"
            f"and pass data.shards=shards/mine"
        )
    name = shlex.quote(f"shards/{folder.resolve().name}")
    return (
        f"{begin}a VOC data set. Make shards of it, with classes=[…] if they are not VOC's:\n"
        f"  python scripts/make_shards.py source={shlex.quote(str(folder))} output={name}\n"
        f"and pass data.shards={name}"
    )


def save_info(manifest: Manifest, folder: Path) -> None:
    """Write what `timm.data.readers.reader_wds` looks for beside the shards."""
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.name for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in manifest.splits.items()
    }
    with replaced_when_done(folder / INFO_NAME) as temporary:
        temporary.write_text(json.dumps({"splits": splits}, indent=1) + "\n", encoding="utf-8")
