"""A function of batches as CUDA graphs, one for each shape: all that only CUDA can run.

The pattern of PyTorch's notes ("CUDA graphs", whole-network capture) and of torchtitan's
`distributed/cudagraph.py`: one stream and one memory pool; the first batch of a shape runs eagerly
on the stream that captures, so that cuBLAS and cuDNN have their handles, plans and workspaces
there; the second is recorded; from then on a batch is copied to where the graph reads, and the
graph replayed.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from vocdist.data.batch import Batch

Outputs = dict[str, Tensor]
BatchFunction = Callable[[Batch], Outputs]

# Each takes some tenths of a second to record, and its inputs and outputs stay on the device.
MAX_GRAPHS = 64


class CaptureError(Exception):
    """A graph could not be recorded; nothing has been computed."""


class _Recorded(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    outputs: Outputs


class GraphedFunction:
    """A function of batches, replayed from a CUDA graph where one was recorded.

    The function must neither wait for the device nor depend on numbers of the host that change,
    and what it writes besides its outputs must stay where it is. Graphs share a pool: they run one
    at a time, and no output is needed after the next replay, since what is returned are copies.

    Args:
        function: From a batch to tensors by name.
        device: The CUDA device.
    """

    def __init__(self, function: BatchFunction, device: torch.device) -> None:
        """Nothing is recorded yet."""
        self._function = function
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, batch: Batch) -> Outputs:
        """What the function returns.

        Raises:
            CaptureError: A second batch of a shape could not be recorded.
        """
        key = batch.signature()
        recorded = self._recorded.get(key)
        if recorded is None:
            if key not in self._seen or len(self._recorded) == MAX_GRAPHS:
                self._seen.add(key)
                return self._warm_up(batch)
            recorded = self._recorded[key] = self._record(batch)
        torch._foreach_copy_(recorded.inputs.tensors(), batch.tensors())
        recorded.graph.replay()
        return {name: output.clone() for name, output in recorded.outputs.items()}

    def _warm_up(self, batch: Batch) -> Outputs:
        """A call like any other, but on the stream that will capture.

        Each stream waits for the other, so memory that one has freed is not written while the other
        still reads it.
        """
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._function(batch)
        current.wait_stream(self._stream)
        return outputs

    def _record(self, batch: Batch) -> _Recorded:
        inputs, graph = batch.clone(), torch.cuda.CUDAGraph()
        try:
            # Other threads may go on: that which pins the loader's memory allocates some.
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",
            ):
                outputs = self._function(inputs)
        except RuntimeError as error:
            # The end of the capture fails too, with less to say.
            first = error.__context__ or error
            reason = (str(first).splitlines() or [type(first).__name__])[0]
            raise CaptureError(reason) from error
        return _Recorded(graph, inputs, outputs)
