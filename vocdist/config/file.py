"""Reading a config from YAML and `section.key=value` overrides, and writing it back."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from vocdist.config import (
    ClassifierConfig,
    ExportConfig,
    PredictConfig,
    ProposeConfig,
    RpnConfig,
    ShardsConfig,
    VisualizeConfig,
)
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

Config = TypeVar("Config")

COMMAND_LINE = "the command line"
# More are not listed in a message.
FEW_KEYS = 10
_OWNERS: dict[str, type] = {
    "make_shards.py": ShardsConfig,
    "train_classifier.py": ClassifierConfig,
    "train_rpn.py": RpnConfig,
    "predict.py": PredictConfig,
    "propose.py": ProposeConfig,
    "visualize.py": VisualizeConfig,
    "export.py": ExportConfig,
}
# Names in other programs -> what it may be here; the first that a command has is meant.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("batch", "batch_size", "batchsize", "bs"), ("train.global_batch", "batch")),
    **dict.fromkeys(("num_epochs", "n_epochs", "max_epochs"), ("train.epochs",)),
    **dict.fromkeys(("learning_rate", "base_lr"), ("optim.lr",)),
    **dict.fromkeys(("image_size", "img_size", "imgsz"), ("input.size", "input.short_side")),
    **dict.fromkeys(
        ("path", "dataset", "data_dir", "data_root", "root", "shards"), ("data.shards", "source")
    ),
    **dict.fromkeys(("output_dir", "out_dir", "out", "save_dir"), ("run.dir", "output")),
    **dict.fromkeys(("workers", "num_workers"), ("data.num_workers", "workers")),
}
_REMARKS = {"classes": "those of a training are the classes of its shards"}


def load_config(
    config_type: type[Config], path: Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Build a config from a YAML file (or the defaults) and dotted overrides, later ones winning.

    Raises:
        UserError: For an unreadable file, an unknown key (the nearest one is named) or a value
            that does not fit its field.
    """
    values = read_yaml(path) if path else {}
    where = str(path) if path else COMMAND_LINE
    types = dict(_key_types(config_type))
    sections = {key.partition(".")[0] for key in types if "." in key}
    # A section whose lines are all commented out reads as null.
    values = {k: v for k, v in values.items() if not (v is None and k in sections)}
    _check_keys_of_file(list(_leaves(values)), set(types), where)
    given = set()
    for override in overrides:
        key, value = _parse_override(override)
        _check_key(key, set(types), COMMAND_LINE)
        _assign(values, key, value)
        given.add(key)
    for key, value in list(_flat(values)):
        if key in types:
            origin = COMMAND_LINE if key in given else where
            _assign(values, key, _as_meant(key, value, types[key], origin))
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
        content = path.read_bytes()
        # Editors on Windows may begin UTF-8 with a mark.
        values = yaml.load(content.decode("utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config; the ready ones are in configs/") from None
    except UnicodeDecodeError:
        found = "UTF-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "another encoding"
        raise UserError(f"{path}: is text in {found}: save it as UTF-8") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, no config; the ready ones are in configs/") from None
    except (OSError, yaml.YAMLError) as error:
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


def _as_meant(key: str, value: Any, annotation: Any, where: str) -> Any:
    """A value as its field takes it: what is clear without a list's brackets becomes a list.

    Raises:
        UserError: It is empty, and the field takes no null; or a list of lists has no brackets.
    """
    kinds = _kinds(annotation)
    if value is None or value == "":
        if NoneType in kinds:
            return None
        if value is None or Path in kinds:
            which = f"{key}=" if where == COMMAND_LINE else f"'{key}' in {where}"
            wanted = "a value"
            if Path in kinds or key == "source":
                wanted = "a folder" if str not in kinds else "a folder or URL"
            raise UserError(f"{which} is empty: give {wanted} (an unset variable?)")
    items = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), None)
    if items is None or isinstance(value, list | tuple | Mapping) or value is None:
        return value
    if any(get_origin(kind) is tuple for kind in _kinds(items[0])):
        raise UserError(f"{key}={value}: a list of lists stands in brackets: '{key}=[[{value}]]'")
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return [yaml.load(part, _Loader) for part in text.split(",") if part.strip()]


def _kinds(annotation: Any) -> list[Any]:
    """The types of which a field's value may be, without their limits."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _check_keys_of_file(keys: Sequence[str], known: set[str], where: str) -> None:
    if set(keys) <= known:
        return
    for script, config_type in _OWNERS.items():
        if set(keys) <= {name for name, _ in _key_types(config_type)}:
            raise UserError(f"{where} is a config of {script}: pass it to that script")
    for key in keys:
        _check_key(key, known, where)


def _check_key(key: str, known: set[str], where: str) -> None:
    if key in known:
        return
    if any(name.startswith(f"{key}.") for name in known):
        raise UserError(f"'{key}' on {where} is a section: set its keys, as {key}.name=value")
    raise UserError(f"unknown key '{key}' on {where}: {_remedy(key, known)}")


def _remedy(key: str, known: set[str]) -> str:
    """What an unknown key may have been meant to be."""
    name = key.rpartition(".")[2]
    # `epochs=3` is a common slip for `train.epochs=3`: look for the bare name in every section.
    named = sorted(path for path in known if path.rpartition(".")[2] == name)
    meant = [path for path in _ELSEWHERE.get(name, ()) if path in known][:1]
    owner = next((s for s, t in _OWNERS.items() if key in dict(_key_types(t))), None)
    close = [] if owner else difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = " or ".join(f"'{path}'" for path in named or meant or close)
    remedies = []
    if owner and not meant:
        remark = f" ({_REMARKS[key]})" if key in _REMARKS else ""
        remedies.append(f"it is a setting of {owner}{remark}")
    if hint:
        remedies.append(f"did you mean {hint}?")
    elif not owner:
        few = len(known) <= FEW_KEYS
        remedies.append(f"the keys are: {', '.join(sorted(known))}" if few else "--help lists all")
    return "; ".join(remedies)


def _key_types(config_type: type) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a config type, with its annotation."""
    hints = get_type_hints(config_type, include_extras=True)
    for field in fields(config_type):
        annotation = hints[field.name]
        if is_dataclass(annotation):
            assert isinstance(annotation, type)
            yield from ((f"{field.name}.{key}", kind) for key, kind in _key_types(annotation))
        else:
            yield field.name, annotation


def _leaves(values: Mapping[str, Any]) -> Iterator[str]:
    return (key for key, _ in _flat(values))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# pydantic's own speak of Python's types.
_PLAIN_MESSAGES = {
    "tuple_type": "a list is needed, in brackets: [a, b]",
    "path_type": "a path is needed",
    "string_type": "text is needed; numbers that are meant as text stand in quotes: '\"1\"'",
    "dataclass_type": "a section is needed: set its keys, as section.key=value",
    "dict_type": "a section is needed: set its keys, as section.key=value",
}


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
    message = _PLAIN_MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    message = message[0].lower() + message[1:]
    return f"{key}={problem['input']!r}: {message}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
