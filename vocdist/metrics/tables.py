"""Results as rich tables, from the flat keys that `vocdist.metrics` returns."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

SIZES = ("small", "medium", "large")


# Means over the classes that have a positive -> the figures of single classes that they are of.
_MEANS = {
    "mAP": "ap/",
    "mAP_voc": "ap_voc/",
    "macro_f1": "ap/",
    "macro_f1_tuned": "ap/",
}


def measured_classes(name: str, metrics: Mapping[str, float]) -> str:
    """`18 of 20 classes`: what the mean of this name is over, where some have no positive.

    Empty where all have one, and for metrics that are no mean over classes.
    """
    if name not in _MEANS:
        return ""
    measured = sum(key.startswith(_MEANS[name]) for key in metrics)
    classes = sum(key.startswith("f1/") for key in metrics)
    return f"{measured} of {classes} classes" if measured < classes else ""


def classifier_table(metrics: Mapping[str, float]) -> Table:
    """AP and F1 per class, best AP first, with their means as the last line.

    Args:
        metrics: `mAP`, `macro_f1`, `sample_f1`, `ap/<class>`, `f1/<class>`, and `samples` if known;
            a column of AP by VOC's rule (`mAP_voc`, `ap_voc/<class>`), and two of the thresholds
            chosen on the train split and their F1 (`macro_f1_tuned`, `f1_tuned/<class>`,
            `threshold/<class>`), where they are there. A class that has an F1 but no AP had no
            positive image; it stands last.
    """
    names = {key.partition("/")[2] for key in metrics if key.startswith(("ap/", "f1/"))}
    summary = [f"sample F1 {_number(metrics.get('sample_f1'))}"]
    if "sample_f1_tuned" in metrics:
        summary[0] += f", {_number(metrics['sample_f1_tuned'])} at the thresholds"
    if "samples" in metrics:
        summary.append(f"{int(metrics['samples']):,} images")
    columns = [("AP", "ap", "mAP"), ("AP VOC", "ap_voc", "mAP_voc"), ("F1", "f1", "macro_f1")]
    columns += [("threshold", "threshold", ""), ("F1 at it", "f1_tuned", "macro_f1_tuned")]
    table = _table("Classes", summary)
    table.show_footer = True
    measured = measured_classes("mAP", metrics)
    table.add_column("class", footer=f"mean ({measured})" if measured else "mean", no_wrap=True)
    there = {"ap", "f1", *(key.partition("/")[0] for key in metrics if "/" in key)}
    columns = [column for column in columns if column[1] in there]
    for title, _, mean in columns:
        footer = _number(metrics.get(mean)) if mean else ""
        table.add_column(title, footer=footer, justify="right")
    for name in sorted(names, key=lambda name: (-metrics.get(f"ap/{name}", -1.0), name)):
        # Text, because a class name in brackets would be read as markup.
        has_positives = f"ap/{name}" in metrics
        cells = [
            _number(metrics.get(f"{key}/{name}") if has_positives or key == "threshold" else None)
            for _, key, _ in columns
        ]
        table.add_row(Text(name), *cells)
    return table


def recall_table(metrics: Mapping[str, float]) -> Table:
    """Recall at IoU 0.5 and average recall by the number of proposals, and AR by object size.

    Args:
        metrics: `recall50@<count>`, `AR@<count>`, `AR@<count>/<size>` for the sizes small, medium
            and large that the data has, and `samples` and `boxes` if known. Of no boxes no recall
            is defined: `–` stands in its place.
    """
    prefix = "recall50@"
    counts = sorted(
        int(key.removeprefix(prefix))
        for key in metrics
        if key.startswith(prefix) and "/" not in key
    )
    if not counts:
        # Imported here: a script's `--help` shows no table, and does not wait for torch.
        from vocdist.metrics.proposals import COUNTS

        counts = list(COUNTS)
    sizes = [size for size in SIZES if any(f"AR@{count}/{size}" in metrics for count in counts)]
    known = [f"{int(metrics[key]):,} {key}" for key in ("samples", "boxes") if key in metrics]
    table = _table("Proposal recall", known)
    for name in ("proposals", "recall 0.5", "AR", *(f"AR {size}" for size in sizes)):
        table.add_column(name, justify="right")
    for count in counts:
        keys = [f"{prefix}{count}", f"AR@{count}", *(f"AR@{count}/{size}" for size in sizes)]
        table.add_row(str(count), *(_number(metrics.get(key)) for key in keys))
    return table


def _table(title: str, summary: Sequence[str]) -> Table:
    caption = ", ".join(summary)
    # As wide as the caption, which would be broken into lines otherwise.
    return Table(title=title, caption=caption or None, min_width=len(caption))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
