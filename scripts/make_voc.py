"""Lay the export of an annotation tool out as the VOC tree that make_shards.py reads.

  python scripts/make_voc.py path/to/export data/mine
  python scripts/make_voc.py ~/Downloads/helmets.v3.voc data/helmets

Usage: make_voc.py EXPORT FOLDER. Read are Pascal VOC in any folders (LabelImg, CVAT, Roboflow,
Label Studio, labelme), COCO JSON and YOLO labels. The export is left as it is; images other than
JPEG are stored as JPEG in the new tree. Says what was changed or left out, and ends with the
command that converts the tree, its class names filled in.
"""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from vocdist.cli import run_command
from vocdist.errors import UserError
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
    for note in made.notes:
        print(note)
    for name, count in made.lists.items():
        print(f"ImageSets/Main/{name}.txt: {count:,} images")
    lists = {"train", "val"} <= made.lists.keys()
    words = [
        f"source={root}",
        f"output=shards/{root.name}",
        f"classes=[{class_list(made.classes)}]",
    ]
    words += ["split=lists"] if lists else []
    print("now: python scripts/make_shards.py", shlex.join(words))


def class_list(names: Sequence[str]) -> str:
    """Class names as YAML takes them in a list."""
    plain = re.compile(r"(?!true$|false$|null$)[^\W\d][\w -]*")
    return ",".join(
        name if plain.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in names
    )


if __name__ == "__main__":
    run_command(main, __doc__)
