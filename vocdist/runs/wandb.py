"""Weights & Biases: the run, and what its offline files hold."""

import logging
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import numpy as np
import wandb
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from wandb.proto import wandb_internal_pb2

from vocdist.errors import UserError

_FILE_HEADER = b":W&B"
_FILE_HEADER_BYTES, _BLOCK, _PART_HEADER_BYTES = 7, 32768, 7
# A message is whole, or cut into a first, middle and last part at the ends of blocks.
_WHOLE, _LAST = 1, 4


class OfflineRun(NamedTuple):
    """One folder that `wandb sync` takes.

    Attributes:
        folder: `offline-run-<time>-<id>`.
        next_step: One above the last row's own step; 0 without rows.
    """

    folder: Path
    next_step: int


def offline_runs(run_dir: Path, run_id: str) -> list[OfflineRun]:
    """The offline folders of a W&B run that hold anything, oldest first."""
    found = []
    for path in sorted(
        files_folder(run_dir).glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    ):
        kinds, next_step = set(), 0
        for record in _records(path.read_bytes()):
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("history"):
                next_step = max(next_step, record.history.step.num + 1)
        if "run" in kinds:
            found.append(OfflineRun(path.parent, next_step))
    return found


def _records(data: bytes) -> Iterator[Any]:
    """All that was written whole, in order."""
    if data[: len(_FILE_HEADER)] != _FILE_HEADER:
        return
    position, message = _FILE_HEADER_BYTES, b""
    while position + _PART_HEADER_BYTES <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _PART_HEADER_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _PART_HEADER_BYTES + length
        if position > len(data):
            return
        message += data[position - length : position]
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            try:
                record.ParseFromString(message)
            except DecodeError:
                return
            yield record
            message = b""


Run = wandb.Run


# Seconds in which a server must have answered.
INIT_TIMEOUT_S = 20
# Seconds of silence after which a line says what is waited for.
_PATIENCE_S = 1.5


def files_folder(run_dir: Path) -> Path:
    """Where W&B keeps the files of a run: `$WANDB_DIR`, else its folder."""
    return Path(os.environ.get("WANDB_DIR") or run_dir)


def start_run(
    mode: str,
    *,
    project: str | None,
    name: str,
    folder: Path | None,
    config: Mapping[str, Any],
    run_id: str | None = None,
) -> Run | None:
    """Start a run, or go on with that of `run_id`; None when disabled.

    Args:
        mode: `auto` (online when logged in, else offline), `online`, `offline` or `disabled`.
        project: W&B project; None: `$WANDB_PROJECT`, else `vocdist`.
        name: Of the run, unless `$WANDB_NAME` names it.
        folder: Where its files are kept; None: the working folder. See `files_folder`.
        config: Shown and searchable in W&B.
        run_id: Of a run to go on with.

    Raises:
        UserError: W&B refuses the API key, a name or one of its variables, whatever the server
            would say; or `$WANDB_DIR` cannot be made or written to.
    """
    if mode == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        mode = "disabled"
    with _readable_refusals():
        if mode == "auto":
            # No prompt and no request: the user's own word, else a look for credentials.
            mode = os.environ.get("WANDB_MODE") or (
                "online" if wandb.login(prompt=False, verify=False) else "offline"
            )
        if mode == "disabled":
            return None
        _make_files_folder()
        # Its page shows them one by one, whatever their sizes.
        logging.getLogger().addFilter(_is_not_about_sizes)
        # Not W&B's 90 s of silence: a wrong key or no network is said while somebody looks.
        settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S)
        options: dict[str, Any] = {
            "project": project or os.environ.get("WANDB_PROJECT", "vocdist"),
            "name": os.environ.get("WANDB_NAME", name),
            "dir": folder and files_folder(folder),
            "id": run_id,
        }
        options |= {"config": dict(config), "resume": "allow", "settings": settings}
        try:
            with _said_to_wait(mode):
                return wandb.init(mode=mode, **options)  # type: ignore[arg-type]
        except wandb.errors.AuthenticationError:
            # No key looks like this one; where a server refuses a key, the error is another.
            raise
        except wandb.Error as error:
            # No network is no reason not to work. What W&B refuses of the names, it does so again.
            run = wandb.init(mode="offline", **options)
            print(f"W&B cannot be reached ({_one_line(error)}): this run is logged offline")
            return run


@contextmanager
def _readable_refusals() -> Iterator[None]:
    """Turn what W&B refuses before it asks a server into a `UserError`."""
    try:
        yield
    except wandb.errors.AuthenticationError as error:
        raise UserError(
            f"W&B does not take this API key ({_one_line(error)}): copy it again from the settings "
            f"of your W&B account (into WANDB_API_KEY, or by wandb login), or pass "
            f"tracking.wandb=offline"
        ) from None
    except ValidationError as error:
        # Only what is wrong, not the value: it may be a secret.
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        )
        raise UserError(
            f"W&B does not take one of its settings ({wrong}): mend the variable WANDB_* that sets "
            f"it, or pass tracking.wandb=disabled"
        ) from None
    except wandb.errors.UsageError as error:
        raise UserError(
            f"W&B refuses this run ({_one_line(error)}): mend tracking.project or the variable "
            f"WANDB_* that sets it, or pass tracking.wandb=disabled"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _make_files_folder() -> None:
    """Make `$WANDB_DIR`: where it is missing, W&B would use another folder and not say which.

    Raises:
        UserError: It cannot be made or written to.
    """
    named = os.environ.get("WANDB_DIR")
    if not named:
        return
    remedy = "mend that, or set WANDB_DIR to a folder that can be made"
    try:
        Path(named).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"WANDB_DIR={named}: cannot be made ({error.strerror}): {remedy}") from None
    if not os.access(named, os.W_OK):
        raise UserError(f"WANDB_DIR={named}: cannot be written to: {remedy}")


@contextmanager
def _said_to_wait(mode: str) -> Iterator[None]:
    """Say that a server is waited for, where it does not answer soon."""
    line = (
        f"waiting up to {INIT_TIMEOUT_S} s for W&B at {wandb.setup().settings.base_url} "
        f"(tracking.wandb=offline does not ask it)"
    )
    timer = Timer(_PATIENCE_S, print, (line,), {"flush": True})
    timer.daemon = True
    if mode not in ("offline", "dryrun"):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def describe_location(run: Run | None, earlier: Sequence[Path] = ()) -> str:
    """One line for the user: where the run is, and how to upload it, `earlier` folders included."""
    if run is None:
        return "W&B: disabled"
    if run.offline:
        folder = Path(run.settings.sync_dir)
        folders = [*(path for path in earlier if path.name != folder.name), folder]
        return f"W&B: offline (upload it with: wandb sync {' '.join(map(str, folders))})"
    return f"W&B: {run.url}"


def finish_run(run: Run, exit_code: int) -> None:
    """End a run, and wait for all of it to be written."""
    run.finish(exit_code=exit_code)
    # Until W&B's own process has ended, the last rows may not be in its file.
    wandb.teardown()


def picture(path: Path) -> wandb.Image:
    """A picture file as a value of a row."""
    return wandb.Image(str(path))


def data_set(
    name: str, *, manifest: Path, references: Mapping[str, str], metadata: Mapping[str, Any]
) -> wandb.Artifact:
    """An artifact of type `dataset`; the same content is the same version, whoever logs it.

    Args:
        name: What W&B does not take in a name becomes `-`.
        manifest: Copied, and uploaded with it; it states the shards' hashes.
        references: Name in the artifact -> URL of what stays where it is and is not read.
        metadata: Shown and searchable in W&B.
    """
    artifact = wandb.Artifact(_plain_name(name), type="dataset", metadata=dict(metadata))
    artifact.add_file(str(manifest))
    for member, url in references.items():
        artifact.add_reference(url, name=member, checksum=False)
    return artifact


def note_config(run: Run, values: Mapping[str, Any]) -> None:
    """Add to what is shown and searchable of a run; a resumed run may change it."""
    run.config.update(dict(values), allow_val_change=True)  # type: ignore[no-untyped-call]


def use(run: Run, artifact: wandb.Artifact) -> None:
    """Note that a run has read an artifact: its input, in W&B's lineage."""
    if not run.offline:
        run.use_artifact(artifact)
        return
    # W&B refuses the line above offline, though what it would write is read by `wandb sync`.
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def log_model(run: Run, name: str, weights: Path, metadata: Mapping[str, Any]) -> None:
    """Log weights as an artifact of type `model`, by reference: they stay where they are."""
    artifact = wandb.Artifact(_plain_name(name), type="model", metadata=dict(metadata))
    artifact.add_reference(weights.absolute().as_uri(), name=weights.name)
    run.log_artifact(artifact, aliases=["best"])


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> wandb.Table:
    """A table as a value of a row."""
    return wandb.Table(columns=list(columns), data=[list(row) for row in rows])


def precision_recall_chart(points: Sequence[tuple[str, float, float]], title: str) -> Any:
    """Points (class, recall, precision) as W&B's own chart of precision over recall."""
    return wandb.plot_table(
        # `wandb.plot.pr_curve` takes one class an image; this is the chart that it makes.
        vega_spec_name="wandb/area-under-curve/v0",
        data_table=table(("class", "recall", "precision"), points),
        fields={"x": "recall", "y": "precision", "class": "class"},
        string_fields={"title": title, "x-axis-title": "Recall", "y-axis-title": "Precision"},
    )


class Overlay(NamedTuple):
    """Boxes (N, 4) as shares of an image's width and height, with ids of `names`, and scores."""

    boxes: NDArray[np.float32]
    class_ids: Sequence[int]
    names: Sequence[str]
    scores: Sequence[float] | None = None


def image_with_boxes(
    jpeg: bytes, overlays: Mapping[str, Overlay], caption: str = ""
) -> wandb.Image:
    """An image whose boxes W&B draws itself, so that they can be switched and filtered by score."""
    drawn = {
        group: {
            "box_data": [_box(overlay, i) for i in range(len(overlay.boxes))],
            "class_labels": dict(enumerate(overlay.names)),
        }
        for group, overlay in overlays.items()
    }
    with Image.open(BytesIO(jpeg)) as image:
        return wandb.Image(image.convert("RGB"), boxes=drawn, caption=caption, file_type="jpg")


def _box(overlay: Overlay, i: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in overlay.boxes[i])
    name = overlay.names[overlay.class_ids[i]]
    box: dict[str, Any] = {
        "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
        "class_id": int(overlay.class_ids[i]),
        "box_caption": name,
    }
    if overlay.scores is not None:
        score = float(overlay.scores[i])
        box |= {"scores": {"score": score}, "box_caption": f"{name} {score:.2f}"}
    return box


def _is_not_about_sizes(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Images sizes do not match")


def _plain_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)
