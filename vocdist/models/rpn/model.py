"""From images to proposals' boxes and scores: frozen backbone, merged levels, RPN head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from vocdist.models.backbone import FrozenBackbone
from vocdist.models.graph import ExportGraph
from vocdist.models.layers import ImageNetPixels
from vocdist.models.rpn.anchors import cell_anchors, centres_inside, clip_to_images, level_grid
from vocdist.models.rpn.box_coding import decode
from vocdist.models.rpn.head import HeadOutput
from vocdist.models.rpn.network import RegionProposalNetwork

FeatureShapes = list[tuple[int, int]]


class ProposalModel(nn.Module):
    """From uint8 images to the head's output: pixels, frozen backbone, merged levels, RPN head."""

    def __init__(self, backbone: FrozenBackbone, rpn: RegionProposalNetwork, merged: int) -> None:
        """Several levels are merged top-down to `merged` channels each; one is taken as it is."""
        super().__init__()
        self.pixels = ImageNetPixels()
        self.backbone = backbone
        many = len(backbone.strides) > 1
        self.merge = FeaturePyramidNetwork(list(backbone.channels), merged) if many else None
        self.rpn = rpn

    def forward(
        self, inputs: Sequence[Tensor], image_sizes: Tensor
    ) -> tuple[HeadOutput, FeatureShapes]:
        """A batch's inputs, (B, 2) image sizes before padding -> output, (h, w) of the levels."""
        features = self.features(inputs, image_sizes)
        if self.merge is not None:
            merged = self.merge({str(i): level for i, level in enumerate(features)})
            features = list(merged.values())
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        return self.rpn(features), shapes

    def features(self, inputs: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
        """Levels (B, C_l, h_l, w_l) float32, of images (B, 3, H, W) uint8 or float32, or stored.

        Stored features are float16.
        """
        if inputs[0].dtype == torch.float16:
            return [level.float() for level in inputs]
        levels: list[Tensor] = self.backbone(self.pixels(inputs[0], image_sizes))
        return levels


class ProposalGraph(ExportGraph):
    """Every anchor's box and score, in the order of `RegionProposalNetwork`.

    `images` (B, 3, H, W) uint8, scaled and padded, and `image_sizes` (B, 2) int64, their (height,
    width) before the padding -> `boxes` (B, A, 4) float32 xyxy within the image, in pixels of the
    input, and `scores` (B, A) in [0, 1], 0 where an anchor is not centred on the image.
    """

    outputs = ("boxes", "scores")
    takes_sizes = True

    def __init__(self, model: ProposalModel) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = model
        self._rule = model.rpn.anchor_rule

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Box and score all anchors."""
        output, shapes = self.model([images], image_sizes)
        padded = (images.shape[2], images.shape[3])
        # The model's own grid is kept by size, which a graph for all sizes cannot do.
        levels = zip(shapes, self._rule.scales_per_level, strict=True)
        grid = torch.cat(
            [level_grid(shape, padded, cell_anchors(s, self._rule.ratios)) for shape, s in levels]
        )
        anchors = clip_to_images(grid, image_sizes)
        boxes = clip_to_images(decode(output.deltas, anchors), image_sizes)
        return boxes, output.objectness.sigmoid() * centres_inside(grid, image_sizes)
