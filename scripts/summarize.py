"""Put the figures of finished runs next to those of knowing nothing.

  python scripts/summarize.py runs/demo-classifier runs/demo-rpn

Usage: summarize.py RUN [RUN ...].
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from vocdist.command import run_command
from vocdist.errors import UserError
from vocdist.training.run_folder import RESULTS, load_results

# Figure, its key in the results, the key of a figure that needed no learning, and what that is.
ROWS = (
    ("mAP", "mAP", "mAP_prior", "class frequencies"),
    ("macro-F1", "macro_f1", None, ""),
    ("recall@0.5, 50 proposals", "recall50@50", "recall50@50/random", "random boxes"),
    ("recall@0.5, 50 proposals", "recall50@50", "recall50@50/grid", "uniform grid"),
    ("recall@0.5, 200 proposals", "recall50@200", "recall50@200/random", "random boxes"),
    ("recall@0.5, 200 proposals", "recall50@200", "recall50@200/grid", "uniform grid"),
)


def main(arguments: list[str]) -> None:
    """Print one table over all runs, then where things are."""
    table = Table()
    for heading in ("run", "figure"):
        table.add_column(heading)
    for heading in ("value", "chance"):
        table.add_column(heading, justify="right")
    table.add_column("chance: no more than")
    for run in map(Path, arguments):
        if not (run / RESULTS).is_file():
            raise UserError(f"{run}: no {RESULTS}: not a finished run")
        results = load_results(run / RESULTS)
        for figure, key, chance, meaning in ROWS:
            if key in results:
                guess = f"{results[chance]:.3f}" if chance else ""
                table.add_row(run.name, figure, f"{results[key]:.3f}", guess, meaning)
    console = Console()
    console.print(table)
    for run in map(Path, arguments):
        pictures = " ".join(str(path) for path in sorted(run.glob("*.png")))
        sheet = run / "pictures" / "sheet.png"
        console.print(f"{run}: {pictures} {sheet if sheet.is_file() else ''}")


if __name__ == "__main__":
    run_command(main, __doc__)
