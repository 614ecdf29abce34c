"""Draw the demo data set: a VOC folder of simple pictures, for trying everything out.

  python scripts/make_demo_data.py
  python scripts/make_demo_data.py data/demo images=1200 seed=0

Usage: make_demo_data.py [FOLDER] [images=N] [seed=N]; the folder is data/demo by default. A folder
that already holds this very data set is left as it is.
"""

from functools import partial
from pathlib import Path

from demo_data import write_demo_dataset
from tqdm import tqdm

from vocdist.cli import run_command, split_arguments
from vocdist.errors import UserError

DEFAULTS = {"images": 1200, "seed": 0}


def main(arguments: list[str]) -> None:
    """Write the data set, or find it there, and say which."""
    folder, overrides = split_arguments(arguments)
    root, values = Path(folder or "data/demo"), dict(DEFAULTS)
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in values or not value.isdecimal():
            raise UserError(f"{override!r}: give images=N or seed=N, with N a whole number")
        values[key] = int(value)
    bar = partial(tqdm, desc="drawing", unit="img", disable=None)
    written = write_demo_dataset(root, images=values["images"], seed=values["seed"], track=bar)
    print(f"{root}: {values['images']} drawn pictures {'written' if written else 'already there'}")


if __name__ == "__main__":
    run_command(main, __doc__)
