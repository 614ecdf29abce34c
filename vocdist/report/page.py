"""A run as one HTML page that needs nothing beside it: no network, no script, no other file."""

from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape

from vocdist.report.classifier_view import THRESHOLD, classifier_view
from vocdist.report.findings import best_and_worst, findings
from vocdist.report.rpn_view import rpn_view
from vocdist.report.run_data import RunData
from vocdist.report.training_view import curve_panels, speed_panels
from vocdist.runs.predictions import ClassifierPredictions, RpnPredictions
from vocdist.tasks.task import task_class


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
        tiles=[tile for tile in task.tiles if tile[0] in run.metrics],
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
