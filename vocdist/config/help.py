"""A config's settings for people: from its annotations, defaults and docstrings alone."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ByteSize

WIDTH = 100
_PLAIN_NAMES = {
    int: "integer",
    float: "number",
    bool: "true | false",
    str: "text",
    Path: "path",
    ByteSize: "bytes, as 20GB",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting, or the beginning of a section of them.

    Attributes:
        key: As it is set, `train.epochs`; of a section its name, `train`.
        value: The default as it is written, `...` where there is none; None of a section.
        kind: What may be written, `integer ≥ 1`; empty of a section.
        meaning: In words.
    """

    key: str
    value: str | None = None
    kind: str = ""
    meaning: str


def settings_help(config_type: type, values: Any = None) -> str:
    """All settings of a config type, `key=default`, type and meaning, in lines of 100 columns.

    The defaults are those of `values`, a config of that type, where given.
    """
    return "\n".join(line for item in settings_of(config_type, values) for line in _lines(item))


def settings_of(config_type: type, values: Any = None, prefix: str = "") -> Iterator[Setting]:
    """All settings of a config type, each section's after its name; `values` as above."""
    hints = get_type_hints(config_type, include_extras=True)
    meanings = _meanings(config_type)
    for field in fields(config_type):
        value = field.default if values is None else getattr(values, field.name)
        annotation, key = hints[field.name], f"{prefix}{field.name}"
        if isinstance(annotation, type) and is_dataclass(annotation):
            yield Setting(key=key, meaning=_first_line(annotation))
            yield from settings_of(annotation, None if value is MISSING else value, f"{key}.")
        elif field.name in meanings:  # others, as `task`, are not for the user
            shown = "..." if value is MISSING else plain_value(value)
            yield Setting(
                key=key, value=shown, kind=type_name(annotation), meaning=meanings[field.name]
            )


def type_name(annotation: Any) -> str:
    """A type as a user writes its values: `integer ≥ 1`, `a | b`, `[number, number]`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (Union, UnionType):
        names = [type_name(member) for member in arguments if member is not NoneType]
        return " or ".join(names + ["null"] * (NoneType in arguments))
    if origin is tuple:
        inner = [type_name(member) for member in arguments if member is not Ellipsis]
        return f"[{', '.join(inner)}{', ...' * (Ellipsis in arguments)}]"
    return _PLAIN_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def plain_value(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{','.join(plain_value(item) for item in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lines(item: Setting) -> Iterator[str]:
    if item.value is None:
        yield f"\n{item.key}: {item.meaning}"
        return
    # Names of networks and the like make a type longer than what is left of the line.
    setting = f"{item.key}={item.value}"
    head = f"  {setting:<44} {item.kind}"
    yield from [head] if len(head) <= WIDTH else [f"  {setting}", *_wrapped(item.kind)]
    yield from _wrapped(item.meaning)


def _wrapped(text: str) -> list[str]:
    indent = " " * 6
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _meanings(config_type: type) -> dict[str, str]:
    """What a docstring's `Attributes:` says of each field, on one line."""
    _, _, listed = (inspect.getdoc(config_type) or "").partition("Attributes:")
    entries = re.split(r"\n {4}(?=\w+: )", textwrap.indent(inspect.cleandoc(listed), "    "))
    pairs = (entry.strip().partition(": ") for entry in entries)
    return {name: " ".join(text.split()) for name, _, text in pairs}


def _first_line(config_type: type) -> str:
    return (inspect.getdoc(config_type) or "").partition("\n")[0]


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Limits of a number, as pydantic's Field keeps them: ` ≥ 1`, ` > 0`, ` 0 to 1`."""
    rules = [rule for info in metadata for rule in getattr(info, "metadata", ())]
    limits = {
        name: f"{getattr(rule, name):g}"
        for rule in rules
        for name in ("ge", "gt", "le")
        if hasattr(rule, name)
    }
    if "ge" in limits and "le" in limits:
        return f" {limits['ge']} to {limits['le']}"
    signs = {"ge": "≥", "gt": ">", "le": "≤"}
    return "".join(f" {signs[name]} {limit}" for name, limit in limits.items())
