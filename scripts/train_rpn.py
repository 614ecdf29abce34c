r"""Train the Region Proposal Network on a classifier's frozen features.

  accelerate launch scripts/train_rpn.py
  accelerate launch scripts/train_rpn.py model.classifier=runs/cls run.dir=runs/rpn
  accelerate launch --config_file configs/accelerate/two_cpu.yaml \
      scripts/train_rpn.py configs/demo/rpn.yaml train.epochs=2

Usage: train_rpn.py [CONFIG.yaml] [section.key=value ...]; the default is configs/rpn.yaml.
Started again on a run that was cut off, it goes on with it.
Before it, with the same arguments:
  --dry-run      print shapes, sizes, steps, memory and what would be written; write nothing
  --debug        a few batches of everything, resuming included, in RUN-debug; errors with traceback
  --overfit N    can N images be learned by heart? exit code 2 if not; writes nothing
  --profile      where a step's time goes, and a trace, in RUN-profile
"""

from pathlib import Path

from rich.console import Console

from vocdist.cli import config_from_arguments, is_main_process, run_command
from vocdist.config import RpnConfig
from vocdist.metrics.tables import recall_table
from vocdist.training.modes import start, take_mode

DEFAULT = Path("configs/rpn.yaml")


def main(arguments: list[str]) -> None:
    """Train, then print the best epoch's recall."""
    mode, arguments = take_mode(arguments)
    config = config_from_arguments(RpnConfig, arguments, DEFAULT)
    metrics = start(config, mode)
    if metrics and is_main_process():
        Console().print(recall_table(metrics))
        print(f"best epoch {metrics['epoch']:.0f}; the run is in {config.run.dir}")


if __name__ == "__main__":
    run_command(main, __doc__, RpnConfig, DEFAULT, debug_is_mode=True)
