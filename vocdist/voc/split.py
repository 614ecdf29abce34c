"""Which stem is in which split: by seed, or by the lists in ImageSets/Main."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.voc.pairing import without_image_suffix
from vocdist.voc.text import composed, printable, read_text_list

# In VOC's per-class lists: absent, difficult, present.
LIST_FLAGS = frozenset({"-1", "0", "1"})
# What lists are called, in any case of letters, the usual name first.
LIST_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
# Of a dataset service: one picture, augmented, under the old name and a hash each.
VERSION = re.compile(r"\.rf\.[0-9A-Za-z_-]+$")
# Lengths of train and val in VOC2007 and VOC2012.
OFFICIAL_LENGTHS = frozenset({(2501, 2510), (5717, 5823)})
OFFICIAL_STEM = re.compile(r"(20\d\d_)?\d{6}")


def seeded_split(stems: Sequence[str], ratio: float, seed: int) -> dict[str, list[str]]:
    """Split the stems by seed, the same on every machine and for any order of the input.

    The stems are sorted, then shuffled; the first `int(n * ratio)` are `train`, the rest `val`,
    both in shuffled order. Stems of one picture (see `pictures_of`) are shuffled as one and stay
    together: train then holds as many whole pictures as do not exceed its share, but one at least
    where there are several.

    Raises:
        UserError: `ratio` is not between 0 and 1.
    """
    if not 0 <= ratio <= 1:
        raise UserError(f"the split ratio is {ratio}: give a number from 0 to 1, as 0.8")
    pictures = pictures_of(stems)
    order = sorted(pictures)
    random.Random(seed).shuffle(order)
    shuffled = [stem for name in order for stem in pictures[name]]
    wanted = int(len(shuffled) * ratio)
    cut = 0
    for name in order:
        size = len(pictures[name])
        first_of_several = not cut and wanted and len(order) > 1
        if cut + size > wanted and not first_of_several:
            break
        cut += size
    return {"train": shuffled[:cut], "val": shuffled[cut:]}


def pictures_of(stems: Iterable[str]) -> dict[str, list[str]]:
    """Picture -> its stems, sorted: those whose names are equal up to `.rf.` and a hash.

    A stem without a hash is a picture of its own, under its own name.
    """
    pictures = defaultdict(list)
    for stem in sorted(stems):
        pictures[VERSION.sub(".rf.", stem)].append(stem)
    return dict(pictures)


def torn_pictures(split: Mapping[str, Sequence[str]]) -> list[str]:
    """The first stem of each picture that has copies in several splits."""
    owner = {stem: name for name, stems in split.items() for stem in stems}
    return [
        members[0]
        for members in pictures_of(owner).values()
        if len({owner[stem] for stem in members}) > 1
    ]


def read_image_set(path: Path) -> list[str]:
    """Read the stems of an image set list, in its order.

    A line is a stem, or a stem and a flag (-1, 0, 1) as in VOC's per-class lists, where every
    stem is listed whatever its flag: the flag is dropped. Blank lines do not count. UTF-16 is read
    by its byte order mark.

    Raises:
        UserError: The list is missing, empty, no text, or names a stem twice.
    """
    stems = _stems_of(read_text_list(path))
    if not stems:
        raise UserError(f"{path} lists no image: one stem a line is expected")
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise UserError(f"{path} lists {_some(twice)} more than once: list each image once")
    return stems


def list_part(file_name: str) -> str | None:
    """`train`, `val` or `test`, where a file of `ImageSets/Main` is called as a list of it."""
    stem, dot, suffix = file_name.lower().rpartition(".")
    parts = (part for part, names in LIST_NAMES.items() if stem in names)
    return next(parts, None) if dot and suffix == "txt" else None


def find_lists(root: Path) -> dict[str, Path]:
    """The lists in `ImageSets/Main` by what they are of: `train`, `val`, `test`.

    Letter case does not count, and val may be called valid or validation.

    Raises:
        UserError: There are several of one part, and none has VOC's own name.
    """
    main = root / "ImageSets" / "Main"
    found = defaultdict(list)
    for path in sorted(main.iterdir()) if main.is_dir() else ():
        if (part := list_part(path.name)) and path.is_file():
            found[part].append(path)
    lists = {}
    for part in LIST_NAMES:
        paths = found.get(part, [])
        chosen = [path for path in paths if path.name == f"{part}.txt"] or paths
        if len(chosen) > 1:
            names = " and ".join(path.name for path in chosen)
            raise UserError(f"{main} holds several lists of {part}, {names}: leave one of them")
        if chosen:
            lists[part] = chosen[0]
    return lists


def listed_split(root: Path, names: Sequence[str] = ("train", "val")) -> dict[str, list[str]]:
    """Read the list of each name in `ImageSets/Main` of a VOC root (see `find_lists`).

    A listed stem need not exist: see `resolve_lists` and `missing_stems`.

    Raises:
        UserError: As `read_image_set` and `find_lists`, or two of the lists share a stem.
    """
    lists = find_lists(root)
    main = root / "ImageSets" / "Main"
    split = {name: read_image_set(lists.get(name, main / f"{name}.txt")) for name in names}
    _check_apart(split, root)
    return split


def _check_apart(split: Mapping[str, Sequence[str]], root: Path) -> None:
    owner: dict[str, str] = {}
    for name, stems in split.items():
        shared = [stem for stem in stems if stem in owner]
        if shared:
            # Trained on and evaluated on: every figure after it would be worthless.
            raise UserError(
                f"ImageSets/Main of {root} lists {_some(shared)} in both {owner[shared[0]]} and "
                f"{name}: choose lists that do not overlap"
            )
        owner.update(dict.fromkeys(stems, name))


@dataclass(frozen=True, slots=True)
class Resolved:
    """Lists in the stems of the tree, and what was done to their lines, in words.

    `split` holds the stems of each list, a line that names nothing as it is written.
    """

    split: dict[str, list[str]]
    notes: tuple[str, ...]


def resolve_lists(
    root: Path, split: Mapping[str, Sequence[str]], stems: Collection[str]
) -> Resolved:
    """Understand lines that are file names or paths: `000.jpg`, `JPEGImages/000.jpg`, `site/000`.

    A line that is a stem of the tree is that stem. Of any other, quotes, ending and folders are
    taken off where the rest is a stem, or the folders' names and it joined by `_`. Lines that
    begin with `#` and name nothing are comments.

    Raises:
        UserError: Several lines lead to one image, as `site0/000` and `site1/000`.
    """
    there = {composed(stem): stem for stem in stems}
    meant: dict[str, str] = {}
    first: dict[str, str] = {}
    for line in (line for lines in split.values() for line in lines):
        stem = _stem_of_line(line, there)
        if stem is not None:
            meant[line] = stem
            other = first.setdefault(stem, line)
            if other != line:
                raise UserError(
                    f"ImageSets/Main of {root} lists {_some([other, line])}, and there is one "
                    f"image that both may mean, {printable(stem)}: list stems, each once"
                )
    read, notes = {}, []
    for name, lines in split.items():
        kept = [line for line in lines if line in meant or not line.startswith("#")]
        read[name] = [meant.get(line, line) for line in kept]
        changed = [line for line in kept if composed(line) != meant.get(line, composed(line))]
        if changed:
            notes.append(
                f"list of {name}: {len(changed):,} lines are no plain stems, as "
                f"{printable(changed[0])}: read as {printable(meant[changed[0]])}"
            )
    return Resolved(read, tuple(notes))


def _stem_of_line(line: str, there: Mapping[str, str]) -> str | None:
    for text in (line, line.strip("\"'")):
        parts = [part for part in re.split(r"[\\/]", composed(text)) if part not in ("", ".", "..")]
        *folders, name = parts or [""]
        bare = without_image_suffix(name)
        # Of folders' names the most first: where they are part of a stem, it was made of them.
        joined = ["_".join([*folders[i:], bare]) for i in range(len(folders))]
        for candidate in (composed(text), *joined, name, bare):
            if candidate in there:
                return there[candidate]
    return None


def are_official(split: Mapping[str, Sequence[str]]) -> bool:
    """Whether lists are VOC2007's or VOC2012's own, by their lengths and names."""
    lengths = (len(split["train"]), len(split["val"]))
    return lengths in OFFICIAL_LENGTHS and all(
        OFFICIAL_STEM.fullmatch(stem) for stems in split.values() for stem in stems
    )


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
    for line in re.split(r"\r\n?|\n", text):
        fields = line.strip().rsplit(maxsplit=1)
        # A stem may hold blanks, so only a true flag is cut off.
        flagged = len(fields) == 2 and fields[1] in LIST_FLAGS
        stem = fields[0] if flagged else line.strip()
        if stem:
            stems.append(stem)
    return stems


def _some(stems: Iterable[str]) -> str:
    listed = [printable(stem) for stem in stems]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
