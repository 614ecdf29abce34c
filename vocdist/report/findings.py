"""What stands out in a run, in sentences: each from a rule that is stated where it is applied."""

from collections.abc import Iterator

import numpy as np

from vocdist.report.classifier_view import ClassifierView
from vocdist.report.rpn_view import FITTING, RpnView
from vocdist.report.run_data import RunData, points

# The metric that marks the best epoch, and what knowing nothing reaches.
DECIDES = {"classifier": "mAP", "rpn": "AR@200"}
# Waiting for data is worth a word from this share of the time on.
WAITING = 0.15


def findings(run: RunData, view: ClassifierView | RpnView | None) -> list[str]:
    """Sentences, the most general first."""
    found = [*_of_training(run)]
    if isinstance(view, ClassifierView):
        found += _of_classifier(view)
    elif isinstance(view, RpnView):
        found += _of_rpn(run, view)
    return found


def _of_training(run: RunData) -> Iterator[str]:
    epochs, values = points(run.rows, f"val/{DECIDES[run.task]}")
    if len(values) > 2:
        best = int(values.argmax())
        # Of the last epoch's gain over the best before it.
        gain = values[-1] / max(1e-9, values[:-1].max()) - 1
        if best == len(values) - 1 and gain > 0.01:
            yield (
                f"{DECIDES[run.task]} still rose by {gain:.0%} in the last epoch: more epochs may "
                f"bring more."
            )
        elif best < len(values) - 2 and values[-1] < 0.98 * values[best]:
            yield (
                f"{DECIDES[run.task]} was highest after epoch {epochs[best]:.0f} "
                f"({values[best]:.3f}) and is {values[-1]:.3f} after epoch {epochs[-1]:.0f}: "
                f"the later epochs did harm."
            )
    epochs, losses = points(run.rows, "val/loss")
    if len(losses) > 2 and losses[-1] > 1.05 * losses.min():
        yield (
            f"The val loss was lowest after epoch {epochs[int(losses.argmin())]:.0f} "
            f"({losses.min():.3f}) and rose to {losses[-1]:.3f}: a sign of overfitting."
        )
    _, waits = points(run.rows, "perf/data_wait")
    # The first rows hold the start of the loader processes.
    wait = float(np.median(waits)) if len(waits) else 0.0
    if wait > WAITING:
        remedy = (
            "name a features.folder on a faster disk, or run where the cached features fit into "
            "memory beside the run."
            if run.config.get("features.cache")
            else "raise data.num_workers where cores are free, or make smaller images with "
            "max_side in make_shards.py."
        )
        yield f"{wait:.0%} of the time went into waiting for data: {remedy}"


def _of_classifier(view: ClassifierView) -> Iterator[str]:
    rated = [row for row in view.classes if row.ap is not None]
    if len(rated) > 5:
        weakest = ", ".join(f"{row.name} ({row.ap:.2f})" for row in rated[:-4:-1])
        yield f"Hardest classes by AP: {weakest}."
    for predicted, present, images, total in view.confusions.most(1):
        yield (
            f"Most frequent false alarm: {predicted} where {present} is present, "
            f"{images} of {predicted}'s {total} false ones."
        )
    if view.own_mean_f1 is not None:
        yield (
            f"The run's own thresholds, chosen on the train split, give a macro-F1 of "
            f"{view.own_mean_f1:.3f}, where one half has {view.mean_f1:.3f}."
        )
    elif view.best_mean_f1 > view.mean_f1 + 0.01:
        yield (
            f"A threshold for each class would lift macro-F1 from {view.mean_f1:.3f} to "
            f"{view.best_mean_f1:.3f}, if it were chosen on these very images: an upper bound."
        )


def _of_rpn(run: RunData, view: RpnView) -> Iterator[str]:
    recall, grid = (run.metrics.get(f"recall50@200{key}") for key in ("", "/grid"))
    if recall is not None and grid is not None and recall <= grid:
        yield (
            f"Recall of 200 proposals ({recall:.3f}) is not above that of a uniform grid of as "
            f"many boxes ({grid:.3f})."
        )
    if view.fitting < 0.9:
        yield (
            f"{1 - view.fitting:.0%} of the train split's boxes have a shape that no anchor "
            f"reaches at IoU {FITTING}: see the anchors, and model.scales and model.ratios."
        )
    sizes = [row for row in view.sizes if row.boxes >= 20 and row.name[0].isdigit()]
    if len(sizes) > 1:
        low = min(sizes, key=lambda row: row.recall)
        high = max(sizes, key=lambda row: row.recall)
        if low.recall < 0.8 * high.recall:
            yield (
                f"Objects of {low.name} pixels are found least: recall {low.recall:.2f}, against "
                f"{high.recall:.2f} of those of {high.name}."
            )
