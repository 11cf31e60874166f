"""What a task does: rows to examples, examples to batches, model outputs to losses."""

import hashlib
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.tasks.rows import Row

IGNORED = -100

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Example:
    """One row as token ids.

    `labels` are token ids as long as `input_ids`, with IGNORED where no loss is taken, or one class. `type_ids` tell
    the two texts of a pair apart, for models that have a use for them.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | int
    was_cut: bool
    type_ids: tuple[int, ...] | None = None


class Task(Protocol):
    """One of `CausalLM` and `SeqCls`."""

    @property
    def spec(self) -> TaskSpec:
        """What the federation agreed on."""
        ...

    def encode(self, row: Row) -> Example:
        """Token ids and labels of a row; DataError where the row is malformed."""
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Padded tensors `(B, T)` for the model, and `labels`."""
        ...

    def n_targets(self, labels: Tensor) -> int:
        """How many losses a batch has: tokens, or texts."""
        ...

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of a batch's losses, a float32 scalar."""
        ...

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each example's mean over its own targets, float32 `(B,)`: none depends on another example."""
        ...


def digest_of(examples: Iterable[Example]) -> str:
    """The sha256 of what a model is shown, in its order: equal rows of another file, or another format, give the same.

    Each example is three runs of signed 64-bit numbers, little-endian, with their lengths in front: token ids, labels,
    and type ids. One class is a run of length 2^32, which no labels of tokens have.
    """
    digest = hashlib.sha256()
    for example in examples:
        labels = (2**32, example.labels) if isinstance(example.labels, int) else (len(example.labels), *example.labels)
        type_ids = example.type_ids or ()
        numbers = array("q", (len(example.input_ids), *example.input_ids, *labels, len(type_ids), *type_ids))
        if sys.byteorder == "big":
            numbers.byteswap()
        digest.update(numbers.tobytes())
    return digest.hexdigest()


def digest_of_set(examples: Iterable[Example]) -> str:
    """As `digest_of`, of the examples in any order: the sha256 of their sorted digests."""
    digests = sorted(bytes.fromhex(digest_of([example])) for example in examples)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """A `(B, T)` int64 tensor of the rows, filled up to the longest."""
    import torch

    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)


def padded_inputs(examples: Sequence[Example], tokenizer: Any) -> Batch:
    """`input_ids`, `attention_mask` and, where the examples have them, `token_type_ids`; `(B, T)`."""
    batch = {
        "input_ids": pad_right([example.input_ids for example in examples], tokenizer.pad_token_id),
        "attention_mask": pad_right([[1] * len(example.input_ids) for example in examples], 0),
    }
    if any(example.type_ids for example in examples):
        type_ids = [example.type_ids or (0,) * len(example.input_ids) for example in examples]
        batch["token_type_ids"] = pad_right(type_ids, 0)
    return batch
