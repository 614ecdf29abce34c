"""What a run folder says about its run, and whether two runs ended alike."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def status_of(run: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((run / "status.json").read_text())
    return status


def rows_of(run: Path) -> list[dict[str, float]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("perf/")}


def same_end(run: Path, undisturbed: Path) -> None:
    ours, theirs = (
        load_file(run / "model.safetensors"),
        load_file(undisturbed / "model.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert [timeless(row) for row in rows_of(run)] == [
        timeless(row) for row in rows_of(undisturbed)
    ]
    assert status_of(run)["state"] == "finished"
