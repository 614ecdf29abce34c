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

# Figure -> (its key, the key of the figure without any learning, what that is).
ROWS = {
    "mAP": ("mAP", "mAP_prior", "class frequency"),
    "macro-F1": ("macro_f1", None, ""),
    "recall@0.5, 200 proposals": ("recall50@200", "recall50@200/random", "200 random boxes"),
    "recall@0.5, 200 proposals ": ("recall50@200", "recall50@200/grid", "uniform grid of 200"),
    "AR, 200 proposals": ("AR@200", "AR@200/grid", "uniform grid of 200"),
}


def main(arguments: list[str]) -> None:
    """Print one table over all runs, then where things are."""
    table = Table()
    for heading in ("run", "figure"):
        table.add_column(heading)
    for heading in ("value", "chance"):
        table.add_column(heading, justify="right")
    table.add_column("chance is")
    for run in map(Path, arguments):
        if not (run / RESULTS).is_file():
            raise UserError(f"{run}: no {RESULTS}: not a finished run")
        results = load_results(run / RESULTS)
        for figure, (key, chance, meaning) in ROWS.items():
            if key in results:
                value = f"{results[chance]:.3f}" if chance else ""
                table.add_row(run.name, figure, f"{results[key]:.3f}", value, meaning)
    console = Console()
    console.print(table)
    for run in map(Path, arguments):
        pictures = " ".join(str(path) for path in sorted(run.glob("*.png")))
        sheet = run / "pictures" / "sheet.png"
        console.print(f"{run}: {pictures} {sheet if sheet.is_file() else ''}")


if __name__ == "__main__":
    run_command(main, __doc__)
