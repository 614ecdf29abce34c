"""The settings of every command: typed, frozen, read from YAML plus `section.key=value` overrides.

Each command's settings are one dataclass, of which the package is the list; a training's has one
dataclass per section, in the file of its subject. The meaning of a setting stands in the docstring
of its section, from where `--help` takes it. Sections hold plain values: they are passed on as
arguments, never as a whole, to the rooms below `training/`.
"""

from vocdist.config.classifier import ClassifierConfig
from vocdist.config.commands import (
    ExportConfig,
    PredictConfig,
    ProposeConfig,
    ShardsConfig,
    VisualizeConfig,
)
from vocdist.config.rpn import RpnConfig
from vocdist.config.training import TaskConfig

__all__ = [
    "ClassifierConfig",
    "ExportConfig",
    "PredictConfig",
    "ProposeConfig",
    "RpnConfig",
    "ShardsConfig",
    "TaskConfig",
    "VisualizeConfig",
]
