"""Answers of a teacher: more than one label, less than all that the model says."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlpp_cli.records.transcripts import Targets
from fedlpp_cli.tasks.task import IGNORED

# What no probability is told below: its logarithm still is a number in float16.
_LOWEST = -1000.0


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """P answers about V outcomes, on the CPU.

    `values`: float32 `(P, V)`, log probabilities or scores of all outcomes; or `(P, k + 1)`, log probabilities of k of
    them and of all the others as one. `indices`: int64 `(P, k)`, which ones, ascending; None for all.
    """

    values: Tensor
    indices: Tensor | None
    targets: Targets

    def __len__(self) -> int:
        """Number of answers."""
        return len(self.values)

    def rows(self, chosen: Tensor) -> "SoftLabels":
        """Some of the answers, by their numbers, int64."""
        indices = None if self.indices is None else self.indices[chosen]
        return SoftLabels(self.values[chosen], indices, self.targets)

    def renumbered(self, order: Sequence[int]) -> "SoftLabels":
        """The same answers where outcome i is called `order[i]`, a permutation."""
        if list(order) == list(range(len(order))):
            return self
        if self.indices is None:
            return SoftLabels(self.values[:, torch.tensor(order).argsort()], None, self.targets)
        indices, places = torch.tensor(order)[self.indices].sort(-1)
        rest = torch.full((len(places), 1), places.shape[1])
        return SoftLabels(self.values.gather(-1, torch.cat([places, rest], -1)), indices, self.targets)


def answered_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits `(P, V)` where answers are given: one a text, or one behind each token of an input but its last.

    Args:
        logits: `(B, T, V)` of a language model, `(B, V)` of a classifier.
        labels: `(B, T)` with IGNORED behind the end of an input, or `(B,)`.
    """
    if logits.ndim == 2:
        return logits
    return logits[:, :-1][(labels[:, 1:] != IGNORED).to(logits.device)]


def soft_labels(logits: Tensor, top_k: int, targets: Targets) -> SoftLabels:
    """What is told of logits `(P, V)`.

    Log probabilities are rounded to float16, which keeps what a student needs and hides how sums were ordered.
    """
    if targets == "scores":
        return SoftLabels(logits.float().cpu(), None, targets)
    log_probs = logits.float().log_softmax(-1).cpu()
    if top_k == log_probs.shape[-1]:
        return SoftLabels(_rounded(log_probs), None, targets)
    indices = log_probs.topk(top_k, dim=-1).indices.sort(dim=-1).values
    return SoftLabels(_rounded(lumped(log_probs, indices)), indices, targets)


def lumped(log_probs: Tensor, indices: Tensor) -> Tensor:
    """Log probabilities `(P, k + 1)` of some outcomes, and of all the others as one; differentiable.

    Args:
        log_probs: `(P, V)`, V above k.
        indices: int64 `(P, k)`, distinct in each row.
    """
    rest = log_probs.scatter(-1, indices, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, indices), rest], -1)


def _rounded(log_probs: Tensor) -> Tensor:
    return log_probs.clamp(_LOWEST, 0).half().float()
