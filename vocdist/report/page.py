"""A run as one HTML page that needs nothing beside it: no network, no script, no other file."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from vocdist.config.file import read_yaml
from vocdist.data.dataset import decode_image
from vocdist.files.atomic import replaced_when_done
from vocdist.metrics.tables import measured_classes
from vocdist.report.classifier_view import THRESHOLD, classifier_view
from vocdist.report.findings import best_and_worst, findings
from vocdist.report.rpn_view import rpn_view
from vocdist.report.run_data import RunData, flat, read_rows
from vocdist.report.training_view import curve_panels, speed_panels
from vocdist.runs.environment import ENVIRONMENT, read_starts
from vocdist.runs.folder import CONFIG, RESULTS, load_results, require_run
from vocdist.runs.predictions import (
    PREDICTIONS,
    ClassifierPredictions,
    Example,
    Predictions,
    RpnPredictions,
    load_predictions,
    save_predictions,
    shown_images,
)
from vocdist.runs.tracking import METRICS
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import Record, Task, task_class
from vocdist.voc.annotation import rows_to_xyxy

REPORT = "report.html"
# Longest side of a picture in the page, pixels.
PICTURE_SIDE = 400
# At most this share of a run's time goes into refreshing its page.
REFRESH_SHARE = 0.02


def run_page(run: RunData) -> str:
    """The page of one run, finished or not."""
    task = task_class(run.task)
    predictions, classifier, rpn = run.predictions, None, None
    if isinstance(predictions, ClassifierPredictions):
        classifier = classifier_view(predictions, run.metrics)
    elif isinstance(predictions, RpnPredictions):
        rpn = rpn_view(predictions, run.metrics)
    best, worst = best_and_worst(predictions, run.examples) if predictions else ([], [])
    return render(
        "run.html",
        run=run,
        title=run.name,
        kind=task.title,
        state=state(run),
        tiles=[
            (*tile, measured_classes(tile[0], run.metrics))
            for tile in task.tiles
            if tile[0] in run.metrics
        ],
        findings=findings(run, classifier or rpn),
        curves=curve_panels(run),
        speed=speed_panels(run),
        classifier=classifier,
        rpn=rpn,
        best=best,
        worst=worst,
        threshold=THRESHOLD,
    )


def state(run: RunData) -> str:
    """How far it is, in words."""
    epochs = run.config["train.epochs"]
    if run.results is None:
        return f"training: {run.epochs_done} of {epochs} epochs"
    return f"finished: the best of {epochs} epochs is epoch {run.results['epoch']:.0f}"


def render(template: str, **values: Any) -> str:
    """Fill in a template of this folder; values are escaped, but for what is `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vocdist.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "percent": percent, "setting": setting}
    return environment.get_template(template).render(**values)


def figure(value: float | None, digits: int = 3) -> Markup:
    """A number to read, with all its digits for programs: `<data value="0.70214">0.702</data>`."""
    if value is None:
        return Markup("–")
    whole = float(value).is_integer() and abs(value) >= 2
    text = f"{value:,.0f}" if whole else _rounded(value, digits)
    return Markup(f'<data value="{value!r}">{text}</data>')


def percent(share: float) -> str:
    """A share as CSS and people write it."""
    return f"{100 * share:.1f}%"


def setting(value: Any) -> Markup:
    """A value of a config or an environment as one line."""
    if isinstance(value, Mapping):
        return Markup("<br>").join(f"{key} {content}" for key, content in value.items())
    if isinstance(value, bool):
        return Markup("true" if value else "false")
    if isinstance(value, float):
        return Markup(f"{value:g}")
    if value is None:
        return Markup('<span class="muted">null</span>')
    return escape(value)


def _rounded(value: float, digits: int) -> str:
    if value and abs(value) < 10**-digits:
        return f"{value:.2g}"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.1f}"


class RunReport:
    """Writes the two files from records of the val split; on the main process alone.

    Args:
        run_dir: The run's folder.
        task: What it trains.
        train: Its train split: the RPN's page lays anchors on its boxes.
        val: Its val split, in the order of the records.
    """

    def __init__(self, run_dir: Path, task: Task, train: ShardReader, val: ShardReader) -> None:
        """Keep the parts."""
        self._run_dir = run_dir
        self._task = task
        self._train = train
        self._val = val
        self._written = -float("inf")
        self._cost = 0.0

    def refresh(self, records: Sequence[Record]) -> None:
        """Write both files, unless that was done a short while ago for what it costs."""
        if time.perf_counter() - self._written >= self._cost / REFRESH_SHARE:
            self.write(records)

    def write(self, records: Sequence[Record], results: Mapping[str, float] | None = None) -> None:
        """Write both files, with the `results` of a run that ends.

        What goes wrong is printed and stops no training: a page can be written afterwards.
        """
        started = time.perf_counter()
        run_dir = self._run_dir
        try:
            predictions = self._task.predictions(records, self._val, self._train)
            if predictions is not None:
                best, worst = shown_images(predictions)
                examples = [self._example(index) for index in (*best, *worst)]
                save_predictions(run_dir / PREDICTIONS, predictions, examples)
            write_page(run_dir, results)
        except Exception as error:
            print(
                f"{run_dir / REPORT}: not written ({type(error).__name__}: {error}); the training "
                f"goes on; afterwards, python scripts/report.py {run_dir} shows what was wrong"
            )
        self._written = time.perf_counter()
        self._cost = self._written - started

    def _example(self, index: int) -> Example:
        sample = self._val.read(index)
        annotations = sample.annotations
        pixels = decode_image(sample.jpeg, annotations.key).permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels)
        image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=80)
        width, height = annotations.width, annotations.height
        boxes = rows_to_xyxy(annotations.boxes, width, height, one_based=self._task.one_based)
        return Example(
            index=index,
            jpeg=encoded.getvalue(),
            boxes=(boxes / (width, height, width, height)).astype(np.float32),
            class_ids=annotations.boxes[:, 0].astype(np.int64),
        )


def write_page(run_dir: Path, results: Mapping[str, float] | None = None) -> Path:
    """Write `report.html` from the other files of a run folder, and its results where given.

    Raises:
        UserError: The folder is not a run.
    """
    output = run_dir / REPORT
    run = read_run(run_dir)
    page = run_page(replace(run, results=results) if results else run)
    with replaced_when_done(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def read_run(run_dir: Path) -> RunData:
    """What a page is made of.

    Raises:
        UserError: The folder is not a run.
    """
    require_run(run_dir)
    results: Mapping[str, float] | None = None
    if (run_dir / RESULTS).is_file():
        results = load_results(run_dir / RESULTS)
    found: tuple[Predictions | None, list[Example]] = (None, [])
    if (run_dir / PREDICTIONS).is_file():
        found = load_predictions(run_dir / PREDICTIONS)
    return RunData(
        name=run_dir.resolve().name,
        config=flat(read_yaml(run_dir / CONFIG)),
        starts=read_starts(run_dir / ENVIRONMENT),
        rows=read_rows(run_dir / METRICS) if (run_dir / METRICS).is_file() else [],
        results=results,
        predictions=found[0],
        examples=found[1],
    )
