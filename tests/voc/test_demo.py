import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from demo_data import write_demo_dataset
from demo_data.pen import Pen
from demo_data.scene import SHAPES, DemoScene, compose_scene
from PIL import Image

from vocdist.errors import UserError
from vocdist.voc.classes import VOC_CLASSES

IMAGES = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "voc"
    assert write_demo_dataset(folder, images=IMAGES, seed=3)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[DemoScene]:
    return [compose_scene(seed=3, index=index) for index in range(IMAGES)]


def file_bytes(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_every_picture_has_an_annotation_that_names_it(root: Path) -> None:
    stems = [f"demo_{index:06d}" for index in range(IMAGES)]
    assert sorted(path.name for path in root.glob("JPEGImages/*")) == [f"{s}.jpg" for s in stems]
    assert sorted(path.name for path in root.glob("Annotations/*")) == [f"{s}.xml" for s in stems]
    assert (root / "ImageSets/Main/trainval.txt").read_text().split() == stems
    for stem in stems:
        xml = ElementTree.parse(root / f"Annotations/{stem}.xml").getroot()
        assert xml.findtext("filename") == f"{stem}.jpg"
        with Image.open(root / f"JPEGImages/{stem}.jpg") as image:
            size = (xml.findtext("size/width"), xml.findtext("size/height"))
            assert size == (str(image.width), str(image.height))


def test_xml_has_the_voc_schema(root: Path) -> None:
    xml = ElementTree.parse(root / "Annotations/demo_000000.xml").getroot()
    fields = [child.tag for child in xml]
    assert fields[:5] == ["folder", "filename", "source", "size", "segmented"]
    assert set(fields[5:]) == {"object"}
    assert xml.findtext("size/depth") == "3"
    for item in xml.iter("object"):
        parts = {child.tag: child.text for child in item}
        assert set(parts) == {"name", "pose", "truncated", "occluded", "bndbox", "difficult"}
        assert parts["name"] in VOC_CLASSES
        assert {parts["truncated"], parts["occluded"], parts["difficult"]} <= {"0", "1"}


def test_xml_boxes_count_pixels_from_one_to_the_last_inside(
    root: Path, scenes: list[DemoScene]
) -> None:
    for index, scene in enumerate(scenes):
        xml = ElementTree.parse(root / f"Annotations/demo_{index:06d}.xml").getroot()
        for element, item in zip(xml.iter("object"), scene.objects, strict=True):
            corners = [
                int(element.findtext(f"bndbox/{tag}", ""))
                for tag in ("xmin", "ymin", "xmax", "ymax")
            ]
            left, top, right, bottom = item.box
            assert corners == [left + 1, top + 1, right, bottom]


def test_boxes_lie_inside_the_picture(scenes: list[DemoScene]) -> None:
    for scene in scenes:
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert 0 <= left < right <= scene.image.width
            assert 0 <= top < bottom <= scene.image.height


def test_the_set_has_all_classes_flags_and_orientations(scenes: list[DemoScene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    counts = Counter(item.name for item in objects)
    assert set(counts) == set(VOC_CLASSES)
    assert counts.most_common(1)[0][0] == "person"
    for flag in ("truncated", "occluded", "difficult"):
        assert 0 < sum(getattr(item, flag) for item in objects) < len(objects) / 2
    assert {scene.image.width > scene.image.height for scene in scenes} == {True, False}
    assert max(len(scene.objects) for scene in scenes) >= 4


def test_the_first_object_of_a_picture_is_the_class_of_its_index(scenes: list[DemoScene]) -> None:
    leads = [scene.objects[0].name for scene in scenes]
    assert leads == [VOC_CLASSES[index % 20] for index in range(IMAGES)]


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_demo_dataset(tmp_path / name, images=6, seed=3)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")


def test_a_picture_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    write_demo_dataset(tmp_path / "few", images=4, seed=3)
    few, many = file_bytes(tmp_path / "few"), file_bytes(root)
    pictures = {name for name in few if name.startswith(("JPEGImages", "Annotations"))}
    assert len(pictures) == 8
    assert all(few[name] == many[name] for name in pictures)


def test_another_seed_gives_other_pictures() -> None:
    first, second = (compose_scene(seed=seed, index=0).image.tobytes() for seed in (0, 1))
    assert first != second


def test_every_class_has_a_drawing_that_fills_its_sheet() -> None:
    assert set(SHAPES) == set(VOC_CLASSES)
    for shape in SHAPES.values():
        pen = Pen((2 * shape.width, 200), shape.width, np.random.default_rng(0))
        shape.draw(pen)
        width, height = pen.finish(0, mirrored=False).size
        assert 0.7 * 2 * shape.width < width <= 2 * shape.width
        assert 0.7 * 200 < height <= 200


def test_a_complete_data_set_is_reused(tmp_path: Path) -> None:
    assert write_demo_dataset(tmp_path / "voc", images=2, seed=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "voc").rglob("*")}
    assert not write_demo_dataset(tmp_path / "voc", images=2, seed=0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "voc").rglob("*")} == before


@pytest.mark.parametrize(("images", "seed"), [(3, 0), (2, 1)])
def test_a_data_set_of_other_parameters_is_not_overwritten(
    tmp_path: Path, images: int, seed: int
) -> None:
    write_demo_dataset(tmp_path, images=2, seed=0)
    before = file_bytes(tmp_path)
    with pytest.raises(UserError, match="delete it or name another folder"):
        write_demo_dataset(tmp_path, images=images, seed=seed)
    assert file_bytes(tmp_path) == before


def test_a_data_set_with_a_picture_gone_is_not_taken_for_complete(tmp_path: Path) -> None:
    write_demo_dataset(tmp_path, images=2, seed=0)
    (tmp_path / "JPEGImages/demo_000001.jpg").unlink()
    with pytest.raises(UserError, match="delete it"):
        write_demo_dataset(tmp_path, images=2, seed=0)


@pytest.mark.parametrize("recipe", ["not json", json.dumps(["images", 2]), b"\xff\xfe"])
def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, recipe: str | bytes) -> None:
    (tmp_path / "demo.json").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    before = file_bytes(tmp_path)
    with pytest.raises(UserError, match=str(tmp_path)):
        write_demo_dataset(tmp_path, images=2, seed=0)
    assert file_bytes(tmp_path) == before


def test_a_stopped_run_leaves_nothing_and_the_next_one_completes(tmp_path: Path) -> None:
    def stop_after_two(indices: Iterable[int]) -> Iterator[int]:
        for index in indices:
            if index == 2:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        write_demo_dataset(tmp_path / "voc", images=4, seed=0, track=stop_after_two)
    assert list(tmp_path.iterdir()) == []
    assert write_demo_dataset(tmp_path / "voc", images=4, seed=0)


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images=0"):
        write_demo_dataset(tmp_path / "voc", images=0, seed=0)
