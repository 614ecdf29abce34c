"""What a training script can do with its config: train, or one of the modes for looking closer."""

from dataclasses import dataclass

from vocdist.config import TaskConfig
from vocdist.errors import UserError

FLAGS = ("--debug", "--dry-run", "--profile")
OVERFIT = "--overfit"


@dataclass(frozen=True)
class Mode:
    """`name` is a flag, or empty for the training itself; `images` those of `--overfit`."""

    name: str = ""
    images: int = 0


def take_mode(arguments: list[str]) -> tuple[Mode, list[str]]:
    """Take a mode out of a training script's arguments: (mode, the rest).

    Raises:
        UserError: There are two, or `--overfit` without a number.
    """
    rest, modes = [], []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if argument in FLAGS:
            modes.append(Mode(argument))
        elif name == OVERFIT:
            count = value if equals else next(remaining, "")
            if not count.isdecimal() or int(count) < 1:
                raise UserError(f"{OVERFIT} needs a number of images, as in {OVERFIT} 8")
            modes.append(Mode(OVERFIT, int(count)))
        else:
            rest.append(argument)
    if len(modes) > 1:
        raise UserError(f"{modes[0].name} and {modes[1].name}: choose one")
    return (modes[0] if modes else Mode()), rest


def start(config: TaskConfig, mode: Mode) -> dict[str, float] | None:
    """Train and return the metrics, or do what the mode says and return nothing.

    Raises:
        UserError: Something the user can mend.
    """
    # Each mode alone is imported: none of them should slow a training's start.
    if mode.name == "--dry-run":
        from vocdist.training.modes.dry_run import dry_run

        dry_run(config)
    elif mode.name == "--profile":
        from vocdist.training.modes.profile import profile_run

        profile_run(config)
    elif mode.name == "--debug":
        from vocdist.training.modes.debug import debug_run

        debug_run(config)
    elif mode.name == OVERFIT:
        from vocdist.training.modes.overfit import overfit

        overfit(config, mode.images)
    else:
        from vocdist.training.run import train

        return train(config)
    return None
