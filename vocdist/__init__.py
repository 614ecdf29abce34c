"""vocdist: distributed batch training of detectors' building blocks on Pascal VOC."""

__version__ = "0.1.0"
