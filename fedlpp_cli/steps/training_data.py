"""Clients' data as `evaluate` needs it: to train on, and to see whether held-out rows are among it."""

from collections.abc import Mapping, Sequence

from fedlpp_cli.progress import Progress
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.tasks.data import load_data
from fedlpp_cli.tasks.task import Example, Task, digest_of


class TrainingData:
    """Reads each reference once."""

    def __init__(self, task: Task, columns: Mapping[str, str], on_progress: Progress) -> None:
        """Read nothing yet.

        Args:
            task: encodes rows.
            columns: field name to column name, where the data calls them otherwise.
            on_progress: told now and then.
        """
        self._task, self._columns, self._on_progress = task, columns, on_progress
        self._read: dict[str, Sequence[Example]] = {}

    def of(self, clients: Mapping[str, RefLike]) -> dict[str, Sequence[Example]]:
        """Client to examples. Raises as `load_data`."""
        return {client: self.read(ref) for client, ref in clients.items()}

    def read(self, ref: RefLike) -> Sequence[Example]:
        """The examples there. Raises as `load_data`."""
        if str(ref) not in self._read:
            found = load_data(parse_ref(ref), self._task, columns=self._columns, on_progress=self._on_progress)
            self._read[str(ref)] = found.examples
        return self._read[str(ref)]

    def n_overlap(self, held_out: Sequence[Example]) -> int | None:
        """How many held-out examples are, token for token, among all that was read; None where nothing was."""
        if not self._read:
            return None
        known = {digest_of([example]) for examples in self._read.values() for example in examples}
        return sum(digest_of([example]) in known for example in held_out)
