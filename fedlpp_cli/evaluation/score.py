"""Run one model over held-out examples."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fedlpp_cli.errors import DataError, GateError
from fedlpp_cli.evaluation.scored import Scored
from fedlpp_cli.evaluation.texts import check_can_compare, compare_texts
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.specs import EvaluateSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.tasks.rows import field_text
from fedlpp_cli.tasks.task import IGNORED, Example, Task

OnBatch = Callable[[int, int], None]
# Told of each batch: indices of its examples, logits, labels.
Look = Callable[[Sequence[int], torch.Tensor, torch.Tensor], None]


def score(adapted: AdaptedModel, task: Task, data: Data, spec: EvaluateSpec, on_batch: OnBatch) -> Scored:
    """What one model gets on each row, with `spec.generate` also of the completions that it writes.

    Args:
        adapted: the model with its adapter set.
        task: gives batches and losses.
        data: held-out rows.
        spec: batch size and decoding.
        on_batch: told how many examples of how many are done.

    Raises:
        GateError: a loss that is not finite.
    """
    scored = measure(adapted, task, data.examples, spec.batch_size, on_batch)
    if isinstance(task, CausalLM) and spec.generate:
        hypotheses = generate(adapted, task, data, spec, on_batch)
        references = [field_text(row, "completion", task.columns) for row in data.rows]
        scored = dataclasses.replace(scored, texts=compare_texts(hypotheses, references))
    return scored


@torch.inference_mode()
def measure(
    adapted: AdaptedModel,
    task: Task,
    examples: Sequence[Example],
    batch_size: int,
    on_batch: OnBatch,
    look: Look = lambda indices, logits, labels: None,
) -> Scored:
    """What a model gets on each example; `look` sees all that it says.

    Raises:
        GateError: a loss that is not finite.
    """
    order = _by_length([example.input_ids for example in examples])
    losses, n_targets = np.zeros(len(order)), np.zeros(len(order), np.int64)
    predicted = np.zeros(len(order), np.int64)
    is_classifier = not isinstance(task, CausalLM)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = task.collate([examples[index] for index in indices])
        labels = batch.pop("labels")
        n_last = 0 if is_classifier or not adapted.can_leave_out else _n_needed(labels)
        labels = labels[:, -n_last:] if n_last else labels
        logits = adapted.logits(batch, n_last=n_last)
        means = task.example_losses(logits, labels.to(logits.device)).double().cpu().numpy()
        look(indices, logits, labels)
        n_targets[indices] = [task.n_targets(labels[row : row + 1]) for row in range(len(indices))]
        losses[indices] = means * n_targets[indices]
        if is_classifier:
            predicted[indices] = logits.argmax(-1).cpu().numpy()
        on_batch(start + len(indices), len(order))
    if not np.isfinite(losses).all():
        raise GateError("the loss is not finite: the model's weights are not usable")
    if not is_classifier:
        return Scored(losses, n_targets)
    expected = np.array([example.labels for example in examples], np.int64)
    return Scored(losses, n_targets, predicted, expected, len(task.spec.labels))


def _n_needed(labels: torch.Tensor) -> int:
    """Of labels `(B, T)` the last so many tokens have all targets, and the token that the first one is told from.

    What the model says before is the largest tensor there is, and nobody looks at it where prompts are long.
    """
    is_target = (labels[:, 1:] != IGNORED).any(0)
    return int(labels.shape[1] - is_target.int().argmax())


@torch.inference_mode()
def generate(adapted: AdaptedModel, task: CausalLM, data: Data, spec: EvaluateSpec, on_batch: OnBatch) -> list[str]:
    """The model's completion of each row's prompt, by beam search or greedily, never by sampling.

    Raises:
        DataError: a row without a prompt.
    """
    prompts = [task.prompt_ids(row)[-task.spec.max_length :] for row in data.rows]
    order = _by_length(prompts)
    texts = [""] * len(order)
    for start in range(0, len(order), spec.batch_size):
        indices = order[start : start + spec.batch_size]
        batch = _left_padded([prompts[index] for index in indices], task.tokenizer.pad_token_id)
        with quiet_libraries():
            ids: Any = adapted.model.generate(
                **{name: tensor.to(adapted.model.device) for name, tensor in batch.items()},
                do_sample=False,
                num_beams=spec.num_beams,
                max_new_tokens=spec.max_new_tokens,
                pad_token_id=task.tokenizer.pad_token_id,
                eos_token_id=task.tokenizer.eos_token_id,
            )
        new = ids[:, batch["input_ids"].shape[1] :]
        for index, text in zip(indices, task.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            texts[index] = text.strip()
        on_batch(start + len(indices), len(order))
    return texts


def check_can_generate(task: Task, data: Data) -> None:
    """Refuse early to decode rows that have no prompt and completion, or what could not be compared.

    Raises:
        DataError: naming the first such row.
        UsageError: a package that compares texts is not installed.
    """
    if not isinstance(task, CausalLM):
        raise DataError("--generate: a classifier writes no text")
    for row in data.rows:
        for field in ("prompt", "completion"):
            field_text(row, field, task.columns)
    check_can_compare()


def _by_length(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Indices from long to short: little padding, and what does not fit into memory fails first."""
    return sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))


def _left_padded(rows: Sequence[Sequence[int]], fill: int) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows)
    gaps = [longest - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([[fill] * gap + list(row) for gap, row in zip(gaps, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)]),
    }
