"""Write a run's report.html again, or put several runs side by side on one page.

  python scripts/report.py runs/classifier
  python scripts/report.py runs/first runs/second runs/third
  python scripts/report.py runs/first runs/second --output compared.html

Usage: report.py RUN [RUN ...] [--output FILE]. A training writes its report by itself, after each
epoch; here it is made again from the files in the run's folder. Several runs go into
comparison.html beside the first one's folder.
"""

from pathlib import Path

from vocdist.cli import run_command, take_option
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done


def main(arguments: list[str]) -> None:
    """Write one page and say where it is."""
    given, arguments = take_option(arguments, "--output")
    options = [argument for argument in arguments if argument.startswith("-") or "=" in argument]
    if options:
        raise UserError(f"unknown option {options[0]}: report.py RUN [RUN ...] [--output FILE]")
    if not arguments:
        raise UserError("which run? python scripts/report.py runs/classifier")
    # Here, not above: `--help` and a slip do not wait for torch.
    from vocdist.report.comparison import comparison_page
    from vocdist.report.page import REPORT, read_run, run_page

    folders = [Path(argument) for argument in arguments]
    runs = [read_run(folder) for folder in folders]
    if len(runs) == 1:
        page, output = run_page(runs[0]), folders[0] / REPORT
    else:
        page, output = comparison_page(runs), folders[0].parent / "comparison.html"
    output = Path(given) if given else output
    output.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_done(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(output)


if __name__ == "__main__":
    run_command(main, __doc__)
