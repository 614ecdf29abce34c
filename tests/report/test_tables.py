from rich.console import Console
from rich.table import Table

from vocdist.metrics.tables import classifier_table, measured_classes, recall_table


def rows_of(table: Table) -> list[list[str]]:
    """The words of each printed line that holds a cell."""
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    return [line.replace("│", " ").split() for line in lines if "│" in line]


def text_of(table: Table) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


CLASSIFIER = {
    "mAP": 0.7091,
    "macro_f1": 0.5777,
    "sample_f1": 0.7059,
    "samples": 3425.0,
    "ap/cat": 0.41,
    "f1/cat": 0.3,
    "ap/person": 0.9,
    "f1/person": 0.85,
    "f1/sofa": 0.0,
}


def test_classes_stand_by_ap_and_those_without_positives_last() -> None:
    assert rows_of(classifier_table(CLASSIFIER)) == [
        ["person", "0.900", "0.850"],
        ["cat", "0.410", "0.300"],
        ["sofa", "–", "–"],
        ["mean", "(2", "of", "3", "classes)", "0.709", "0.578"],
    ]


def test_a_mean_says_over_how_many_classes_it_is_unless_over_all() -> None:
    assert measured_classes("mAP", CLASSIFIER) == measured_classes("macro_f1", CLASSIFIER)
    assert measured_classes("mAP", CLASSIFIER) == "2 of 3 classes"
    # By VOC's rule a class that only difficult objects show has no positive either.
    assert measured_classes("mAP_voc", {**CLASSIFIER, "ap_voc/cat": 0.4}) == "1 of 3 classes"
    for metric in ("sample_f1", "samples", "AR@200"):
        assert measured_classes(metric, CLASSIFIER) == ""
    whole = {**CLASSIFIER, "ap/sofa": 0.2}
    assert measured_classes("mAP", whole) == ""
    assert rows_of(classifier_table(whole))[-1][:2] == ["mean", "0.709"]


def test_more_columns_stand_where_more_is_known() -> None:
    more = {"mAP_voc": 0.72, "ap_voc/cat": 0.43, "macro_f1_tuned": 0.6, "f1_tuned/cat": 0.35}
    table = classifier_table({**CLASSIFIER, **more, "threshold/cat": 0.31, "sample_f1_tuned": 0.71})
    assert rows_of(table)[1] == ["cat", "0.410", "0.430", "0.300", "0.310", "0.350"]
    assert rows_of(table)[-1][-4:] == ["0.709", "0.720", "0.578", "0.600"]
    assert "sample F1 0.706, 0.710 at the thresholds" in text_of(table)


def test_the_caption_sums_up() -> None:
    assert "sample F1 0.706, 3,425 images" in text_of(classifier_table(CLASSIFIER))


def test_a_class_name_in_brackets_is_shown_as_it_is() -> None:
    assert "[red]rose[/red]" in text_of(classifier_table({"ap/[red]rose[/red]": 0.5}))


RECALL = {
    "recall50@200": 0.7,
    "AR@200": 0.4,
    "AR@200/small": 0.1,
    "AR@200/large": 0.6,
    "recall50@200/small": 0.2,
    "recall50@50": 0.5,
    "AR@50": 0.25,
    "AR@50/large": 0.3,
    "boxes": 1234.0,
    "samples": 200.0,
}


def test_recall_by_number_of_proposals_and_the_sizes_that_occur() -> None:
    table = recall_table(RECALL)
    assert [str(column.header) for column in table.columns] == [
        "proposals",
        "recall 0.5",
        "AR",
        "AR small",
        "AR large",
    ]
    assert rows_of(table) == [
        ["50", "0.500", "0.250", "–", "0.300"],
        ["200", "0.700", "0.400", "0.100", "0.600"],
    ]
    assert "200 samples, 1,234 boxes" in text_of(table)


def test_without_sizes_there_are_no_size_columns() -> None:
    assert len(recall_table({"recall50@100": 0.5, "AR@100": 0.2}).columns) == 3


def test_recall_of_no_boxes_is_not_zero() -> None:
    table = recall_table({"boxes": 0.0, "samples": 3.0})
    assert rows_of(table) == [[str(count), "–", "–"] for count in (50, 100, 200, 300)]
