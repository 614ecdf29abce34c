"""A Region Proposal Network, batched and free of host syncs: anchors, assignment, head, losses.

Shapes: B images, L feature levels, A anchors in all (levels concatenated), G padded ground-truth
boxes. Boxes are float32 xyxy absolute pixels, half-open, in the frame of the padded input tensor
(images lie at its top left).
"""
