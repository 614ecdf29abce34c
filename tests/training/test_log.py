import io
from types import SimpleNamespace

import torch

from vocdist.training.log import ProgressLine

ROW = {
    "train/loss": 0.5,
    "perf/images_per_s": 120.4,
    "perf/steps_per_s": 2.0,
    "perf/data_wait": 0.031,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_through(file: io.StringIO, *, shown: bool = True) -> str:
    line = ProgressLine(shown=shown, file=file)
    with line.epoch("epoch 2/3", steps=4, done=1):
        for _ in range(3):
            line.step()
        line.show(ROW, steps_left=130)
    batches = [SimpleNamespace(indices=torch.arange(3)) for _ in range(2)]
    assert list(line.measuring(iter(batches), samples=6)) == batches
    return file.getvalue()


def test_the_line_tells_rate_loss_waiting_and_the_time_left() -> None:
    text = run_through(Terminal())
    assert "epoch 2/3" in text and "4/4" in text and "validation" in text
    assert "120 images/s, waiting for data 3%, loss 0.5000, 01:05 left" in text
    # One line, without color, which is wiped at the end.
    assert "\n" not in text and "\x1b[" not in text.replace("\x1b[A", "")
    assert text.rsplit("\r", 2)[-1].strip() == ""


def test_where_output_is_piped_and_on_other_processes_it_is_quiet() -> None:
    assert run_through(io.StringIO()) == ""
    assert run_through(Terminal(), shown=False) == ""
    line = ProgressLine(shown=True, file=io.StringIO())
    line.step()
    line.show(ROW, steps_left=1)
