"""Put the figures of finished runs next to those of knowing nothing.

  python scripts/summarize.py runs/classifier
  python scripts/summarize.py runs/demo-classifier runs/demo-rpn

Usage: summarize.py RUN [RUN ...].
"""

from pathlib import Path

from vocdist.cli import run_command
from vocdist.errors import UserError

# Figure, its key in the results, the key of a figure that needed no learning, and what that is.
ROWS = (
    ("mAP", "mAP", "mAP_prior", "class frequencies"),
    ("macro-F1", "macro_f1", None, ""),
    ("recall@0.5, 50 boxes", "recall50@50", "recall50@50/random", "random boxes"),
    ("", "recall50@50", "recall50@50/grid", "uniform grid"),
    ("recall@0.5, 200 boxes", "recall50@200", "recall50@200/random", "random boxes"),
    ("", "recall50@200", "recall50@200/grid", "uniform grid"),
)


def main(arguments: list[str]) -> None:
    """Print one table over all runs, then where things are."""
    if not arguments:
        raise UserError("which runs? python scripts/summarize.py RUN [RUN ...]")
    # Here, not above: `--help` and a slip do not wait for torch.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from vocdist.metrics.tables import measured_classes
    from vocdist.runs.folder import RESULTS, load_results, require_run

    table = Table(box=box.SIMPLE)
    for heading in ("run", "figure"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "chance"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("by", no_wrap=True)
    for run in map(Path, arguments):
        require_run(run)
        if not (run / RESULTS).is_file():
            raise UserError(f"{run}: no {RESULTS}: not a finished run")
        results = load_results(run / RESULTS)
        name = run.name
        for figure, key, chance, meaning in ROWS:
            if key in results:
                value = f"{results[key]:.3f}" if figure else ""
                guess = f"{results[chance]:.3f}" if chance else ""
                classes = measured_classes(key, results)
                label = f"{figure} ({classes})" if classes else figure
                table.add_row(name, label, value, guess, meaning)
                name = ""
    console = Console()
    console.print(table)
    for run in map(Path, arguments):
        pictures = [*sorted(run.glob("*.png")), *run.glob("pictures/sheet.png")]
        console.print(f"{run}: pictures", *(path.relative_to(run) for path in pictures))


if __name__ == "__main__":
    run_command(main, __doc__)
