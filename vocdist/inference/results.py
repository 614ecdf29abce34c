"""Results that come as they become ready, put in the order of the images."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vocdist.errors import UserError

Result = TypeVar("Result")

# More of them are counted and not listed.
_LISTED = 20


@dataclass(frozen=True)
class Unreadable:
    """An image that is none, and why."""

    name: str
    reason: str


def by_position(
    results: Iterable[tuple[int, Result | Unreadable]],
) -> tuple[list[Result], list[Unreadable]]:
    """(position, result) pairs -> the results and what could not be read, both by position."""
    found: list[Result] = []
    unreadable: list[Unreadable] = []
    for _, result in sorted(results, key=lambda pair: pair[0]):
        if isinstance(result, Unreadable):
            unreadable.append(result)
        else:
            found.append(result)
    return found, unreadable


def in_order(results: Iterable[tuple[int, Result | Unreadable]]) -> list[Result]:
    """(position, result) pairs -> the results by position.

    Raises:
        UserError: An image could not be read; the message names the first and counts the others.
    """
    found, unreadable = by_position(results)
    if unreadable:
        others = f" (and {len(unreadable) - 1} others)" if len(unreadable) > 1 else ""
        first = unreadable[0]
        raise UserError(f"{first.name}: {first.reason}{others}: leave it out or repair it")
    return found


def exit_if_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Name what was left out and end with exit code 1; do nothing where nothing was."""
    if not unreadable:
        return
    print(f"left out, since they cannot be read: {len(unreadable):,}", file=sys.stderr)
    for bad in unreadable[:_LISTED]:
        print(f"  {bad.name}: {bad.reason}", file=sys.stderr)
    if len(unreadable) > _LISTED:
        print(f"  and {len(unreadable) - _LISTED:,} more", file=sys.stderr)
    sys.exit(1)
