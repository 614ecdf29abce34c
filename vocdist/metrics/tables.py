"""Results as rich tables, from the flat keys that `vocdist.metrics` returns."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

SIZES = ("small", "medium", "large")


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
    missing = sorted(name for name in names if f"ap/{name}" not in metrics)
    if missing:
        summary.append(f"{len(names) - len(missing)} of {len(names)} classes have an image")
    columns = [("AP", "ap", "mAP"), ("AP VOC", "ap_voc", "mAP_voc"), ("F1", "f1", "macro_f1")]
    columns += [("threshold", "threshold", ""), ("F1 at it", "f1_tuned", "macro_f1_tuned")]
    table = _table("Classes", summary)
    table.show_footer = True
    table.add_column("class", footer="mean")
    there = {"ap", "f1", *(key.partition("/")[0] for key in metrics if "/" in key)}
    columns = [column for column in columns if column[1] in there]
    for title, _, mean in columns:
        footer = _number(metrics.get(mean)) if mean else ""
        table.add_column(title, footer=footer, justify="right")
    for name in sorted(names, key=lambda name: (-metrics.get(f"ap/{name}", -1.0), name)):
        # Text, because a class name in brackets would be read as markup.
        measured = f"ap/{name}" in metrics
        cells = [
            _number(metrics.get(f"{key}/{name}") if measured or key == "threshold" else None)
            for _, key, _ in columns
        ]
        table.add_row(Text(name), *cells)
    return table


def recall_table(metrics: Mapping[str, float]) -> Table:
    """Recall at IoU 0.5 and average recall by the number of proposals, and AR by object size.

    Args:
        metrics: `recall50@<count>`, `AR@<count>`, `AR@<count>/<size>` for the sizes small, medium
            and large that the data has, and `samples` and `boxes` if known.
    """
    prefix = "recall50@"
    counts = sorted(
        int(key.removeprefix(prefix))
        for key in metrics
        if key.startswith(prefix) and "/" not in key
    )
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
