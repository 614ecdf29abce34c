"""What the user of an RPN must know, for its model card: from pixels to the input, to proposals."""

from vocdist.config import RpnConfig
from vocdist.data.geometry import fitting_words
from vocdist.tasks.task import ModelCard


def rpn_card(config: RpnConfig) -> ModelCard:
    """See `Task.card`; the sentences say what `RpnTask.transform` and its padding do."""
    return ModelCard(
        "Region Proposal Network",
        "from vocdist import RegionProposalNetwork\n\n"
        'model = RegionProposalNetwork.load("model.safetensors")\n'
        'print(model.propose("photo.jpg", count=50)[0].boxes)',
        ("object-detection", "rpn"),
        False,
        tuple(_input_words(config)),
        _output_words(config),
    )


def _input_words(config: RpnConfig) -> list[str]:
    """The sentences from stored pixels to the graph's input."""
    box = config.input
    if box.snaps:
        fitted = fitting_words(box.short_side, box.long_side, box.pad_multiple, box.aspects)
        return [fitted, "There is no padding: image_sizes are (height, width) of the input."]
    return [
        fitting_words(box.short_side, box.long_side, 1),
        f"Pad with zeros at the right and the bottom to multiples of {box.pad_multiple}.",
        "image_sizes are (height, width) before the padding.",
    ]


def _output_words(config: RpnConfig) -> str:
    """The sentence from the graph's outputs to proposals."""
    rule, model = config.proposals, config.model
    text = "boxes are xyxy, in pixels of the input. "
    each = ""
    if len(model.strides) > 1:
        anchors = [len(scales) * len(model.ratios) for scales in model.scales]
        levels = zip(model.strides, anchors, strict=True)
        each = "of each level "
        text += (
            "They come by levels, of ceil(H / stride) * ceil(W / stride) * anchors each (stride, "
            f"anchors: {'; '.join(f'{stride}, {count}' for stride, count in levels)}). "
        )
    low = "of 0" if rule.score_threshold is None else f"below {rule.score_threshold:g}"
    return (
        f"{text}Take the {rule.pre_nms_top_k} best {each}by score, drop those with a side below "
        f"{rule.min_size:g} pixels or a score {low}, apply NMS at IoU {rule.nms_threshold:g}"
        f"{' to each level' if each else ''}, keep as many of the best as wanted, and multiply by "
        f"stored size / image_sizes."
    )
