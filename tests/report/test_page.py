import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from made_runs import CLASSES, classifier_predictions, made_run, rpn_predictions
from sklearn.metrics import average_precision_score

from vocdist.errors import UserError
from vocdist.metrics.classification import f1_over, tuned_metrics
from vocdist.report.classifier_view import classifier_view
from vocdist.report.comparison import comparison_page, differences
from vocdist.report.page import run_page
from vocdist.report.run_data import RunData
from vocdist.runs.predictions import ClassifierPredictions

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags close in order, and collects texts, attributes and `<data>` values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        # (id or data-… of what is around it, value)
        self.values: list[tuple[str, float]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        found = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if tag == "data":
            self.values.append((self.place(), float(found["value"])))
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1][0] != "style":
            self.texts.append(data)

    def place(self) -> str:
        for _, attributes in reversed(self.open):
            for name in ("id", "data-ap", "data-f1", "data-threshold", "data-key"):
                if name in attributes:
                    return f"{name}={attributes[name]}"
        return ""

    def at(self, place: str) -> list[float]:
        return [value for where, value in self.values if where == place]


def assert_self_contained(page: str) -> None:
    reader = Reader(page)
    assert not re.search(r"<script|@import|url\((?!data:)|javascript:", page)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    policy = [v for _, n, v in reader.attributes if n == "content" and "default-src" in v]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.parametrize("predictions", [classifier_predictions(), rpn_predictions()])
@pytest.mark.parametrize("finished", [True, False])
def test_a_page_needs_nothing_else_and_shows_the_runs_own_numbers(predictions, finished) -> None:
    run = made_run(predictions, finished=finished)
    page = run_page(run)
    assert_self_contained(page)
    reader = Reader(page)
    shown = {w.removeprefix("id=metric-"): v for w, v in reversed(reader.values) if "metric-" in w}
    assert len(shown) == 4
    assert shown == {key: run.metrics[key] for key in shown}
    last = [row for row in run.rows if "train/loss" in row][-1]
    assert last["train/loss"] in reader.at("id=training")
    assert last["perf/images_per_s"] in reader.at("id=speed")
    text = " ".join(reader.texts)
    assert ("finished: the best of 3 epochs is epoch 3" in text) is finished
    assert ("training: 3 of 3 epochs" in text) is not finished
    assert "40% of the time went into waiting for data" in text
    assert page.count("data:image/jpeg;base64,") == len(run.examples) == 16


def test_ap_f1_and_curves_of_the_page_are_those_of_the_predictions() -> None:
    predictions = classifier_predictions()
    reader = Reader(run_page(made_run(predictions)))
    for column, name in enumerate(CLASSES):
        truth, scores = predictions.labels[:, column], predictions.scores[:, column]
        (ap,) = reader.at(f"data-ap={name}")
        assert ap == pytest.approx(average_precision_score(truth, scores))
        predicted = scores >= 0.5
        (f1,) = reader.at(f"data-f1={name}")
        hits = (predicted & (truth == 1)).sum()
        assert f1 == pytest.approx(2 * hits / (predicted.sum() + truth.sum()))


def test_a_runs_own_thresholds_are_on_its_page() -> None:
    run = made_run(classifier_predictions())
    assert "own threshold" not in run_page(run)
    assert run.results is not None
    tuned = tuned_metrics(
        run.predictions.scores, run.predictions.labels, np.full(len(CLASSES), 0.375), CLASSES
    )
    reader = Reader(run_page(replace(run, results={**run.results, **tuned})))
    assert reader.at("data-threshold=dog") == [0.375]
    assert reader.at("data-key=macro_f1_tuned") == [tuned["macro_f1_tuned"]]
    assert any(
        "The run's own thresholds, chosen on the train split, give" in t for t in reader.texts
    )


def test_figures_of_single_classes_are_no_rows_of_a_comparison() -> None:
    runs = [
        replace(
            run, results={**run.results, "threshold/dog": 0.5, "ap_voc/dog": 0.1, "mAP_voc": 0.2}
        )
        for run in (made_run(classifier_predictions(seed=seed)) for seed in (0, 1))
    ]
    page = comparison_page(runs)
    assert 'data-key="mAP_voc"' in page
    assert "threshold/dog" not in page and "ap_voc/dog" not in page


def test_the_matrix_counts_false_alarms_beside_what_is_there() -> None:
    predictions = replace(
        classifier_predictions(["cat", "dog", "sofa"]),
        scores=np.array([[0.9, 0.6, 0.1], [0.2, 0.8, 0.1], [0.7, 0.1, 0.2]], dtype=np.float32),
        labels=np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]], dtype=np.int8),
        losses=np.zeros(3, dtype=np.float32),
        keys=["a", "b", "c"],
    )
    text = " ".join(Reader(run_page(replace(made_run(predictions), examples=[]))).texts)
    assert "dog where cat is present: 2 of 2 false ones" in text
    assert "dog where sofa is present: 1 of 2 false ones" in text
    assert "cat where sofa is present: 1 of 1 false ones" in text


def test_names_from_outside_are_text_and_never_markup() -> None:
    evil = '<script>alert("x")</script>&amp;'
    predictions = classifier_predictions([evil, "cat", "{{ 7 * 7 }}"])
    run = made_run(predictions, name=evil, **{"data.name": evil})
    page = run_page(replace(run, starts=[{"command": evil, "packages": {evil: evil}}]))
    assert_self_contained(page)
    assert "{{ 7 * 7 }}" in page
    assert evil in Reader(page).texts
    assert_self_contained(comparison_page([run, replace(run, name="b")]))


def test_a_run_that_has_only_begun_has_a_page() -> None:
    begun = made_run(None, finished=False)
    page = run_page(begun)
    assert_self_contained(page)
    assert "No step has been logged yet" in page
    without_pictures = replace(made_run(rpn_predictions()), examples=[])
    assert_self_contained(run_page(without_pictures))
    alone = replace(made_run(classifier_predictions()), predictions=None, examples=[])
    assert_self_contained(run_page(alone))


def test_a_class_without_images_has_no_figures() -> None:
    predictions = classifier_predictions()
    labels = predictions.labels.copy()
    labels[:, 2] = 0
    page = run_page(made_run(replace(predictions, labels=labels)))
    reader = Reader(page)
    assert reader.at("data-ap=cat") == []
    assert reader.at("data-f1=cat") == []
    row = page.partition('<th scope="row">cat</th>')[2].partition("</tr>")[0]
    assert '<data value="0">0</data>' in row


def without_cats(seed: int = 0) -> RunData:
    predictions = classifier_predictions(seed=seed)
    labels = predictions.labels.copy()
    labels[:, CLASSES.index("cat")] = 0
    return made_run(replace(predictions, labels=labels))


def test_means_that_leave_out_a_class_say_so_beside_them() -> None:
    run, whole = without_cats(), made_run(classifier_predictions())
    page = run_page(run)
    for key in ("mAP", "macro_f1"):
        tile = page.partition(f'id="metric-{key}"')[2].partition("</div>")[0]
        assert "4 of 5 classes" in tile
    text = " ".join(Reader(page).texts)
    assert "mAP (4 of 5 classes) still rose by" in text
    training = page.partition('id="training"')[2].partition("</section>")[0]
    assert "mAP (4 of 5 classes)" in training and "sample-F1 (" not in training
    assert "of 5 classes" not in run_page(whole)
    compared = comparison_page([run, whole])
    row = compared.partition('data-key="mAP"')[2].partition("</tr>")[0]
    assert row.count("(4 of 5 classes)") == 1


def test_the_best_common_threshold_is_not_that_of_classes_without_images() -> None:
    run = without_cats()
    predictions, cat = run.predictions, CLASSES.index("cat")
    assert isinstance(predictions, ClassifierPredictions)
    shown = [i for i in range(len(CLASSES)) if i != cat]
    threshold, mean = classifier_view(predictions, run.metrics).best_common
    f1 = f1_over(predictions.scores[:, shown], predictions.labels[:, shown], [threshold])
    assert mean == pytest.approx(f1.mean())


def test_an_rpns_page_without_objects_shows_no_recall() -> None:
    found = rpn_predictions()
    none = replace(
        found,
        best=found.best[:0],
        box_image=found.box_image[:0],
        areas=found.areas[:0],
        train_sizes=found.train_sizes[:0],
    )
    run = made_run(none)
    metrics = {"boxes": 0.0, "loss": 0.5, "samples": 60.0}
    page = run_page(replace(run, results={**metrics, "epoch": 3.0}, rows=[], examples=[]))
    assert_self_contained(page)
    text = " ".join(Reader(page).texts)
    assert "The val split has no object: nothing but the loss is measured." in text
    assert "with 0 objects" in " ".join(text.split())
    assert "recall at IoU" not in text and "0.000" not in text and "no anchor" not in text


def test_a_comparison_shows_what_differs_and_what_is_best() -> None:
    runs = [
        made_run(classifier_predictions(seed=seed), name="run", **{"optim.lr": lr, "a.same": 1})
        for seed, lr in ((0, 0.1), (1, 0.2), (2, 0.2))
    ]
    page = comparison_page(runs)
    assert_self_contained(page)
    reader = Reader(page)
    text = " ".join(reader.texts)
    assert "run (1)" in text and "optim.lr" in text and "a.same" not in text
    assert reader.at("data-key=mAP") == [run.metrics["mAP"] for run in runs]
    best = max(runs, key=lambda run: run.metrics["mAP"])
    row = page.partition('data-key="mAP"')[2].partition("</tr>")[0]
    assert re.findall(r'best"><data value="([^"]+)"', row) == [repr(best.metrics["mAP"])]
    row = page.partition('data-key="loss"')[2].partition("</tr>")[0]
    lowest = min(run.metrics["loss"] for run in runs)
    assert re.findall(r'best"><data value="([^"]+)"', row) == [repr(lowest)]
    assert reader.at("data-key=ap/dog") == [run.metrics["ap/dog"] for run in runs]


def test_runs_of_both_tasks_are_not_compared() -> None:
    with pytest.raises(UserError, match="no figure in common"):
        comparison_page([made_run(classifier_predictions()), made_run(rpn_predictions())])


def test_differences_name_missing_settings_too() -> None:
    rows = differences([{"a": 1, "b": 2}, {"a": 1, "c": 3}], left_out=["c"])
    assert rows == [("b", [2, None])]
    assert json.dumps(rows)
