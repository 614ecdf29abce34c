"""Proposals of chosen val images, drawn on them."""

from collections.abc import Sequence

import torch
from PIL import Image

from vocdist.data.loader import BatchLoader
from vocdist.report.overlays import draw_proposals
from vocdist.tasks.rpn import RpnTask

# More than this many boxes hide the image.
DRAWN_PROPOSALS = 20


@torch.no_grad()
def proposal_overlays(
    task: RpnTask, loader: BatchLoader, indices: Sequence[int], *, drawn: int = DRAWN_PROPOSALS
) -> list[Image.Image]:
    """The `drawn` best proposals (red) and the boxes (green) of each image, as the network saw it.

    Runs on this process alone, on the device where the model is.
    """
    device = next(task.model.parameters()).device
    task.model.eval()
    classes = loader.dataset.reader.manifest.classes
    pictures = []
    for index, batch in zip(indices, loader.chosen(indices), strict=True):
        batch = batch.to(device)
        output, shapes = task.model(batch.inputs, batch.targets["image_size"])
        proposals = task.propose(output, shapes, batch)[0].boxes[:drawn]
        height, width = batch.targets["image_size"][0].tolist()
        pixels = batch.images[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        records = loader.dataset.reader.annotations[index]
        pictures.append(
            draw_proposals(
                Image.fromarray(pixels),
                proposals.cpu().numpy(),
                batch.targets["boxes"][0][batch.targets["box_mask"][0]].cpu().numpy(),
                gt_labels=[classes[i] for i in records.boxes[:, 0]],
            )
        )
    return pictures
