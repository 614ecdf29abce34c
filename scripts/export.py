"""Make a trained model ready for use elsewhere: safetensors with a model card, ONNX, torch.export.

  python scripts/export.py runs/classifier
  python scripts/export.py runs/rpn output=exported/rpn formats=[onnx]

Usage: export.py RUN [key=value ...]; RUN is a run folder or a safetensors file. Every file is
compared with the model it is made of: scores, and boxes as shares of the image, agree to 1e-4.
Their metadata says how images are prepared and outputs are read; so does README.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vocdist.cli import run_command, split_arguments
from vocdist.config import ExportConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

if TYPE_CHECKING:
    from vocdist.inference.trained import Trained


def main(arguments: list[str]) -> None:
    """Write the formats, check each, then the card about them."""
    run, overrides = split_arguments(arguments)
    if run is None:
        raise UserError("which run? python scripts/export.py runs/classifier")
    config = load_config(ExportConfig, None, overrides)
    # Here and below, not above: `--help` and a slip do not wait for torch.
    from vocdist.inference.export import model_card, require_onnx
    from vocdist.inference.trained import load_trained
    from vocdist.runs.folder import RESULTS, load_results

    if "onnx" in config.formats:
        require_onnx()
    trained = load_trained(run, "cpu")
    source = trained.weights.parent
    output = config.output or source / "export"
    output.mkdir(parents=True, exist_ok=True)
    files = write_formats(trained, output, config.formats)
    results = load_results(source / RESULTS) if (source / RESULTS).is_file() else None
    with replaced_when_done(output / "README.md") as temporary:
        temporary.write_text(model_card(trained, results, files), encoding="utf-8")
    print(f"{output}: {', '.join(files)}, README.md")


def write_formats(trained: Trained, output: Path, formats: tuple[str, ...]) -> list[str]:
    """Write and check the files; their names."""
    from vocdist.inference import export
    from vocdist.inference.export import metadata_of
    from vocdist.runs.checkpoint import save_weights

    metadata = metadata_of(trained)
    files = []
    if "safetensors" in formats:
        files.append("model.safetensors")
        with replaced_when_done(output / files[-1]) as temporary:
            save_weights(trained.task.model, temporary, metadata)
    if not {"onnx", "torch"} & set(formats):
        return files
    graph, size = export.export_graph(trained), export.example_size(trained)
    program = export.export_program(graph, size)
    if "torch" in formats:
        path = output / "model.pt2"
        export.save_program(program, path, metadata)
        export.check(export.program_difference(path, graph, size), path)
        files.append(path.name)
    if "onnx" in formats:
        path = output / "model.onnx"
        export.save_onnx(program, path, graph.outputs, metadata)
        export.check(export.onnx_difference(path, graph, size), path)
        files.append(path.name)
    return files


if __name__ == "__main__":
    run_command(main, __doc__, ExportConfig)
