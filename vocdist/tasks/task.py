"""What a training, an evaluation, a report and a prediction ask of a task.

A task is one class: its settings, model, views of images, losses, records, metrics, and all that
differs between tasks elsewhere. `ClassifierTask` and `RpnTask` are the two of this package; a
third one is a class in a file of its own (`docs/own-task.md`). The name of a task stands in a
run's `config.yaml`; `task_class` finds the class by it:

    classifier, rpn           the package's own
    path/to/file.py:Class     a class in a file, the path from the folder where scripts are started
"""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from PIL import Image
from rich.table import Table
from torch import Tensor, nn

from vocdist.config import TaskConfig
from vocdist.config.file import config_from_plain, load_config
from vocdist.config.rpn import FeaturesConfig
from vocdist.data.batch import Batch
from vocdist.data.geometry import Padding, shrink
from vocdist.data.loader import BatchLoader
from vocdist.data.transforms import Example, Transform
from vocdist.errors import UserError
from vocdist.models.layers import ExportGraph
from vocdist.models.rpn.network import ProposalModel
from vocdist.runs.environment import ENVIRONMENT, remembered_shards
from vocdist.runs.folder import CONFIG, task_of
from vocdist.runs.predictions import Predictions
from vocdist.shards.format import MANIFEST_NAME, Annotations
from vocdist.shards.reader import ShardReader

Record = Mapping[str, object]

_OWN = {
    "classifier": "vocdist.tasks.classifier:ClassifierTask",
    "rpn": "vocdist.tasks.rpn:RpnTask",
}


class FrozenFeatures(NamedTuple):
    """What keeping the features of frozen layers needs: their model, and how images reach it.

    `geometry` is what an image's input depends on; `mirrored`: features of mirrored images are
    wanted too, in training.
    """

    model: ProposalModel
    settings: FeaturesConfig
    geometry: tuple[int, ...]
    mirrored: bool


class ModelCard(NamedTuple):
    """What a model's user must know, for `README.md` and the metadata of an exported model.

    Attributes:
        title: What it is.
        usage: Python lines that load `model.safetensors` and use it.
        tags: The hub's.
        knows_classes: Its outputs have the classes' names.
        preprocessing: Sentences: from stored pixels to the graph's input.
        postprocessing: From the graph's outputs to results.
    """

    title: str
    usage: str
    tags: tuple[str, ...]
    knows_classes: bool
    preprocessing: tuple[str, ...]
    postprocessing: str


class Task(ABC):
    """A model, its losses, and what is measured.

    Class attributes:
        config_type: Settings of a training; its `task` field holds the task's name.
        title: What it is, in a page's head.
        best_metric: Name of the metric whose maximum marks the best checkpoint; where it is not
            defined, the lowest loss does.
        headline: Names of the metrics that stand in the line of an epoch.
        tiles: A page's figures: key, name, key of the same without learning (or None), and what
            that is.
        curves: `val/<metric>` -> its name in a page's chart.
        curves_title: Of that chart.
        pictures_name: What `pictures` shows.
        predicts: What it says of an image: `classes` (predict.py), `boxes` (propose.py) or `values`
            (predict.py, as JSON).
        knows_classes: Its outputs depend on the classes of its shards, in their order.
        wants_train_records: The best weights are measured on the train split too, for
            `learn_from_train`.
        debug_batch: Images of a step of `--debug` on a CPU.
        size_setting: The setting that makes inputs smaller.

    Args:
        config: Settings of the run.
        classes: Names of the shards' classes.
        model: All weights, frozen ones too; what `forward` computes goes through DDP.
    """

    config_type: ClassVar[type[TaskConfig]]
    title: ClassVar[str]
    best_metric: ClassVar[str]
    headline: ClassVar[tuple[str, ...]]
    tiles: ClassVar[tuple[tuple[str, str, str | None, str], ...]] = ()
    curves: ClassVar[Mapping[str, str]] = {}
    curves_title: ClassVar[str] = "Validation"
    pictures_name: ClassVar[str] = "predictions"
    predicts: ClassVar[Literal["classes", "boxes", "values"]] = "values"
    knows_classes: ClassVar[bool] = True
    wants_train_records: ClassVar[bool] = False
    debug_batch: ClassVar[int] = 16
    size_setting: ClassVar[str] = "input.size"

    def __init__(self, config: Any, classes: Sequence[str], model: nn.Module) -> None:
        """Keep the parts."""
        self.config = config
        self.classes = tuple(classes)
        self.model = model

    # Before there is a model.

    @classmethod
    @abstractmethod
    def build(
        cls, config: Any, classes: Sequence[str], train: ShardReader | None, *, pretrained: bool
    ) -> Self:
        """The task with its model on the CPU.

        `pretrained` loads the weights that training starts from. Without a `train` split it is
        built for use alone: whatever only training needs is left out.

        Raises:
            UserError: The weights cannot be had, or settings contradict each other.
        """

    @classmethod
    @abstractmethod
    def transform(cls, config: Any, classes: int, *, training: bool) -> Transform:
        """From stored pixels to the network's input and its targets, for so many classes."""

    @classmethod
    def padding(cls, config: Any, *, training: bool) -> Padding | None:
        """The shapes of batches whose images vary in size; None where all inputs have one."""
        return None

    @classmethod
    def resolve(cls, config: Any, begun: Any = None) -> Any:
        """The settings with `auto` values replaced, so that the run's config says them.

        A run that was `begun` keeps what it has.
        """
        return config

    @classmethod
    def notes(cls, train: ShardReader, val: ShardReader) -> list[str]:
        """Lines on what these splits cannot teach or measure, for before the first step."""
        return []

    @classmethod
    def headline_words(cls, metrics: Mapping[str, float]) -> str:
        """The metrics of `headline` in the line of an epoch; `–` for one that is not defined."""
        figures = {name: metrics.get(name) for name in cls.headline}
        return "  ".join(
            f"{name} {'–' if value is None else f'{value:.4f}'}" for name, value in figures.items()
        )

    @classmethod
    def table(cls, metrics: Mapping[str, float]) -> Table:
        """Results for the terminal."""
        table = Table(title=cls.title)
        for name in ("metric", "value"):
            table.add_column(name)
        for name, value in metrics.items():
            table.add_row(name, f"{value:.4g}")
        return table

    # Training and evaluation.

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss of each sample, (B,) each; `loss` is their total, the one to differentiate.

        `model` is `self.model`, perhaps wrapped. Nothing here may wait for the device.
        """

    @abstractmethod
    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """One record per sample with its `loss` and all that `metrics` needs, on the CPU."""

    def records_later(self, model: nn.Module, batch: Batch) -> Callable[[], list[Record]]:
        """What returns the `records` of a batch, called once later batches are on their way.

        A task that waits for the device there, and not here, lets it go on in between.
        """
        found = self.records(model, batch)
        return lambda: found

    @abstractmethod
    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """Metrics over the records of a whole split, in the order of the samples."""

    def learn_from_train(self, records: Sequence[Record]) -> None:
        """Choose what is chosen on the train split, such as thresholds, from its records."""
        del records

    def frozen_features(self, config: Any) -> FrozenFeatures | None:
        """What `config` has kept of frozen features; None: images go through the whole model.

        Raises:
            UserError: Features are to be kept that depend on their batch.
        """
        return None

    # What is kept, shown and passed on.

    def metadata(self) -> dict[str, str]:
        """What the weights file says besides classes and settings, see `take_metadata`."""
        return {}

    def take_metadata(self, metadata: Mapping[str, str]) -> None:
        """Take over what `metadata` wrote."""
        del metadata

    def predictions(
        self, records: Sequence[Record], val: ShardReader, train: ShardReader
    ) -> Predictions | None:
        """The val split's records for `predictions.npz` and the page; None: there are none."""
        return None

    def pictures(
        self, loader: BatchLoader, indices: Sequence[int], *, drawn: int = 20
    ) -> list[Image.Image]:
        """What the model says of chosen samples, drawn on them; empty: there is nothing to draw.

        At most `drawn` boxes an image, where it says boxes.
        """
        return []

    @property
    def one_based(self) -> bool:
        """Boxes of the shards are read as 1-based, with inclusive maxima."""
        return True

    # `--dry-run`.

    def input_example(self, batch: Batch) -> Batch:
        """A batch of images as training gets it: as features where those are kept."""
        return batch

    def outputs(self, batch: Batch) -> list[tuple[str, str]]:
        """Name and shape of what the model, in evaluation mode, says of a batch."""
        output = self.model(batch.images)
        return [("output", f"{tuple(output.shape)} for {len(batch.indices)} samples")]

    @classmethod
    def weights_from(cls, config: Any) -> str:
        """Where the weights that training starts from come from."""
        return f"{config.model.weights} ({config.model.backbone})"

    # Inference.

    def answers(self, batch: Batch) -> list[Mapping[str, Any]]:
        """What the model says of each image: numbers, text, arrays, lists and mappings of them."""
        raise NotImplementedError(f"{type(self).__name__} answers nothing: write `answers`")

    def graph(self) -> ExportGraph | None:
        """The model as one graph from uint8 images to results; None: it cannot be exported."""
        return None

    def card(self) -> ModelCard:
        """What the model's user must know."""
        usage = (
            "from vocdist.inference.trained import load_trained\n\n"
            'task = load_trained("model.safetensors").task'
        )
        return ModelCard(self.title, usage, (), True, ("See the task's `transform`.",), "None.")


def task_class(name: str) -> type[Task]:
    """The task of a name, see the module's text.

    Raises:
        UserError: There is no such task, or its file cannot be found.
    """
    place, colon, class_name = _OWN.get(name, name).rpartition(":")
    if not colon:
        raise UserError(
            f"task={name}: there is no such task: {', '.join(_OWN)}, or path/to/file.py:Class"
        )
    module = _module_of(place) if place.endswith(".py") else importlib.import_module(place)
    found: type[Task] | None = getattr(module, class_name, None)
    if found is None:
        raise UserError(f"task={name}: {place} has no class {class_name}")
    return found


def _module_of(place: str) -> Any:
    """The module of a file; the script itself where that is being run."""
    path = Path(place).resolve()
    for name in ("__main__", "__mp_main__", path.stem):
        module = sys.modules.get(name)
        if module and Path(getattr(module, "__file__", None) or "").resolve() == path:
            return module
    if not path.is_file():
        raise UserError(f"{place}: no such file: start the script from the folder it is named from")
    # Loader processes import the module by its name.
    sys.path.append(str(path.parent))
    return importlib.import_module(path.stem)


def build_task(config: TaskConfig, train: ShardReader, *, pretrained: bool) -> Task:
    """The task of a config with its model on the CPU, see `Task.build`."""
    classes = train.manifest.classes
    return task_class(config.task).build(config, classes, train, pretrained=pretrained)


def load_run_config(run_dir: Path, overrides: Sequence[str] = ()) -> TaskConfig:
    """The config a run was trained with, as the type of its task.

    Shards that are not where it names them are looked for where the training found them.

    Raises:
        UserError: The folder is not a run.
    """
    config_type = task_class(task_of(run_dir)).config_type
    config: TaskConfig = load_config(config_type, run_dir / CONFIG, overrides)
    named = config.data.shards
    if isinstance(named, Path) and not (named / MANIFEST_NAME).is_file():
        # Relative to another folder, it may be: where the training found them.
        lay = remembered_shards(run_dir / ENVIRONMENT)
        if lay is not None and not any(o.startswith("data.shards=") for o in overrides):
            config = replace(config, data=replace(config.data, shards=lay))
    return config


def check_shards(run_dir: Path, config: TaskConfig) -> None:
    """Refuse a run whose shards are not where they were.

    Raises:
        UserError: With what to pass.
    """
    shards = config.data.shards
    if isinstance(shards, Path) and not (shards / MANIFEST_NAME).is_file():
        raise UserError(
            f"{run_dir}: was trained on the shards in {shards}, which are not there: pass "
            f"data.shards=WHERE THEY ARE NOW"
        )


def config_of_task(values: Mapping[str, Any], where: str) -> TaskConfig:
    """A config from plain values, as the type of the task that they name."""
    config_type = task_class(str(values.get("task", "classifier"))).config_type
    return config_from_plain(config_type, values, where)


@dataclass(frozen=True)
class EvaluationView:
    """How an evaluation sees an image.

    Attributes:
        transform: From stored pixels to the network's input.
        short_side: What `shrink` does to stored pixels first.
        padding: For images of varying size; None where all inputs have one.
    """

    transform: Transform
    short_side: int | None
    padding: Padding | None

    def shape(self, stored_hw: tuple[int, int]) -> tuple[int, int] | None:
        """(height, width) of the input that an image of this size becomes; None: always one."""
        if self.padding is None:
            return None
        return self.padding.padded(self.padding.sizes(np.array([stored_hw])))

    def example(
        self, pixels: Tensor, stored: Annotations, shape: tuple[int, int] | None
    ) -> Example:
        """The input of stored pixels (3, H, W) uint8, for a batch of this shape."""
        # Evaluation draws nothing from the generator; the transform's signature wants one.
        rng = np.random.default_rng(0)
        image = shrink(pixels, self.short_side)
        height, width = image.shape[1:]
        return self.transform.plan(stored, (height, width), rng, shape).example(image)


def evaluation_view(config: TaskConfig, classes: int) -> EvaluationView:
    """What the loader of an evaluation does to images, for images that come from elsewhere."""
    task = task_class(config.task)
    return EvaluationView(
        task.transform(config, classes, training=False),
        config.data.short_side,
        task.padding(config, training=False),
    )
