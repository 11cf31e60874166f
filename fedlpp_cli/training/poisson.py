"""Poisson sampling: the accountant counts on each example being drawn by itself; a shuffle does not."""

from collections.abc import Iterator, Sequence

import numpy as np

from fedlpp_cli.privacy.secret_stream import SecretStream
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.training.sampling import Indices


def sampling_rate(n_examples: int, spec: TrainSpec) -> float:
    """The probability with which an example is in a step: on average a step has as many as without privacy."""
    return min(1.0, spec.batch_size * spec.gradient_accumulation / n_examples)


class PoissonSampling:
    """Each step has each example with probability `sampling_rate`; it may have none. Draws are secret, as the noise is.

    A step's examples go through the model in batches of at most `batch_size`, or `micro_batch`.
    """

    def __init__(
        self, n_examples: int, spec: TrainSpec, stream: SecretStream, *, micro_batch: int | None = None
    ) -> None:
        """Draws from `stream` by the number of the step."""
        self._n_examples, self._stream = n_examples, stream
        self._batch_size = min(spec.batch_size, micro_batch or spec.batch_size)
        self._rate = sampling_rate(n_examples, spec)

    def steps_from(self, first: int) -> Iterator[Sequence[Indices]]:
        """As `Sampler`; a step without examples has no batch."""
        step = first
        while True:
            drawn = self._stream.uniforms(self._n_examples, "sample", step)
            chosen: list[int] = np.flatnonzero(drawn < self._rate).tolist()
            yield [chosen[start : start + self._batch_size] for start in range(0, len(chosen), self._batch_size)]
            step += 1
