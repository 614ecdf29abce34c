"""What a training leaves: its best weights, what they measure, and pictures of it."""

import json
from pathlib import Path

from vocdist.config import TaskConfig
from vocdist.config.file import plain_config
from vocdist.data.loader import ahead_of_use
from vocdist.drawing import contact_sheet
from vocdist.files.atomic import replaced_when_done
from vocdist.report.charts import plot_curves
from vocdist.report.wandb_results import note_best, result_values
from vocdist.runs.checkpoint import save_weights
from vocdist.runs.folder import FINAL_WEIGHTS, RESULTS, save_results
from vocdist.runs.tracking import METRICS
from vocdist.tasks.task import Record
from vocdist.training.evaluation import evaluate
from vocdist.training.loaders import build_loader, split_loader
from vocdist.training.loop import Trainer

# Val images in the picture of what the model says.
PICTURED = 6


def finish(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    """Measure the best weights, and leave them with the results and pictures in the run folder.

    A collective.
    """
    position = trainer.position
    best = trainer.saver.load_best()
    epoch = position.best_epoch if best else position.epoch
    if not best:
        trainer.accelerator.print(
            f"{config.run.dir}: there is no whole best checkpoint: the weights of the last epoch "
            f"({epoch}) are kept instead, and results.json says so"
        )
    if trainer.task.wants_train_records:
        trainer.task.learn_from_train(_train_records(config, trainer))
    measured = trainer.measure()
    metrics = {**measured.metrics, "epoch": epoch}
    if trainer.accelerator.is_main_process:
        _save_weights(config, trainer)
        pictures = _draw(config, trainer)
        if trainer.report:
            trainer.report.write(measured.records, metrics)
        run, run_dir = trainer.tracker.run, config.run.dir
        others = result_values(run_dir, metrics) if run else {}
        trainer.tracker.log_pictures(pictures, trainer.position.global_step, others)
        note_best(run, run_dir, metrics)
        # Written last: its presence says that the run is finished.
        save_results(metrics, run_dir / RESULTS)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _save_weights(config: TaskConfig, trainer: Trainer) -> None:
    """Write the weights with all that using them takes: the run folder is not needed for it."""
    task, classes = trainer.task, trainer.val_loader.dataset.reader.manifest.classes
    metadata = {"classes": json.dumps(classes), "config": json.dumps(plain_config(config))}
    metadata |= task.metadata()
    with replaced_when_done(config.run.dir / FINAL_WEIGHTS) as temporary:
        save_weights(task.model, temporary, metadata)


def _draw(config: TaskConfig, trainer: Trainer) -> dict[str, Path]:
    """Draw the curves, and what the model says of the first val images: files by name."""
    pictures = {"curves": config.run.dir / "curves.png"}
    plot_curves(config.run.dir / METRICS, pictures["curves"])
    reader = trainer.val_loader.dataset.reader
    images = build_loader(config, reader, training=False)
    drawn = trainer.task.pictures(images, range(min(PICTURED, len(reader))))
    if drawn:
        name = trainer.task.pictures_name
        pictures[name] = config.run.dir / f"{name}.png"
        contact_sheet(drawn, columns=3).save(pictures[name])
    return pictures


def _train_records(config: TaskConfig, trainer: Trainer) -> list[Record]:
    """The records of the train split, seen as an evaluation sees images."""
    reader, accelerator = trainer.train_loader.dataset.reader, trainer.accelerator
    loader = split_loader(config, trainer.task, reader, accelerator, training=False)
    batches = trainer.agreement.evaluation(ahead_of_use(loader.evaluation(), accelerator.device))
    return evaluate(trainer.task, trainer.model, batches, len(reader), accelerator).records
