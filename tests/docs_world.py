"""A copy of the repository in which the commands of the documentation run as they are written.

What makes them quick is here alone: the configs' sizes, the number of images that are drawn, and
data under the names that the pages use.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from demo_data import write_demo_dataset
from launch import environment
from PIL import Image

REPO = Path(__file__).parents[1]
COPIED = ("benchmarks", "configs", "docs", "examples", "scripts", "vocdist")
SINGLE_FILES = ("Makefile", "README.md", "constraints.txt", "mkdocs.yml", "pyproject.toml")

# Put over the settings of each config that has such a section.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "data": {"num_workers": 0},
    "train": {"epochs": 1, "global_batch": 8, "log_every": 2},
    "tracking": {"wandb": "disabled"},
}
SMALL_CLASSIFIER = {"model": {"weights": "none"}, "input": {"size": 64, "eval_view": "squeezed"}}
SMALL_RPN = {
    "model": {"strides": [16], "scales": [[16, 32]], "weights": "none"},
    "input": {"short_side": 64, "long_side": 128, "pad_multiple": 32},
}
IMAGES = 40
# Of the data set that a page's reader brings along; the demo's classes are called so.
OWN_CLASSES = ("helmet", "person", "vest")


def build_world(root: Path) -> None:
    """Make the copy, with small configs and an environment, and the data and runs that pages name.

    `shards/voc2012`, the runs `classifier`, `rpn`, `first` and `second`, `model.safetensors`,
    `photos/` and `photo.jpg`, and `exports/helmets`, which is the export of an annotation tool.
    """
    for name in COPIED:
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SINGLE_FILES:
        shutil.copy(REPO / name, root)
    for path in root.glob("configs/**/*.yaml"):
        make_small(path)
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert "images=1200" in makefile
    (root / "Makefile").write_text(
        makefile.replace("images=1200", f"images={IMAGES}"), encoding="utf-8"
    )
    make_environment(root / ".venv")
    write_demo_dataset(root / "data/drawn", images=IMAGES, seed=1)
    make_photos(root / "data/drawn", root / "photos")
    make_export(root / "data/drawn", root / "exports/helmets")
    run(root, "python scripts/make_shards.py source=data/drawn pictures=false")
    run(root, "accelerate launch scripts/train_classifier.py")
    run(root, "accelerate launch scripts/train_rpn.py")
    for name in ("first", "second"):
        shutil.copytree(root / "runs/classifier", root / "runs" / name)
    shutil.copy(root / "runs/classifier/model.safetensors", root)
    shutil.copy(root / "photos/a.jpg", root / "photo.jpg")


def make_small(path: Path) -> None:
    """Put the small settings over those of a training's config; leave other files alone."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "optim" not in values:
        return
    for small in (SMALL, SMALL_RPN if "matching" in values else SMALL_CLASSIFIER):
        for section, settings in small.items():
            values[section] |= settings
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def make_environment(folder: Path) -> None:
    """A `.venv` that is this interpreter's, and that `make` takes for installed."""
    folder.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".installed":
            (folder / entry.name).symlink_to(entry)
    (folder / ".installed").touch()


def make_photos(voc: Path, folder: Path) -> None:
    """A few images of two formats."""
    folder.mkdir()
    for number, path in enumerate(sorted((voc / "JPEGImages").iterdir())[:4]):
        with Image.open(path) as image:
            image.save(folder / f"{'abcd'[number]}.{'png' if number == 3 else 'jpg'}")


def make_export(voc: Path, folder: Path) -> None:
    """Images and XML side by side in folders train and valid, of the reader's own classes."""
    names: dict[str, str] = {}
    for number, xml in enumerate(sorted((voc / "Annotations").iterdir())):
        part = folder / ("valid" if number % 4 == 0 else "train")
        part.mkdir(parents=True, exist_ok=True)
        text = xml.read_text(encoding="utf-8")
        head, *objects = text.split("<object>")
        for place, item in enumerate(objects):
            before, _, rest = item.partition("<name>")
            name, _, after = rest.partition("</name>")
            own = names.setdefault(name, OWN_CLASSES[len(names) % len(OWN_CLASSES)])
            objects[place] = f"{before}<name>{own}</name>{after}"
        (part / xml.name).write_text("<object>".join([head, *objects]), encoding="utf-8")
        shutil.copy(voc / "JPEGImages" / f"{xml.stem}.jpg", part)


def run(root: Path, block: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a block of the shell as a reader would, at the root of the repository; its output."""
    bin_folder = root / ".venv/bin"
    env = environment() | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        # No settings of whoever runs the tests, and no GPU: they would change what is launched.
        "HF_HOME": str(root / ".home"),
        "VOCDIST_CACHE": str(root / ".cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=root,
        env=env | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{block}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout
