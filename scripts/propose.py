"""Propose boxes around the objects in images: COCO results JSON, and pictures of the first ones.

  python scripts/propose.py runs/rpn photos/
  python scripts/propose.py runs/rpn 'photos/**/*.png' more.jpg count=50 pictures=0
  python scripts/propose.py model.safetensors names.txt output=proposals device=cuda batch=32

Usage: propose.py RUN IMAGES... [key=value ...]. RUN is a run folder or a safetensors file, IMAGES
are files of any format that Pillow opens, folders, patterns, and .txt lists of these. Pixels are
taken as they are stored, as in training: rotation by EXIF is not applied. What cannot be read is
left out and named at the end, and makes the exit code 1. An image has fewer than count= boxes
where non-maximum suppression (the run's proposals.nms_threshold) leaves fewer. The results are read
with COCO("images.json").loadRes("proposals.json") of pycocotools.
"""

from vocdist.cli import run_command, split_places
from vocdist.config import ProposeConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError


def main(arguments: list[str]) -> None:
    """Propose on all images, then write the files and say where they are."""
    places, overrides = split_places(arguments)
    if len(places) < 2:
        raise UserError("a run and images are expected: propose.py runs/rpn photos/")
    config = load_config(ProposeConfig, None, overrides)
    # Here, not above: `--help` and a slip do not wait for torch.
    from tqdm import tqdm

    from vocdist.drawing import draw_proposals
    from vocdist.inference.files import find_images
    from vocdist.inference.predict import RegionProposalNetwork, by_position, exit_if_unreadable
    from vocdist.inference.writing import save_pictures, write_coco_results

    images = find_images(places[1:])
    network = RegionProposalNetwork.load(places[0], config.device)
    # Before the work, not after it: it may be refused.
    output = config.output or network.trained.weights.parent / "proposals"
    output.mkdir(parents=True, exist_ok=True)
    found = network.propose_each(
        images.files, count=config.count, batch=config.batch, workers=config.workers
    )
    bar = tqdm(found, total=len(images.files), desc="proposing", unit="img", disable=None)
    proposals, unreadable = by_position(bar)

    results = output / "proposals.json"
    write_coco_results(results, output / "images.json", proposals)
    save_pictures(
        proposals[: config.pictures],
        output / "pictures",
        lambda image, found: draw_proposals(image, found.boxes[: config.drawn], []),
    )
    total = sum(len(found.boxes) for found in proposals)
    print(f"{total:,} boxes on {len(proposals):,} images: {results}, ids are in images.json")
    exit_if_unreadable([*images.missing, *unreadable])


if __name__ == "__main__":
    run_command(main, __doc__, ProposeConfig)
