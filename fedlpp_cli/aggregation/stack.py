"""The updates of a round side by side, read one window at a time: components outside, clients inside.

A window is a range of one component, of all clients; what is in memory does not grow with the adapter, and windows
get smaller with more clients. Threads take whole windows, and results come back in the order of the windows, so that
neither sums nor bytes depend on how many threads there are.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.padding import read_padded
from fedlpp_cli.adapters.windows import WINDOW_UNIT
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.quantization.codec import MIN_COMPILED
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import UpdateHeader

if TYPE_CHECKING:
    from fedlpp_cli.aggregation.masks import Sight

# Values in a window of all clients: 8 MB in float32, near enough for two passes over it.
_WINDOW_VALUES: Final = 2**21
_MAX_BYTES: Final = 64 * 2**20

Array = NDArray[Any]
Update = TensorFile[UpdateHeader]
ResultT = TypeVar("ResultT")


class Window(NamedTuple):
    """Values `start` to `stop` of a component that has `n_values`."""

    component: str
    start: int
    stop: int
    n_values: int


def window_size(n_clients: int) -> int:
    """How many values of a component a window has at most: a multiple of WINDOW_UNIT."""
    return max(1, _WINDOW_VALUES // (n_clients * WINDOW_UNIT)) * WINDOW_UNIT


def is_large(n_values: int) -> bool:
    """Whether compiled loops are worth loading numba for, with that many values in all."""
    return n_values >= MIN_COMPILED


def _arithmetic(*, compiled: bool) -> ModuleType:
    """The module with the inner loops."""
    if compiled:
        from fedlpp_cli.aggregation import kernels

        return kernels
    from fedlpp_cli.aggregation import reference

    return reference


class Stack:
    """Checked updates, in the order in which sums go over them; those of a lower rank are filled up with zeros."""

    def __init__(
        self,
        updates: Sequence[Update],
        shapes: Mapping[str, Shape],
        *,
        threads: int,
        own_shapes: Sequence[Mapping[str, Shape]] | None = None,
        sight: "Sight | None" = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            updates: open files.
            shapes: component to shape, in the order in which components are read.
            threads: how many may run.
            own_shapes: the same for each update, where they are not all of these shapes.
            sight: who got what, in a round with masks: of the rest nothing is read but zeros.
        """
        self.updates = updates
        self._shapes, self._sight = shapes, sight
        self._own_shapes = own_shapes or [shapes] * len(updates)
        self.n_values = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
        self.is_compiled = is_large(len(updates) * sum(self.n_values.values()))
        self.loops = _arithmetic(compiled=self.is_compiled)
        self._size = min(window_size(len(updates)), -(-max(self.n_values.values()) // WINDOW_UNIT) * WINDOW_UNIT)
        self._threads = max(1, min(threads, _MAX_BYTES // (4 * self._size * len(updates))))
        self._memory = threading.local()

    def windows(self) -> Iterator[Window]:
        """All of them; those of a component are as equal as can be."""
        for name, n_values in self.n_values.items():
            n_windows = -(-n_values // self._size)
            size = -(-n_values // (n_windows * WINDOW_UNIT)) * WINDOW_UNIT
            for start in range(0, n_values, size):
                yield Window(name, start, min(start + size, n_values), n_values)

    def run(
        self, work: Callable[[Window, Array], ResultT], windows: Iterator[Window] | None = None
    ) -> Iterator[ResultT]:
        """What `work` makes of each window and its rows float32 `(n_clients, n)`, in the order of the windows.

        Raises:
            NotFiniteError, ArtifactError: as `read_window`.
        """
        windows = self.windows() if windows is None else windows
        if self._threads == 1:
            for window in windows:
                yield work(window, self._rows(window))
            return
        pending: deque[Future[ResultT]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for window in windows:
                pending.append(pool.submit(lambda window: work(window, self._rows(window)), window))
                if len(pending) > 2 * self._threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _rows(self, window: Window) -> Array:
        """The window of every client, in memory that the thread's next window takes over."""
        if not hasattr(self._memory, "values"):
            self._memory.values = np.empty(self._size * len(self.updates), np.float32)
        size = window.stop - window.start
        rows: Array = self._memory.values[: size * len(self.updates)].reshape(len(self.updates), size)
        name = window.component
        for k, (row, update, own) in enumerate(zip(rows, self.updates, self._own_shapes, strict=True)):
            shapes = own[name], self._shapes[name]
            read_padded(update, name, shapes, window.start, row, compiled=self.is_compiled)
            if self._sight is not None:
                self._sight.hide(k, name, window.start, row)
        return rows
