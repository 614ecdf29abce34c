"""From a VOC root to the samples of each split, with everything that was left out accounted for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vocdist.errors import UserError
from vocdist.shards.plan import PlannedSample, sample_key
from vocdist.voc.annotation import box_rows, unknown_names, without_difficult
from vocdist.voc.classes import class_ids
from vocdist.voc.pairing import LeftOut, VocSample, pair_samples
from vocdist.voc.split import listed_split, missing_stems, seeded_split


@dataclass(frozen=True)
class SplitSamples:
    """What a VOC root gives.

    Attributes:
        splits: Split name -> its samples, in order.
        left_out: Files that became no sample, with the reason.
        unlisted: Eligible samples that no split list names.
        unknown_objects: Boxes of classes outside the list, by name.
    """

    splits: Mapping[str, Sequence[PlannedSample]]
    left_out: Sequence[LeftOut]
    unlisted: int
    unknown_objects: Mapping[str, int]

    def left_out_counts(self) -> dict[str, int]:
        """Reason -> number of files."""
        counts = Counter(item.reason for item in self.left_out)
        counts["not_in_a_list"] += self.unlisted
        return {reason: count for reason, count in sorted(counts.items()) if count}


def samples_of(
    root: Path,
    classes: Sequence[str],
    *,
    split_lists: bool,
    split_ratio: float,
    split_seed: int,
    skip_difficult: bool,
) -> SplitSamples:
    """Parse, pair and split a VOC root.

    With `split_lists` the stems of `ImageSets/Main/{train,val}.txt` are used, otherwise the
    eligible samples are shuffled by `split_seed` and cut at `split_ratio`.

    Raises:
        UserError: Nothing is eligible, or a list names images that are not.
    """
    pairing = pair_samples(root)
    left_out = list(pairing.left_out)
    ids = class_ids(classes)
    planned: dict[str, PlannedSample] = {}
    unknown: Counter[str] = Counter()
    for sample in pairing.samples:
        try:
            width, height = _stored_size(sample.image)
        except OSError as error:
            left_out.append(LeftOut(sample.image, "unreadable_image", str(error)))
            continue
        planned[sample.stem] = _plan_sample(sample, (width, height), ids, skip_difficult)
        unknown += unknown_names(sample.annotation.objects, ids)
    if not planned:
        raise UserError(
            f"{root}: none of its annotations has an image and an object: nothing to convert"
        )
    stems = (
        _listed_stems(root, planned)
        if split_lists
        else seeded_split(list(planned), split_ratio, split_seed)
    )
    splits = {split: [planned[stem] for stem in members] for split, members in stems.items()}
    unlisted = len(planned) - sum(len(members) for members in splits.values())
    return SplitSamples(splits, left_out, unlisted, unknown)


def _stored_size(image: Path) -> tuple[int, int]:
    """(width, height) from the file's header, pixels."""
    try:
        with Image.open(image) as opened:
            if opened.format != "JPEG":
                raise OSError(f"a {opened.format} file, not a JPEG")
            return opened.size
    except UnidentifiedImageError:
        raise OSError("not an image") from None


def _plan_sample(
    sample: VocSample, size: tuple[int, int], ids: Mapping[str, int], skip_difficult: bool
) -> PlannedSample:
    objects = [item for item in sample.annotation.objects if item.name in ids]
    if skip_difficult:
        objects = list(without_difficult(objects))
    key = sample_key(sample.stem)
    record = {
        "key": key,
        "filename": sample.image.name,
        "width": size[0],
        "height": size[1],
        "boxes": box_rows(objects, ids).tolist(),
        "names": [item.name for item in objects],
        "difficult": [int(item.difficult) for item in objects],
        "truncated": [int(item.truncated) for item in objects],
    }
    return PlannedSample(key, sample.image, record)


def _listed_stems(root: Path, planned: Mapping[str, PlannedSample]) -> dict[str, list[str]]:
    stems = listed_split(root)
    missing = {split: names for split, names in missing_stems(stems, planned).items() if names}
    if missing:
        split, names = next(iter(missing.items()))
        raise UserError(
            f"{root}/ImageSets/Main/{split}.txt lists {names[0]} ({len(names)} such stems), which "
            f"has no usable image and annotation: mend the list or use split=seeded"
        )
    return stems
