"""Lay the export of LabelImg, CVAT or Roboflow out as the VOC tree that make_shards.py reads.

  python scripts/make_voc.py path/to/export data/mine
  python scripts/make_voc.py ~/Downloads/helmets.v3.voc data/helmets

Usage: make_voc.py EXPORT FOLDER. The export is left as it is; images other than JPEG are stored as
JPEG in the new tree. Ends with the command that converts it, its class names filled in.
"""

import json
import re
import shlex
from collections import Counter
from pathlib import Path

from vocdist.cli import run_command
from vocdist.errors import UserError
from vocdist.voc.annotation import AnnotationError, parse_annotation
from vocdist.voc.arrange import arrange


def main(arguments: list[str]) -> None:
    """Arrange, then say what to do next."""
    if len(arguments) != 2:
        raise UserError(
            "give two folders, the export and the one to make: make_voc.py EXPORT FOLDER"
        )
    export, root = (Path(argument).expanduser() for argument in arguments)
    if not export.is_dir():
        raise UserError(f"{export} is not a folder: unpack the export and pass its folder")
    made = arrange(export, root)
    print(f"{root}: {made.images:,} images, {made.annotations:,} annotations")
    if made.reencoded:
        print(f"stored anew as JPEG: {made.reencoded:,} images")
    for name, count in made.lists.items():
        print(f"ImageSets/Main/{name}.txt: {count:,} images")
    lists = {"train", "val"} <= made.lists.keys()
    words = [f"source={root}", f"output=shards/{root.name}", f"classes=[{class_names(root)}]"]
    words += ["split=lists"] if lists else []
    print("now: python scripts/make_shards.py", shlex.join(words))


def class_names(root: Path) -> str:
    """The names of all objects, in the order of the alphabet, as YAML takes them in a list."""
    names: Counter[str] = Counter()
    for path in sorted((root / "Annotations").iterdir()):
        try:
            names.update(item.name for item in parse_annotation(path).objects)
        except AnnotationError:
            continue  # the conversion says so
    plain = re.compile(r"(?!true$|false$|null$)[^\W\d][\w -]*")
    return ",".join(
        name if plain.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        for name in sorted(names)
    )


if __name__ == "__main__":
    run_command(main, __doc__)
