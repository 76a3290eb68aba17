"""CUDA graphs: all kernels of a batch are handed to a GPU at once, where the host would be slower than the GPU is.

A graph is captured for one shape. So batches are filled up to a few lengths and numbers of rows, and a session captures
a graph for each of these when it first meets it.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import LifoQueue
from typing import Any, NamedTuple

import numpy as np

from hierarchical.devices import computing_fault
from hierarchical.encoders import graph_feed
from hierarchical.engines import OnnxModel, load_onnxruntime

STEP = 16  # lengths are multiples of this, numbers of rows powers of two
MOST_GRAPHS = 64  # of a session; what has yet another shape runs without one
RUNS = 3  # with a shape until its graph is there: the first two find memory, the third is captured
NO_GRAPH = -1  # the number that tells ONNX Runtime to capture none


def filled_shape(rows: int, length: int, longest: int) -> tuple[int, int]:
    """The shape that a batch is filled up to; longest: what the model reads of a text at most."""
    return 1 << (rows - 1).bit_length(), max(length, min(-(-length // STEP) * STEP, longest))


def fill_up(input_ids: np.ndarray, shape: tuple[int, int], pad_id: int) -> np.ndarray:
    """int64 [n, T] with padding at the end of its rows, and after them its first row again, up to a shape."""
    filled = np.full(shape, pad_id, np.int64)
    rows, length = input_ids.shape
    filled[:rows, :length] = input_ids
    filled[rows:] = filled[0]
    return filled


class Bound(NamedTuple):
    """What a session reads and writes for one shape: always the same memory of the GPU, as a graph needs it."""

    ids: Any  # OrtValues: int64 [n, T]
    logits: Any  # float32 [n, L]
    binding: Any
    options: Any  # with the number of the graph


class Lane:
    """A session with a thread of its own: ONNX Runtime keeps graphs by thread, and replays one of a session at a time.

    locks: of all lanes, that of this one at `number`; whoever captures holds them all, since meanwhile no other thread
    may ask anything of the GPU
    """

    def __init__(self, model: OnnxModel, device: tuple[str, int], locks: list[threading.Lock], number: int):
        self.model, self.device, self.locks, self.number = model, device, locks, number
        self.bound: dict[tuple[int, int], Bound] = {}
        self.thread = ThreadPoolExecutor(1)

    def compute(self, filled: np.ndarray) -> np.ndarray:
        """int64 [n, T] of one of the shapes -> float32 [n, L]; by the lane's thread."""
        rows, length = filled.shape
        bound = self.bound.get((rows, length))
        captures = not bound and len(self.bound) < MOST_GRAPHS
        with ExitStack() as held:
            for lock in self.locks if captures else [self.locks[self.number]]:
                held.enter_context(lock)
            bound = bound or self.bind(rows, length, len(self.bound) + 1 if captures else NO_GRAPH)
            bound.ids.update_inplace(filled)
            for _ in range(RUNS if captures else 1):
                self.model.session.run_with_iobinding(bound.binding, bound.options)
            if captures:
                self.bound[rows, length] = bound
            return bound.logits.numpy().copy()  # a CPU's would change with the next call

    def bind(self, rows: int, length: int, graph: int) -> Bound:
        """Memory for a shape, and the number of its graph."""
        onnxruntime, session = load_onnxruntime(), self.model.session
        binding, options, values = session.io_binding(), onnxruntime.RunOptions(), {}
        for name, value in graph_feed(np.zeros((rows, length), np.int64)).items():
            if name in self.model.inputs:
                values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value, *self.device)
                binding.bind_ortvalue_input(name, values[name])
        (output,) = session.get_outputs()
        logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type((rows, output.shape[1]), np.float32, *self.device)
        binding.bind_ortvalue_output(output.name, logits)
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return Bound(values["input_ids"], logits, binding, options)


class CudaGraphModel:
    """An engine like OnnxModel, for GPUs, that runs batches as CUDA graphs; threads may call it.

    lanes: calls that run side by side; longest: tokens that the model reads of a text; device: cpu, only to try it out
    """

    def __init__(self, path: Path, device: str, device_id: int, lanes: int, longest: int, pad_id: int):
        self.longest, self.pad_id = longest, pad_id
        models = [OnnxModel(path, device, device_id, cuda_graphs=True) for _ in range(lanes)]
        first = models[0]
        self.place, self.labels, self.metadata, self.singly = first.place, first.labels, first.metadata, first.singly
        locks = [threading.Lock() for _ in models]
        where = ("cuda" if device == "gpu" else "cpu", device_id)
        self.lanes: LifoQueue[Lane] = LifoQueue()  # those at rest; first the one that worked last, which has graphs
        for number, model in enumerate(models):
            self.lanes.put(Lane(model, where, locks, number))

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        rows, length = input_ids.shape
        filled = fill_up(input_ids, filled_shape(rows, length, self.longest), self.pad_id)
        lane = self.lanes.get()
        try:
            return lane.thread.submit(lane.compute, filled).result()[:rows]
        except Exception as error:  # the library raises types of its own
            raise computing_fault(error, self.place) or error from None
        finally:
            self.lanes.put(lane)
