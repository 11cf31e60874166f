"""What a model says to inputs, to be told to others."""

from collections.abc import Callable, Sequence

import torch

from fedlpp_cli.errors import GateError, ModelError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.transcripts import Targets
from fedlpp_cli.tasks.soft_labels import SoftLabels, answered_logits, soft_labels
from fedlpp_cli.tasks.task import Example, Task

OnBatch = Callable[[int, int], None]


@torch.inference_mode()
def answer(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    *,
    n_outcomes: int,
    top_k: int,
    targets: Targets,
    batch_size: int,
    on_batch: OnBatch,
) -> SoftLabels:
    """The answers in the order of the examples: one a text, or one behind each token of an input but its last.

    Args:
        adapted: the model with its adapter set.
        task: gives batches.
        examples: a language model's have their own token ids for labels.
        n_outcomes: tokens of the vocabulary, or labels; what a model has beyond them is no outcome.
        top_k: how many are told of each answer.
        targets: what is told.
        batch_size: examples at a time.
        on_batch: told how many examples of how many are done.

    Raises:
        GateError: a number that is not finite.
        ModelError: a model that knows fewer tokens than its tokenizer.
    """
    # From long to short: little padding, and what does not fit into memory fails first.
    order = sorted(range(len(examples)), key=lambda index: (-len(examples[index].input_ids), index))
    found: dict[int, SoftLabels] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = task.collate([examples[index] for index in chosen])
        labels = batch.pop("labels")
        logits = adapted.logits(batch)
        if logits.shape[-1] < n_outcomes:
            raise ModelError(f"the model tells {logits.shape[-1]} tokens apart, its tokenizer has {n_outcomes}")
        said = answered_logits(logits, labels)[:, :n_outcomes]
        if not bool(torch.isfinite(said).all()):
            raise GateError("what the model says is not finite: its weights are not usable; nothing was written")
        lengths = [task.n_targets(labels[row : row + 1]) for row in range(len(chosen))]
        first = 0
        told = soft_labels(said, top_k, targets)
        for index, length in zip(chosen, lengths, strict=True):
            found[index] = told.rows(torch.arange(first, first + length))
            first += length
        on_batch(start + len(chosen), len(order))
    ordered = [found[index] for index in range(len(examples))]
    indices = [one.indices for one in ordered if one.indices is not None]
    return SoftLabels(torch.cat([one.values for one in ordered]), torch.cat(indices) if indices else None, targets)
