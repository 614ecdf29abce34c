"""The classes of Pascal VOC, and how a class name is spelled inside vocdist."""

from collections.abc import Sequence

from vocdist.errors import UserError

VOC_CLASSES: tuple[str, ...] = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def normalise_name(text: str) -> str:
    """Strip and lowercase a class name, so that `" Dog"` in an XML is the class `dog`."""
    return text.strip().lower()


def class_ids(class_names: Sequence[str]) -> dict[str, int]:
    """Number the classes in the order given: normalised name -> id in `range(C)`.

    Raises:
        UserError: A name is blank, or two names are the same once normalised.
    """
    ids: dict[str, int] = {}
    for name in class_names:
        normalised = normalise_name(name)
        if not normalised:
            raise UserError(f"class {len(ids)} has a blank name: give each class a name")
        if normalised in ids:
            raise UserError(
                f"class {normalised!r} is listed twice (case and outer blanks do not count): "
                "list each class once"
            )
        ids[normalised] = len(ids)
    return ids
