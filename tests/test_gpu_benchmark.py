"""benchmarks/gpu.py: what it writes, also where it is cut off; without a GPU a tiny run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from launch import REPO, environment

from vocdist.voc.classes import VOC_CLASSES


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it may import its neighbours."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu", REPO / "benchmarks" / "gpu.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def test_each_phase_is_written_at_once_and_a_failing_one_is_said(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    report = benchmark.Report(tmp_path, benchmark.time.monotonic() + 100)
    report.note("machine", {"gpu": "none"})
    rows = 'print(\'{"contender": "ours", "images_per_s": 1234.5}\', flush=True)'
    broken = [sys.executable, "-c", f"{rows}\nraise SystemExit('no such\\nkernel | here')"]
    benchmark.lines(report, "steps", broken, limit=60)
    slow = [sys.executable, "-c", f"{rows}\nimport time\ntime.sleep(60)"]
    benchmark.lines(report, "slow", slow, limit=3)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["steps"] == [
        {"contender": "ours", "images_per_s": 1234.5},
        {"failed": "no such\nkernel | here"},
    ]
    assert found["slow"][-1] == {"left_out": "the rest: it took too long"}
    page = (tmp_path / "gpu.md").read_text()
    assert "| contender | images_per_s |\n|---|---|\n| ours | 1,234 |" in page
    assert "no such kernel / here" in page
    late = benchmark.Report(tmp_path, benchmark.time.monotonic() + 1)
    benchmark.lines(late, "steps", broken, limit=60)
    benchmark.train(late, "rpn", tmp_path, tmp_path, [], limit=60)
    assert set(map(str, late.found.values())) == {"{'left_out': 'no time'}"}


def test_the_data_set_is_as_large_as_asked_and_has_boxes(
    benchmark: ModuleType, demo_root: Path, tmp_path: Path
) -> None:
    from vocdist.voc.annotation import parse_annotation

    sources = benchmark.jpegs_in(demo_root)[:3]
    benchmark.write_voc_tree(tmp_path / "voc", sources, 5, 2)
    assert len(benchmark.jpegs_in(tmp_path / "voc")) == 7
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    assert [len((lists / f"{name}.txt").read_text().split()) for name in ("train", "val")] == [5, 2]
    for path in sorted((tmp_path / "voc" / "Annotations").iterdir()):
        objects = parse_annotation(path).objects
        assert 1 <= len(objects) <= 4
        assert {one.name for one in objects} <= set(VOC_CLASSES)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it takes minutes")
def test_without_a_gpu_it_says_so_and_measures_a_little(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--out", str(tmp_path)],
        cwd=REPO,
        env={**environment(), "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "no GPU here" in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    contenders = [row["contender"] for row in (*found["steps"], *found["rpn steps"])]
    assert contenders == [
        "ours",
        "torchvision model",
        "torchvision",
        "torchvision, 1 proposal",
        "ours, eager",
    ]
    for task in ("classifier", "rpn"):
        result = found[f"{task} from the command to report.html"]
        assert result["report"] and result["epochs"] == 1
        assert 0 < result["first_row_s"] < result["seconds"]
    assert found["notebook"][0]["images_per_s"] > 0
