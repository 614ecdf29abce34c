"""From a VOC root to the samples of each split, with everything that was left out accounted for."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.shards.engine import run_tasks
from vocdist.shards.inspect import Inspected, Inspection, inspect_pairs
from vocdist.shards.plan import PlannedSample
from vocdist.shards.rejections import Rejection, check_share, shown_path, stop_if_strict
from vocdist.shards.shrink import Shrink
from vocdist.voc.classes import class_ids
from vocdist.voc.pairing import FilePair, LeftOut, match_files
from vocdist.voc.split import listed_split, missing_stems, seeded_split

# Large enough that handing over costs nothing, small enough for an even load.
PAIRS_PER_TASK = 64


@dataclass(frozen=True)
class SplitSamples:
    """What a VOC root gives.

    Attributes:
        images: The folder that holds the image files.
        shrink: How their images are to be made smaller, if they are.
        splits: Split name -> its samples, in order.
        rejections: Files that became no sample, boxes left out or clipped, with the reason.
        unlisted: Usable samples that no split list names.
        unknown_objects: Boxes of classes outside the list, by name.
        difficult: Boxes left out because they are flagged difficult.
    """

    images: Path
    shrink: Shrink | None
    splits: Mapping[str, Sequence[PlannedSample]]
    rejections: Sequence[Rejection]
    unlisted: int
    unknown_objects: Mapping[str, int]
    difficult: int

    def left_out_counts(self) -> dict[str, int]:
        """Reason -> number of files."""
        counts = Counter(item.reason for item in self.rejections if item.what == "file")
        counts["not_in_a_list"] += self.unlisted
        return {reason: count for reason, count in sorted(counts.items()) if count}

    def box_counts(self) -> dict[str, int]:
        """Reason -> number of boxes that were left out."""
        counts = Counter(item.reason for item in self.rejections if item.what == "box")
        counts["difficult"] += self.difficult
        return {reason: count for reason, count in sorted(counts.items()) if count}

    @property
    def clipped(self) -> int:
        """Number of boxes that were cut to their image."""
        return sum(item.what == "clipped_box" for item in self.rejections)


def samples_of(
    root: Path,
    classes: Sequence[str],
    *,
    split_lists: bool,
    split_ratio: float,
    split_seed: int,
    skip_difficult: bool,
    shrink: Shrink | None = None,
    follow_links: bool = False,
    decode: bool = True,
    strict: bool = False,
    max_rejected: float = 0.1,
    workers: int = 1,
    engine: str = "loky",
) -> SplitSamples:
    """Pair, read, check and split a VOC root; every annotation and image is looked at.

    The settings are those of `ShardsConfig`; the result does not depend on `workers`.

    Raises:
        UserError: Too little is usable, or, if `strict`, the first thing that is wrong.
    """
    inspection = Inspection(root, class_ids(classes), skip_difficult, shrink, decode)
    pairs, left_out = match_files(root, follow_links=follow_links)
    collected = _Collected(strict)
    collected.reject(_of_files(left_out, root))
    for found in _inspect_all(pairs, inspection, workers, engine):
        collected.add(found)
    planned = collected.planned
    _check_classes(collected)
    if split_lists:
        stems = listed_split(root)
        collected.reject(_listed_in_vain(stems, planned, collected.refused))
    else:
        stems = seeded_split(list(planned), split_ratio, split_seed)
    splits = {
        split: [planned[stem] for stem in members if stem in planned]
        for split, members in stems.items()
    }
    used = sum(len(members) for members in splits.values())
    check_share(collected.rejections, used, max_rejected)
    return SplitSamples(
        images=root / "JPEGImages",
        shrink=shrink,
        splits=splits,
        rejections=collected.rejections,
        unlisted=len(planned) - used,
        unknown_objects=dict(sorted(collected.unknown.items())),
        difficult=collected.difficult,
    )


class _Collected:
    """The results of the inspection as they come in, in the order of the stems."""

    def __init__(self, strict: bool) -> None:
        self.planned: dict[str, PlannedSample] = {}
        self.refused: set[str] = set()
        self.rejections: list[Rejection] = []
        self.unknown: Counter[str] = Counter()
        self.difficult = 0
        self._strict = strict
        self._stem_of_key: dict[str, str] = {}

    def add(self, found: Inspected) -> None:
        """Take a result in; one whose key is taken is refused."""
        self.reject(found.rejections)
        if found.sample is None:
            self.refused.add(found.stem)
            return
        owner = self._stem_of_key.setdefault(found.sample.key, found.stem)
        if owner != found.stem:
            self.refused.add(found.stem)
            file = f"JPEGImages/{found.sample.image_name}"
            detail = f"its key '{found.sample.key}' is taken by the image of {owner}.xml: rename it"
            self.reject([Rejection(file, "file", "duplicate_key", detail)])
            return
        if self._strict and found.unknown:
            name = next(iter(found.unknown))
            raise UserError(
                f"Annotations/{found.stem}.xml: an object of class '{name}', which is not in "
                f"classes: add it, or set strict=false, which counts such objects and goes on"
            )
        self.planned[found.stem] = found.sample
        self.unknown += found.unknown
        self.difficult += found.difficult

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Note what was left out; if strict, stop at the first."""
        for item in rejections:
            if self._strict:
                stop_if_strict([item])
            self.rejections.append(item)


def _check_classes(collected: _Collected) -> None:
    """Stop where no object at all is of the classes: every image would be one of nothing."""
    known = any(sample.record.find(b'"boxes":[]') < 0 for sample in collected.planned.values())
    if known or not collected.unknown:
        return
    found = ", ".join(f"{name} ({count:,})" for name, count in collected.unknown.most_common(20))
    raise UserError(
        f"no object is of the given classes; the data set has {found}: pass them, as "
        f"classes=[{','.join(sorted(collected.unknown)[:20])}]"
    )


def _of_files(left_out: Sequence[LeftOut], root: Path) -> Iterator[Rejection]:
    for item in sorted(left_out, key=lambda item: item.path):
        yield Rejection(shown_path(item.path, root), "file", item.reason, item.detail)


def _inspect_all(
    pairs: Sequence[FilePair], inspection: Inspection, workers: int, engine: str
) -> Iterator[Inspected]:
    tasks = [
        (pairs[start : start + PAIRS_PER_TASK], inspection)
        for start in range(0, len(pairs), PAIRS_PER_TASK)
    ]
    workers = min(workers, max(1, len(tasks)))
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=len(pairs), desc="check", unit="img", disable=None) as bar:
        for results in run_tasks(inspect_pairs, tasks, workers=workers, engine=engine):
            yield from results
            bar.update(len(results))


def _listed_in_vain(
    stems: Mapping[str, Sequence[str]], planned: Mapping[str, object], refused: set[str]
) -> list[Rejection]:
    """Stems that a list names and no file has; those refused for a fault are reported already."""
    return [
        Rejection(
            f"ImageSets/Main/{split}.txt",
            "file",
            "listed_in_vain",
            f"lists {stem}, which has no image with an annotation",
        )
        for split, names in missing_stems(stems, {**planned, **dict.fromkeys(refused)}).items()
        for stem in names
    ]
