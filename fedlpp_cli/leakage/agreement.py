"""How far an attacker's predictions are from the owner's, whatever the weights behind them look like."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional

from fedlpp_cli.tasks.task import IGNORED, Example

# Of log probabilities that are kept: 256 MB.
MAX_NUMBERS: Final = 2**26


def predictions(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """What a model says where something is predicted: for each example float32 `(n_targets, V)`, log probabilities.

    Args:
        logits: `(B, T, V)` of a language model, `(B, V)` of a classifier.
        labels: `(B, T)` with IGNORED where nothing is predicted, or `(B,)`.
    """
    if logits.ndim == 2:
        return list(logits.float().log_softmax(-1)[:, None])
    is_target = (labels[:, 1:] != IGNORED).to(logits.device)
    return [row[chosen].float().log_softmax(-1) for row, chosen in zip(logits[:, :-1], is_target, strict=True)]


class Answers:
    """What the owner's model says to the first examples, as many as `max_numbers` log probabilities allow."""

    def __init__(self, examples: Sequence[Example], *, max_numbers: int = MAX_NUMBERS) -> None:
        """Nothing is known yet; `look` goes into `measure`.

        Args:
            examples: in the data's order.
            max_numbers: how many log probabilities are kept; those of one example always are.
        """
        self._examples, self._max_numbers = examples, max_numbers
        self._n_chosen: int | None = None
        self._kept: dict[int, Tensor] = {}

    def look(self, indices: Sequence[int], logits: Tensor, labels: Tensor) -> None:
        """Keep what is said to these examples; arguments as `predictions`."""
        if self._n_chosen is None:
            self._n_chosen = self._choose(logits.shape[-1])
        if not any(index < self._n_chosen for index in indices):
            return
        for index, said in zip(indices, predictions(logits, labels), strict=True):
            if index < self._n_chosen:
                self._kept[index] = said.detach().cpu()

    def of(self, index: int) -> Tensor | None:
        """Log probabilities `(n_targets, V)` for an example, None for one that was not kept."""
        return self._kept.get(index)

    def __len__(self) -> int:
        """Of how many examples, the first ones, the answers are known."""
        return len(self._kept)

    def _choose(self, vocabulary: int) -> int:
        n_numbers = 0
        for index, example in enumerate(self._examples):
            n_numbers += vocabulary * _n_targets(example)
            if index and n_numbers > self._max_numbers:
                return index
        return len(self._examples)


class Agreement:
    """Compares another model's predictions with answers, a batch at a time; `look` goes into `measure`."""

    def __init__(self, answers: Answers) -> None:
        """Nothing is compared yet."""
        self._answers = answers
        self._kl, self._n_equal, self._n = 0.0, 0, 0

    def look(self, indices: Sequence[int], logits: Tensor, labels: Tensor) -> None:
        """Count in what is said to these examples; arguments as `predictions`."""
        if all(self._answers.of(index) is None for index in indices):
            return
        for index, said in zip(indices, predictions(logits, labels), strict=True):
            owners = self._answers.of(index)
            if owners is not None:
                here = said.detach().cpu()
                self._kl += divergence(owners.double(), here.double()).item()
                self._n_equal += int((owners.argmax(-1) == here.argmax(-1)).sum())
                self._n += len(owners)

    @property
    def kl(self) -> float:
        """Mean KL divergence of these predictions from the owner's, in nats a prediction: never below 0."""
        return max(0.0, self._kl / self._n)

    @property
    def agreement(self) -> float:
        """How often both predict the same first."""
        return self._n_equal / self._n


def divergence(owners: Tensor, others: Tensor) -> Tensor:
    """The sum over predictions of KL(owners || others), in nats; gradients go to `others`, whose device it is on.

    Args:
        owners: log probabilities `(n, V)`.
        others: of the same shape.
    """
    return functional.kl_div(others, owners.to(others.device), reduction="sum", log_target=True)


def _n_targets(example: Example) -> int:
    if isinstance(example.labels, int):
        return 1
    return sum(label != IGNORED for label in example.labels[1:])
