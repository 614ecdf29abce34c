"""vocdist: distributed batch training of detectors' building blocks on Pascal VOC.

    from vocdist import Classifier, RegionProposalNetwork, ShardDataset, load_manifest

Names are loaded when they are first used: importing the package does nothing.
"""

__version__ = "0.1.0"

_PUBLIC = {
    "Classifier": "vocdist.inference.predict",
    "RegionProposalNetwork": "vocdist.inference.predict",
    "ShardDataset": "vocdist.data.dataset",
    "UserError": "vocdist.errors",
    "load_manifest": "vocdist.shards.format",
}
__all__ = [
    "Classifier",
    "RegionProposalNetwork",
    "ShardDataset",
    "UserError",
    "__version__",
    "load_manifest",
]

# Type checkers take this for true; `typing` need not be imported for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from vocdist.data.dataset import ShardDataset
    from vocdist.errors import UserError
    from vocdist.inference.predict import Classifier, RegionProposalNetwork
    from vocdist.shards.format import load_manifest


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"vocdist has no {name!r}: it has {', '.join(_PUBLIC)}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
