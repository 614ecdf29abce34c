"""Reading a config from YAML and `section.key=value` overrides, and writing it back."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

Config = TypeVar("Config")


def load_config(
    config_type: type[Config], path: Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Build a config from a YAML file (or the defaults) and dotted overrides, later ones winning.

    Raises:
        UserError: For an unreadable file, an unknown key (the nearest one is named) or a value
            that does not fit its field.
    """
    values = read_yaml(path) if path else {}
    where = str(path) if path else "the command line"
    known = set(_key_paths(config_type))
    sections = {key.partition(".")[0] for key in known if "." in key}
    # A section whose lines are all commented out reads as null.
    values = {k: v for k, v in values.items() if not (v is None and k in sections)}
    for key in _leaves(values):
        _check_key(key, known, where)
    for override in overrides:
        key, value = _parse_override(override)
        _check_key(key, known, "the command line")
        _assign(values, key, value)
    return config_from_plain(config_type, values, where)


def config_from_plain(config_type: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Build a config from nested dicts, such as `plain_config` makes; `where` they come from.

    Raises:
        UserError: A value does not fit its field.
    """
    try:
        return TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        raise UserError(_first_problem(error, where)) from None


def save_config(config: Any, path: Path) -> None:
    """Write a config as a complete YAML file that `load_config` reads back to an equal one."""
    text = yaml.safe_dump(plain_config(config), sort_keys=False, allow_unicode=True)
    with replaced_when_done(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain_config(config: Any) -> dict[str, Any]:
    """A config as nested dicts of plain values, ready for YAML or JSON."""
    plain: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return plain


def config_differences(old: Any, new: Any, ignore: Sequence[str] = ()) -> list[str]:
    """Lines `key: old -> new` for the settings in which two configs differ.

    `ignore` holds keys or whole sections (`tracking`) that may differ.
    """
    before, after = dict(_flat(asdict(old))), dict(_flat(asdict(new)))
    skipped = tuple(f"{key}." for key in ignore)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not f"{key}.".startswith(skipped)
    ]


# Tag -> pattern and possible first characters; the first that matches wins.
_PLAIN_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
        "-+.0123456789",
    ),
}
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars, as far as they matter here.

    PyYAML follows 1.1, to which `2008_000015` and `000012` are numbers, `no` is false and `1e-4` a
    string.
    """

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag not in (*_PLAIN_SCALARS, _TIMESTAMP)
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in _PLAIN_SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config; the ready ones are in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {_one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections such as 'train:', found {values!r}")
    return values


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(
            f"{override!r} is not an override: write section.key=value, for example train.epochs=3"
        )
    try:
        return key, yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{key}: {text!r} is not a YAML value: {_one_line(error)}") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, field = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[field] = value


def _check_key(key: str, known: set[str], where: str) -> None:
    if key in known:
        return
    if any(name.startswith(f"{key}.") for name in known):
        raise UserError(f"'{key}' on {where} is a section: set its keys, as {key}.name=value")
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    # `epochs=3` is a common slip for `train.epochs=3`: look for the bare name in every section.
    named = sorted(path for path in known if path.rpartition(".")[2] == key.rpartition(".")[2])
    hint = " or ".join(f"'{name}'" for name in named or close)
    remedy = f"did you mean {hint}?" if hint else f"the keys are: {', '.join(sorted(known))}"
    raise UserError(f"unknown key '{key}' on {where}: {remedy}")


def _key_paths(config_type: type) -> Iterator[str]:
    """Every dotted key of a config type."""
    hints = get_type_hints(config_type)
    for field in fields(config_type):
        if is_dataclass(hints[field.name]):
            yield from (f"{field.name}.{key}" for key in _key_paths(hints[field.name]))
        else:
            yield field.name


def _leaves(values: Mapping[str, Any]) -> Iterator[str]:
    return (key for key, _ in _flat(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _first_problem(error: ValidationError, where: str) -> str:
    problem = error.errors()[0]
    parts = [part for part in problem["loc"] if not str(part).startswith("function-")]
    if problem["type"] == "missing" and isinstance(parts[-1], int):
        key = ".".join(map(str, parts[:-1]))
        needed = max(int(e["loc"][-1]) for e in error.errors() if e["type"] == "missing") + 1
        return f"{key}={problem['input']!r}: too few values, {needed} are needed"
    key = ".".join(map(str, parts))
    if problem["type"] == "missing":
        return f"'{key}' is not set: add it to {where} or pass {key}=VALUE"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{key}={problem['input']!r}: {message}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
