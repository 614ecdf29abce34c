"""What of a source did not go into the shards, why, and how much of that is too much."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

REJECTED_NAME = "rejected.jsonl"
# Left out on purpose or as a matter of course: no sign of a broken data set.
HARMLESS = frozenset({"hidden_file", "not_in_a_list", "only_difficult", "exif_turned"})


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """A file that became no sample, a box that was left out, or either taken with a change.

    Attributes:
        file: Path below the VOC root; bytes that are not UTF-8 are escaped.
        what: `file` or `box` (left out), `clipped_box` (kept, cut to the image), `changed_file` or
            `changed_box` (kept, otherwise than the files have it).
        reason: A slug to count by.
        detail: The same in words.
    """

    file: str
    what: Literal["file", "box", "clipped_box", "changed_file", "changed_box"]
    reason: str
    detail: str


def shown_path(path: Path, root: Path) -> str:
    """A path below `root`, for people and for JSON."""
    return shown_name(path.relative_to(root).as_posix())


def shown_name(name: str) -> str:
    """A file's name for people and for JSON: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stop_if_strict(rejections: Iterable[Rejection]) -> None:
    """Raise a `UserError` for the first rejection that is not harmless."""
    for item in rejections:
        if item.reason not in HARMLESS:
            raise UserError(
                f"{item.file}: {item.detail} ({item.reason}): mend it or take it out; "
                f"strict=false leaves it out and goes on"
            )


def check_share(rejections: Sequence[Rejection], accepted: int, max_rejected: float) -> None:
    """Refuse a data set of which more than a share of the files was rejected.

    Raises:
        UserError: With the reasons, an example of each, and the remedy.
    """
    rejected = [i for i in rejections if i.what == "file" and i.reason not in HARMLESS]
    share = len(rejected) / max(1, accepted + len(rejected))
    if share <= max_rejected and accepted:
        return
    examples = {item.reason: item for item in reversed(rejected)}
    lines = [
        f"  {count:,} {reason}, as {examples[reason].file}: {examples[reason].detail}"
        for reason, count in Counter(item.reason for item in rejected).most_common()
    ]
    problem = (
        f"{len(rejected):,} of {accepted + len(rejected):,} files ({share:.1%}) cannot be used, "
        f"more than max_rejected={max_rejected:g}: mend them, or allow more with "
        f"max_rejected={min(1, share + 0.005):.2f}"
        if accepted
        else "no image with a usable annotation is left: nothing to convert"
    )
    raise UserError("\n".join([problem, *lines]))


def save_rejections(rejections: Iterable[Rejection], folder: Path) -> None:
    """Write `rejected.jsonl`: a JSON object per rejection, sorted, so that runs can be compared."""
    lines = [
        json.dumps(
            {"file": r.file, "what": r.what, "reason": r.reason, "detail": r.detail},
            ensure_ascii=False,
        )
        for r in sorted(rejections)
    ]
    with replaced_when_done(folder / REJECTED_NAME) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
