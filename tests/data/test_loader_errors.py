"""An error of the data says the same whether the training or a loader process meets it."""

from pathlib import Path
from typing import Any

import pytest

from vocdist.data.dataset import RequestedSamples
from vocdist.data.loader import BatchLoader
from vocdist.data.transforms import ClassifierEvalTransform
from vocdist.errors import UserError
from vocdist.remote.transfer import NotThereError
from vocdist.shards.reader import ShardReader


class Fails(RequestedSamples):
    error: UserError

    def __getitems__(self, requests: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        UserError("other shards:\n  a UserError: b\n  c -> d\nchoose another"),
        NotThereError("http://server/a.tar: not there: check the URL"),
    ],
)
def test_it_arrives_whole_and_as_what_it_is(
    error: UserError, workers: int, demo_shards: Path
) -> None:
    dataset = Fails(ShardReader(demo_shards, "train"), ClassifierEvalTransform(20, 32, 1.0), 0)
    dataset.error = error
    own = BatchLoader(dataset, 8, num_workers=workers)
    with pytest.raises(type(error)) as raised:
        list(own.training(0))
    assert str(raised.value) == str(error)
