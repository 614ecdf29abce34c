import json
from importlib import util
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from forked import run_script
from safetensors import safe_open
from torchvision.ops import nms

from vocdist import Classifier, RegionProposalNetwork, UserError
from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.inference import export as exporting
from vocdist.inference.export import (
    check,
    example_size,
    export_graph,
    export_program,
    metadata_of,
    model_card,
    program_difference,
    save_program,
)
from vocdist.inference.images import input_batches
from vocdist.inference.trained import load_trained
from vocdist.runs.folder import load_results
from vocdist.tasks.rpn_card import rpn_card


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return [np.kron(smooth, np.ones((16, 16, 1), np.uint8)), smooth.repeat(20, 0).repeat(9, 1)]


@pytest.mark.slow
def test_a_classifier_becomes_files_that_say_the_same(
    classifier_run: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    done = run_script("export.py", str(classifier_run), f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    names = {"README.md", "model.safetensors", "model.onnx", "model.pt2"}
    assert {path.name for path in tmp_path.iterdir()} == names
    original = Classifier.load(classifier_run, device="cpu")
    again = Classifier.load(tmp_path / "model.safetensors", device="cpu")
    expected = original.predict(images)
    assert again.predict(images) == expected
    model = onnx.load(tmp_path / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert tuple(json.loads(metadata["classes"])) == original.classes
    assert "normalising is inside" in metadata["preprocessing"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for inputs in input_batches(images, original.trained.view, batch=8):
        assert inputs.batch is not None
        (scores,) = session.run(None, {"images": inputs.batch.images.numpy()})
        for index, row in zip(inputs.batch.indices.tolist(), scores, strict=True):
            ours = dict(zip(original.classes, row.tolist(), strict=True))
            assert ours == pytest.approx(expected[index].scores, abs=1e-4)


@pytest.mark.slow
def test_an_rpn_in_onnx_proposes_what_it_proposes_here(
    rpn_run: Path, images: list[np.ndarray], tmp_path: Path
) -> None:
    done = run_script("export.py", str(rpn_run), f"output={tmp_path}", "formats=[onnx]")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "model.onnx"}
    original = RegionProposalNetwork.load(rpn_run, device="cpu")
    expected = original.propose(images, count=300)
    rule = original.trained.config.proposals
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    # As the model card says.
    for inputs in input_batches(images, original.trained.view, batch=1):
        assert inputs.batch is not None
        sizes = inputs.batch.targets["image_size"]
        feeds = {"images": inputs.batch.images.numpy(), "image_sizes": sizes.numpy()}
        boxes, scores = (torch.from_numpy(output[0]) for output in session.run(None, feeds))
        best = scores.argsort(descending=True)[: rule.pre_nms_top_k]
        boxes, scores = boxes[best], scores[best]
        large = ((boxes[:, 2:] - boxes[:, :2]) >= rule.min_size).all(dim=1) & (scores > 0)
        boxes, scores = boxes[large], scores[large]
        kept = nms(boxes, scores, rule.nms_threshold)
        scale = (inputs.batch.targets["stored_size"] / sizes)[0].flip(0).repeat(2)
        theirs = expected[int(inputs.batch.indices)]
        np.testing.assert_allclose(scores[kept], theirs.scores, atol=1e-4)
        # Scores of a hardly trained model nearly tie, so boxes may come in another order.
        distance = torch.cdist(boxes[kept] * scale, torch.from_numpy(theirs.boxes), p=torch.inf)
        assert distance.shape[0] == distance.shape[1] > 5
        assert distance.min(dim=0).values.max() < 0.01 > distance.min(dim=1).values.max()


@pytest.mark.slow
def test_torch_export_computes_the_same_for_other_sizes(rpn_run: Path, tmp_path: Path) -> None:
    trained = load_trained(rpn_run, "cpu")
    graph, size = export_graph(trained), example_size(trained)
    path = tmp_path / "model.pt2"
    save_program(export_program(graph, size), path, metadata_of(trained))
    assert program_difference(path, graph, size) < 1e-6
    extra = {"metadata.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["metadata.json"])["task"] == "rpn"


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    for bad in (1e-3, float("nan")):
        with pytest.raises(UserError, match="differs from the model"):
            check(bad, tmp_path)
    check(1e-5, tmp_path)


@pytest.mark.parametrize(
    ("snap", "words"), [(True, "There is no padding"), (False, "Pad with zeros")]
)
def test_an_rpns_images_are_snapped_or_padded_and_it_says_which(snap: bool, words: str) -> None:
    config = load_config(RpnConfig, None, [f"input.snap={snap}"])
    told = " ".join(rpn_card(config).preprocessing)
    assert words in told and told.count("pad_multiple") == 0
    assert f"multiple{'' if snap else 's'} of {config.input.pad_multiple}" in told


def test_the_card_says_what_it_is_and_holds_no_paths(classifier_run: Path) -> None:
    trained = load_trained(classifier_run, "cpu")
    results = load_results(classifier_run / "results.json")
    card = model_card(trained, results, ["model.safetensors"])
    assert 'Classifier.load("model.safetensors")' in card
    measured = sum(key.startswith("ap/") for key in results)
    # Of the few val images some classes are on none.
    assert 0 < measured < 20
    assert f"| mAP ({measured} of 20 classes) | {results['mAP']:.4g} |" in card
    assert ", ".join(trained.classes) in card
    assert str(classifier_run) not in card and str(trained.config.data.shards) not in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "vocdist"
    assert "Not measured" in model_card(trained, None, [])


@pytest.mark.slow
def test_safetensors_alone_need_no_other_package(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_script(
        "export.py", str(classifier_run), f"output={tmp_path}", "formats=[safetensors]"
    )
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    assert "run" not in config and config["input"]["size"] == 48
    assert Classifier.load(tmp_path, "cpu").classes == Classifier.load(classifier_run).classes

    def without_onnx(name: str) -> ModuleSpec | None:
        return None if name == "onnxscript" else util.find_spec(name)

    monkeypatch.setattr(exporting, "find_spec", without_onnx)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'vocdist\[export\]'"):
        exporting.require_onnx()
