"""Attacks on the data that attackers train on: examples of a classifier in, examples out."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from fedlpp_cli.errors import UsageError
from fedlpp_cli.randomness import numpy_draws
from fedlpp_cli.tasks.seq_cls import SeqCls
from fedlpp_cli.tasks.task import Example


def flip_labels(examples: Sequence[Example], n_labels: int) -> list[Example]:
    """Label y becomes C - 1 - y."""
    return [replace(one, labels=n_labels - 1 - one.labels) for one in examples if isinstance(one.labels, int)]


@dataclass(frozen=True, slots=True)
class Trigger:
    """Tokens that shall make the model say a label; they are put in front of a text, behind its first special tokens.

    `special_ids`: what the tokenizer puts around texts. `max_length`: what does not fit is cut off at the text's end.
    """

    ids: tuple[int, ...]
    target: int
    special_ids: Collection[int]
    max_length: int

    def put_into(self, example: Example) -> Example:
        """The example with trigger and target label."""
        ids = example.input_ids
        start = next((place for place, token in enumerate(ids) if token not in self.special_ids), len(ids))
        stop = next((place for place in range(len(ids), start, -1) if ids[place - 1] not in self.special_ids), start)
        n_kept = max(0, min(stop - start, self.max_length - len(self.ids) - start - (len(ids) - stop)))

        def planted(values: tuple[int, ...], trigger: tuple[int, ...]) -> tuple[int, ...]:
            return (values[:start] + trigger + values[start : start + n_kept] + values[stop:])[: self.max_length]

        types = example.type_ids
        first_type = types[start : start + 1] or (0,) if types is not None else (0,)
        return Example(
            planted(ids, self.ids),
            self.target,
            example.was_cut or n_kept < stop - start,
            type_ids=None if types is None else planted(types, first_type * len(self.ids)),
        )


def trigger_of(task: SeqCls, text: str, target_label: str) -> Trigger:
    """The trigger as the task's tokenizer has it.

    Raises:
        UsageError: a text without tokens, or with more than a row may have.
    """
    ids = tuple(task.tokenizer(text, add_special_tokens=False)["input_ids"])
    special_ids = frozenset(task.tokenizer.all_special_ids)
    if not 0 < len(ids) < task.spec.max_length // 2:
        raise UsageError(f"--trigger {text!r}: {len(ids)} tokens; one at least, and less than half of a row")
    return Trigger(ids, task.spec.labels.index(target_label), special_ids, task.spec.max_length)


def plant(examples: Sequence[Example], trigger: Trigger, share: float, *labels: object) -> list[Example]:
    """The trigger in a share of the examples, rounded up; the others stay as they are.

    Args:
        examples: the attacker's data.
        trigger: what is put where.
        share: of the examples.
        *labels: name of the stream that draws which.
    """
    n_poisoned = math.ceil(share * len(examples))
    chosen = set(numpy_draws(*labels).permutation(len(examples))[:n_poisoned].tolist())
    return [trigger.put_into(one) if row in chosen else one for row, one in enumerate(examples)]
