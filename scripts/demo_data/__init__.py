"""A small VOC data set drawn from a seed, so that everything can be tried without a download."""

from demo_data.dataset import write_demo_dataset

__all__ = ["write_demo_dataset"]
