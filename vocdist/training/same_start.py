"""Whether all ranks begin at the same place, asked before the first of them waits for another."""

import socket
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from vocdist.config_file import config_differences
from vocdist.errors import SharedError
from vocdist.training.accelerator import gather_lists
from vocdist.training.start import FREE_TO_CHANGE, Start


@dataclass(frozen=True)
class RankStart:
    """Where one rank would begin.

    Attributes:
        rank: Its number.
        host: Its machine.
        config: With all settings.
        start: Its position and checkpoint.
        finished: It sees the results of a finished run.
    """

    rank: int
    host: str
    config: Any
    start: Start
    finished: bool


def check_same_start(
    accelerator: Accelerator, config: Any, start: Start, *, finished: bool
) -> None:
    """Go on when all ranks begin at the same place (a collective).

    Each has read its shards and run folder by itself; where two hosts do not see the same ones,
    the ranks would wait for each other until `runtime.collective_timeout_s` is over.

    Raises:
        SharedError: They differ, in what, and how that is mended; on every rank.
    """
    own = RankStart(accelerator.process_index, socket.gethostname(), config, start, finished)
    first, *others = gather_lists(accelerator, [own])
    for other in others:
        difference = _difference(first, other)
        if difference:
            raise SharedError(difference)


def _difference(first: RankStart, other: RankStart) -> str:
    """What keeps two ranks from training together; empty: nothing."""
    who = f"rank {first.rank} ({first.host}) and rank {other.rank} ({other.host})"
    settings = config_differences(first.config, other.config, FREE_TO_CHANGE)
    if settings:
        return f"{who} were started with other settings: {'; '.join(settings)}: pass the same"
    if first.start.position.manifest_hash != other.start.position.manifest_hash:
        return (
            f"{who} have other shards in data.shards: {first.config.data.shards} and "
            f"{other.config.data.shards}: copy one folder to all hosts, or share it"
        )
    if _place(first) == _place(other):
        return ""
    return (
        f"{who} do not begin at the same place: {_seen_by(first)}, {_seen_by(other)}: put run.dir "
        f"on a file system that all hosts share, and pass the same run.dir everywhere"
    )


def _place(seen: RankStart) -> tuple[object, ...]:
    start = seen.start
    return start.position, start.checkpoint and start.checkpoint.name, start.rewound, seen.finished


def _seen_by(seen: RankStart) -> str:
    what = "no checkpoint" if seen.start.checkpoint is None else seen.start.checkpoint.name
    return f"rank {seen.rank} sees {what} in {seen.config.run.dir}"
