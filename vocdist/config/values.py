"""What a setting's value may be: a type with its bounds, which `--help` tells the user."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from vocdist.remote.location import parse_location

# Every section's: a key that is no setting is an error.
STRICT = ConfigDict(extra="forbid")

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


def _low_first(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound comes first")
    return bounds


FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_low_first)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_low_first)]
# Width / height of shapes.
Aspects = Annotated[tuple[Positive, ...], Field(min_length=1)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
# A folder, or a URL as a str.
Place = Annotated[Path | str, BeforeValidator(parse_location)]
# A file stem may well be a number.
Key = Annotated[str, Field(coerce_numbers_to_str=True)]
Keys = Annotated[tuple[Key, ...], Field(min_length=1)]

BackboneName = Literal[
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
]


def _precision_name(value: Any) -> Any:
    # Accelerate's own name for it.
    return "fp32" if value == "no" else value


Precision = Annotated[Literal["auto", "fp32", "bf16", "fp16"], BeforeValidator(_precision_name)]
