"""Which examples the batches of a step are made of: numbers only, no model."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from fedlpp_cli.randomness import generator
from fedlpp_cli.records.specs import TrainSpec

Indices = list[int]


class Sampler(Protocol):
    """Says for each step, by its number alone, which examples are in it: a training can start at any step."""

    def steps_from(self, first: int) -> Iterator[Sequence[Indices]]:
        """Without end, for step `first` (from 0) and each after it, the indices of its batches."""
        ...


class ShuffledPasses:
    """Pass after pass over all examples, each a fresh permutation named by `labels` and its number.

    A pass's last batch may be short.
    """

    def __init__(self, n_examples: int, spec: TrainSpec, labels: tuple[object, ...]) -> None:
        """`batch_size` examples in a batch, `gradient_accumulation` batches in a step."""
        self._n_examples, self._labels = n_examples, labels
        self._batch_size, self._n_batches = spec.batch_size, spec.gradient_accumulation

    def steps_from(self, first: int) -> Iterator[Sequence[Indices]]:
        """As `Sampler`."""
        per_pass = -(-self._n_examples // self._batch_size)
        epoch, skipped = divmod(first * self._n_batches, per_pass)
        batches = self._batches(epoch)
        for _ in range(skipped):
            next(batches)
        while True:
            yield [next(batches) for _ in range(self._n_batches)]

    def _batches(self, epoch: int) -> Iterator[Indices]:
        while True:
            order = torch.randperm(self._n_examples, generator=generator(*self._labels, "epoch", epoch)).tolist()
            yield from (
                order[start : start + self._batch_size] for start in range(0, self._n_examples, self._batch_size)
            )
            epoch += 1
