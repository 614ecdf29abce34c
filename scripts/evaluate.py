"""Measure a run on its val split: AP per class, or recall by number of proposals and object size.

  python scripts/evaluate.py runs/classifier
  python scripts/evaluate.py runs/rpn --json rpn.json proposals.nms_threshold=0.6
  python scripts/evaluate.py runs/classifier data.shards=shards/other

Usage: evaluate.py RUN [--json FILE] [section.key=value ...]; overrides change the run's config. RUN
may also be one of its checkpoints, as runs/classifier/checkpoints/last.
Its settings are those of the script that trained it: train_classifier.py or train_rpn.py --help.
"""

import json
import os
from pathlib import Path

from vocdist.cli import is_main_process, run_command, split_arguments, take_option
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done


def main(arguments: list[str]) -> None:
    """Evaluate, print a table, and write the flat metrics where asked to."""
    json_path, arguments = take_option(arguments, "--json")
    run, overrides = split_arguments(arguments)
    if run is None:
        raise UserError("which run? python scripts/evaluate.py runs/classifier")
    if json_path:
        check_writable(Path(json_path))
    # Here, not above: `--help` and a slip do not wait for torch.
    from rich.console import Console

    from vocdist.training.evaluation import measure_run

    measured = measure_run(Path(run), overrides)
    if not is_main_process():
        return
    metrics = measured.evaluation.metrics
    Console().print(measured.task.table(metrics))
    if json_path:
        with replaced_when_done(Path(json_path)) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


def check_writable(path: Path) -> None:
    """Refuse, before the run is measured, what could not be written after it.

    Raises:
        UserError: It is a folder, or in one that is not to be written into.
        OSError: Its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--json {path}: no file can be written there: choose another")


if __name__ == "__main__":
    run_command(main, __doc__)
