"""Which stem is in which split: by seed, or by the lists in ImageSets/Main."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

# In VOC's per-class lists: absent, difficult, present.
LIST_FLAGS = frozenset({"-1", "0", "1"})


def seeded_split(stems: Sequence[str], ratio: float, seed: int) -> dict[str, list[str]]:
    """Split the stems by seed, the same on every machine and for any order of the input.

    The stems are sorted, then shuffled; the first `int(n * ratio)` are `train`, the rest `val`,
    both in shuffled order.

    Raises:
        UserError: `ratio` is not between 0 and 1.
    """
    if not 0 <= ratio <= 1:
        raise UserError(f"the split ratio is {ratio}: give a number from 0 to 1, as 0.8")
    shuffled = sorted(stems)
    random.Random(seed).shuffle(shuffled)
    cut = int(len(shuffled) * ratio)
    return {"train": shuffled[:cut], "val": shuffled[cut:]}


def read_image_set(path: Path) -> list[str]:
    """Read the stems of an image set list, in its order.

    A line is a stem, or a stem and a flag (-1, 0, 1) as in VOC's per-class lists, where every
    stem is listed whatever its flag: the flag is dropped. Blank lines do not count.

    Raises:
        UserError: The list is missing, empty, or names a stem twice.
    """
    try:
        # surrogateescape: file names that are not UTF-8 pass through, as they do in os.listdir.
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    stems = _stems_of(text)
    if not stems:
        raise UserError(f"{path} lists no image: one stem a line is expected")
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {_some(twice)} more than once: list each image once")
    return stems


def listed_split(root: Path, names: Sequence[str] = ("train", "val")) -> dict[str, list[str]]:
    """Read `ImageSets/Main/<name>.txt` of a VOC root for each name.

    A listed stem need not exist: see `missing_stems`.

    Raises:
        UserError: As `read_image_set`, or two of the lists share a stem.
    """
    split: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for name in names:
        split[name] = read_image_set(root / "ImageSets" / "Main" / f"{name}.txt")
        shared = [stem for stem in split[name] if stem in owner]
        if shared:
            # Trained on and evaluated on: every figure after it would be worthless.
            raise UserError(
                f"ImageSets/Main of {root} lists {_some(shared)} in both {owner[shared[0]]} and "
                f"{name}: choose lists that do not overlap"
            )
        owner.update(dict.fromkeys(split[name], name))
    return split


def missing_stems(
    split: Mapping[str, Sequence[str]], present: Collection[str]
) -> dict[str, list[str]]:
    """Per split, the stems that are listed but not present, in the order of the list."""
    there = set(present)
    return {name: [stem for stem in stems if stem not in there] for name, stems in split.items()}


def write_image_sets(
    folder: Path, split: Mapping[str, Sequence[str]], *, overwrite: bool = False
) -> None:
    """Write `ImageSets/Main/<name>.txt` under `folder`, each complete or not at all.

    Raises:
        UserError: A stem would not read back as it is, or a list with other content is there
            and `overwrite` is not set: a VOC root brings its official lists under these names.
    """
    main = folder / "ImageSets" / "Main"
    contents: dict[Path, bytes] = {}
    for name, stems in split.items():
        unwritable = [stem for stem in stems if _stems_of(stem) != [stem]]
        if unwritable:
            raise UserError(
                f"an image set cannot hold the name {unwritable[0]!r} (a line break, an outer "
                "blank, or a blank and a flag at its end): rename the file"
            )
        path = main / f"{name}.txt"
        lines = "".join(f"{stem}\n" for stem in stems)
        contents[path] = lines.encode("utf-8", "surrogateescape")
        if not overwrite and path.exists() and path.read_bytes() != contents[path]:
            raise UserError(f"{path} exists with other content: move it, or write elsewhere")
    main.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        with replaced_when_done(path) as temporary:
            temporary.write_bytes(content)


def _stems_of(text: str) -> list[str]:
    stems = []
    for line in text.split("\n"):
        fields = line.strip().rsplit(maxsplit=1)
        # A stem may hold blanks, so only a true flag is cut off.
        flagged = len(fields) == 2 and fields[1] in LIST_FLAGS
        stem = fields[0] if flagged else line.strip()
        if stem:
            stems.append(stem)
    return stems


def _some(stems: Iterable[str]) -> str:
    listed = list(stems)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
