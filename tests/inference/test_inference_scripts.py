import csv
import json
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from forked import run_script
from launch import REPO
from PIL import Image
from pycocotools.coco import COCO

from vocdist import Classifier, RegionProposalNetwork
from vocdist.cli import split_places
from vocdist.inference.predict import Prediction
from vocdist.inference.writing import write_predictions_csv
from vocdist.shards.reader import ShardReader


@pytest.fixture(scope="module")
def photos(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photograph as a JPEG, as a grey PNG, in CMYK, turned by EXIF; and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "plain.jpg").write_bytes(ShardReader(demo_shards, "val").read(0).jpeg)
    with Image.open(folder / "plain.jpg") as image:
        image.convert("L").save(folder / "grey.png")
        image.convert("CMYK").save(folder / "printers.tiff")
        (folder / "below").mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "below" / "plain.jpg", exif=exif, quality=95)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    return folder


def test_predict_writes_json_csv_and_pictures(
    classifier_run: Path, photos: Path, tmp_path: Path
) -> None:
    output, listed = tmp_path / "out", tmp_path / "list.txt"
    listed.write_text(f"gone.jpg\n{photos}\n", encoding="utf-16")
    done = run_script(
        "predict.py", str(classifier_run), str(listed), f"output={output}", "threshold=0.1"
    )
    # What could be read is written all the same.
    assert done.returncode == 1
    assert "cannot be read: 2\n" in done.stderr and "broken.jpg" in done.stderr
    assert f"  gone.jpg: {listed}, line 1: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    content = json.loads((output / "predictions.json").read_text())
    expected = Classifier.load(classifier_run).predict(sorted(photos.rglob("*.[pt]*")))
    names = [str(photos / name) for name in ("below/plain.jpg", "grey.png", "plain.jpg")]
    assert [row["file"] for row in content["images"]] == [*names, str(photos / "printers.tiff")]
    unreadable = [bad["file"] for bad in content["unreadable"]]
    assert unreadable == ["gone.jpg", str(photos / "broken.jpg")]
    by_file = {prediction.name: prediction.scores for prediction in expected}
    for row in content["images"]:
        if row["file"] in by_file:
            assert row["scores"] == pytest.approx(by_file[row["file"]], abs=1e-5)
        assert row["present"] == [name for name, score in row["scores"].items() if score >= 0.1]
    with (output / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, same in zip(rows, content["images"], strict=True):
        assert (row["file"], row["present"]) == (same["file"], ";".join(same["present"]))
        assert float(row["person"]) == pytest.approx(same["scores"]["person"], abs=1e-6)
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == ["grey.jpg", "plain-2.jpg", "plain.jpg", "printers.jpg"]


def test_a_name_that_is_no_utf_8_is_escaped_in_csv(tmp_path: Path) -> None:
    odd = Prediction(os.fsdecode(b"\xe9.png"), {"person": 0.5}, ())
    write_predictions_csv(tmp_path / "a.csv", [odd], ["person"])
    assert r"\udce9.png,,0.500000" in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_propose_writes_results_that_pycocotools_reads(
    rpn_run: Path, photos: Path, tmp_path: Path
) -> None:
    files = [str(photos / "plain.jpg"), str(photos / "*.png")]
    arguments = [f"output={tmp_path}", "count=7", "pictures=1", "workers=0"]
    done = run_script("propose.py", str(rpn_run / "model.safetensors"), *files, *arguments)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["plain.jpg"]
    truth = COCO(str(tmp_path / "images.json"))
    results = truth.loadRes(str(tmp_path / "proposals.json"))
    expected = RegionProposalNetwork.load(rpn_run).propose(photos / "plain.jpg", count=7)[0]
    assert truth.imgs[1]["file_name"] == str(photos / "plain.jpg")
    assert (truth.imgs[1]["height"], truth.imgs[1]["width"]) == expected.size_hw
    found = [results.anns[i] for i in results.getAnnIds(imgIds=[1])]
    boxes = np.array([row["bbox"] for row in found])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, expected.boxes, atol=0.02)
    np.testing.assert_allclose([row["score"] for row in found], expected.scores, atol=1e-5)


def test_a_mistake_ends_in_one_line(classifier_run: Path) -> None:
    done = run_script("predict.py", str(classifier_run), ".", "thresold=0.5")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "did you mean 'threshold'?" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_may_have_an_equals_sign(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.jpg"
    odd.touch()
    assert split_places(["run", str(odd), "batch=3"]) == (["run", str(odd)], ["batch=3"])


def test_an_output_that_cannot_be_made_is_refused_before_the_work(
    classifier_run: Path, rpn_run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = photos / "plain.jpg" / "out"
    monkeypatch.setattr(Classifier, "predict_each", lambda *_, **__: pytest.fail("it began"))
    monkeypatch.setattr(
        RegionProposalNetwork, "propose_each", lambda *_, **__: pytest.fail("it began")
    )
    for script, run in (("predict.py", classifier_run), ("propose.py", rpn_run)):
        main = runpy.run_path(str(REPO / "scripts" / script))["main"]
        with pytest.raises(NotADirectoryError):
            main([str(run), str(photos), f"output={taken}", "device=cpu"])
