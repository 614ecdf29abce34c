"""The command line of every script: arguments, `--help`, errors in one line, exit codes."""

import io
import os
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import (
    TextIO,
    TypeVar,
)

from vocdist.config.file import load_config
from vocdist.config.help import settings_help
from vocdist.errors import (
    ABANDONED_EXIT,
    DISK_FULL,
    INTERRUPTED_EXIT,
    PIPE_CLOSED_EXIT,
    PROCESS_LOST_EXIT,
    USER_ERROR_EXIT,
    Interrupted,
    ProcessLost,
    SharedError,
    UserError,
    leave,
)
from vocdist.remote.location import is_url

Config = TypeVar("Config")


def run_command(
    main: Callable[[list[str]], None],
    doc: str | None,
    settings: type | None = None,
    default: Path | None = None,
    *,
    debug_is_mode: bool = False,
) -> None:
    """Call `main` with the arguments; a `UserError` ends in one line.

    `--help` prints `doc` and the `settings` with the values of the `default` file. `--debug` adds
    the traceback of errors, and is passed on to a script for which it is more (`debug_is_mode`).
    """
    _escape_what_cannot_be_shown()
    try:
        try:
            _run(main, doc, settings, default, debug_is_mode=debug_is_mode)
        finally:
            # Here, where the error can be caught: at the interpreter's end it cannot.
            sys.stdout.flush()
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not gone:
            raise
        # Whoever read the output has seen enough (`| head`): end as other programs do.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in gone:
            os.dup2(nowhere, stream.fileno())
        leave(PIPE_CLOSED_EXIT)


def _run(
    main: Callable[[list[str]], None],
    doc: str | None,
    settings: type | None,
    default: Path | None,
    *,
    debug_is_mode: bool,
) -> None:
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if not debug_is_mode:
        arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if any(argument in ("-h", "--help") for argument in arguments):
            print(help_text(doc, settings, default))
            return
        with _machines_errors():
            main(arguments)
    except UserError as error:
        _print_user_error(error, debug=debug)
        sys.exit(USER_ERROR_EXIT)
    except Interrupted as stop:
        if is_main_process():
            print(stop, file=sys.stderr, flush=True)
        leave(INTERRUPTED_EXIT)
    except ProcessLost as error:
        print(f"error (rank {os.environ.get('RANK', 0)}): {error}", file=sys.stderr, flush=True)
        leave(PROCESS_LOST_EXIT)
    except KeyboardInterrupt:
        sys.exit(ABANDONED_EXIT)


# How long a rank leaves it to rank 0 to print an error that all ranks may have found, seconds.
# The launcher looks at its processes ten times a second and ends all of them when one has failed.
OTHER_RANK_GRACE_S, OTHER_RANK_STEP_S = 5.0, 0.5


def _print_user_error(error: UserError, *, debug: bool) -> None:
    """Print an error so that it is seen once where all ranks have it, and in any case once."""
    main, met = is_main_process(), _ranks_have_met()
    if not main:
        if isinstance(error, SharedError):
            return
        if not met and not isinstance(error, _MachineError):
            _let_rank_0_print_it()
    if debug:
        traceback.print_exc()
    rank = "" if main else f" (rank {os.environ['RANK']})"
    print(f"error{rank}: {error}", file=sys.stderr, flush=True)


def _let_rank_0_print_it() -> None:
    """Wait for the launcher to end this process, as it does when rank 0 fails; return if not.

    Before the ranks meet, most errors (a misspelt key) are found by all of them. On a machine
    without rank 0 the rank with the lowest number is the first to go on from here.
    """
    # The launcher's signal, to which a training answers with a checkpoint, ends this wait.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(OTHER_RANK_GRACE_S + OTHER_RANK_STEP_S * int(os.environ.get("LOCAL_RANK", "0")))


def _escape_what_cannot_be_shown() -> None:
    """Write what the encoding of a terminal or log lacks as Python's escape, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (
            stream.errors == "strict" or not stream.encoding.lower().startswith("utf")
        ):
            stream.reconfigure(errors="backslashreplace")


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose other end was closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported in any case
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # closed, or not a file of the system
        return False


class _MachineError(UserError):
    """What the system refused: on one machine only, it may be, so that each rank says its own."""


@contextmanager
def _machines_errors() -> Iterator[None]:
    """Files that cannot be made, read or written, and full disks, in one line each."""
    try:
        yield
    except OSError as error:
        full = error.errno in DISK_FULL
        # Without a file, and not for want of room, it is a fault of ours or of the network's.
        if not full and (error.filename is None or error.strerror is None):
            raise
        remedy = "free some space" if full else "mend that"
        where = "" if error.filename is None else f"{error.filename}: "
        raise _MachineError(
            f"{where}cannot be read or written ({error.strerror}): {remedy} or choose another "
            f"place, then run the same command again (--debug shows where it was met)"
        ) from error


def help_text(doc: str | None, settings: type | None, default: Path | None) -> str:
    """A script's docstring and, where it has settings, what each of them is."""
    text = (doc or "").strip()
    if settings is None:
        return text
    # Without the repository there is no such file: the types' own defaults are shown.
    found = default is not None and _present(default).is_file()
    values = load_config(settings, _present(default)) if found and default else None
    origin = f"; shown are the values of {default}" if found else ""
    return f"{text}\n\nSettings{origin}:\n{settings_help(settings, values)}"


def is_main_process() -> bool:
    """Whether this is the process that prints: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def config_from_arguments(
    config_type: type[Config], arguments: Sequence[str], default: Path | None
) -> Config:
    """`[CONFIG.yaml] [section.key=value ...]` -> config; `default`, if any, is used without a file.

    Raises:
        UserError: The config is wrong, or is no config: the line to write is named.
    """
    places, overrides = _split(arguments)
    if len(places) > 1 or (places and not _may_be_config(places[0])):
        raise UserError(_as_settings(config_type, places))
    path = Path(places[0]) if places else default and _present(default)
    return load_config(config_type, path, overrides)


def _may_be_config(place: str) -> bool:
    path = Path(place)
    return path.is_file() or (path.suffix in (".yaml", ".yml") and not path.is_dir())


def _as_settings(config_type: type, places: Sequence[str]) -> str:
    """What to write for folders and URLs that were given without `key=`."""
    names = {field.name for field in fields(config_type)}
    keys = ("source", "output") if "source" in names else ("data.shards", "run.dir")
    config = [place for place in places if _may_be_config(place)][:1]
    rest = [place for place in places if place not in config]
    settings = [f"{key}={place}" for key, place in zip(keys, rest, strict=False)]
    line = shlex.join([*config, *settings])
    if len(rest) > len(keys) or not rest:
        return f"unexpected argument {places[-1]!r}: settings are given as section.key=value"
    first = rest[0]
    what = "a folder" if Path(first).is_dir() else "a URL" if is_url(first) else "no config file"
    return f"{first} is {what}: settings are given as key=value: {line}"


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separate the optional leading file or folder from the overrides.

    `--resume WHERE` and `--resume=WHERE` are spelled-out forms of `train.resume=WHERE`.
    """
    places, overrides = _split(arguments)
    if len(places) > 1:
        raise UserError(f"unexpected argument {places[1]!r} after {places[0]!r}")
    return (places[0] if places else None), overrides


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    places: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--resume":
            overrides.append(f"train.resume={rest.pop(0) if _is_value(rest) else 'auto'}")
        elif argument.startswith("--resume="):
            overrides.append(f"train.resume={argument.partition('=')[2]}")
        elif argument.startswith("-"):
            raise UserError(f"unknown option {argument}: settings are given as section.key=value")
        elif "=" in argument:
            overrides.append(argument)
        else:
            places.append(argument)
    return places, overrides


def split_places(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate files and folders from overrides; a file may have `=` in its name."""
    unknown = [argument for argument in arguments if argument.startswith("-")]
    if unknown:
        raise UserError(f"unknown option {unknown[0]}: settings are given as key=value")
    overrides = [a for a in arguments if "=" in a and not Path(a).exists()]
    return [a for a in arguments if a not in overrides], overrides


def take_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """Take `NAME VALUE` or `NAME=VALUE` out of the arguments: (value or None, the rest)."""
    rest = list(arguments)
    for i, argument in enumerate(rest):
        if argument == name:
            if i + 1 == len(rest):
                raise UserError(f"{name} needs a value")
            return rest[i + 1], rest[:i] + rest[i + 2 :]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2], rest[:i] + rest[i + 1 :]
    return None, rest


def _present(default: Path) -> Path:
    """The file in this folder, else that of the repository in whose scripts/ the command lies."""
    beside = Path(sys.argv[0]).absolute().parent.parent / default
    return beside if beside.is_file() and not default.is_file() else default


def _ranks_have_met() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def _is_value(rest: Sequence[str]) -> bool:
    return bool(rest) and "=" not in rest[0] and not rest[0].startswith("-")
