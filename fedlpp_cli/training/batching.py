"""How the examples of a batch go through the model: without computing on padding where that can be avoided.

A step's gradient is that of the mean loss over all its targets, whichever tensors they lie in: every way here has the
same gradient but for the last bits of its sums.

padded      one tensor, as long as the longest example
bucketed    several tensors, each of examples of like length
packed      examples one behind the other in rows as long as the longest; for language models. Each example has
            positions of its own, from 0, and sees nothing of its neighbours: transformers makes the attention mask
            from the places where positions start again.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.specs import Batching
from fedlpp_cli.tasks.task import IGNORED, Batch, Example, Task, pad_right

MakeBatches = Callable[[Sequence[Example]], list[Batch]]
# What a further pass through the model costs, in tokens of the same model.
_PASS_COST: Final = {"cpu": 16, "cuda": 2048}
# How far logits may differ, relative to the largest, when a row is packed: sums run in another order.
_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 5e-2}
_PROBE_TOKENS: Final = 12


def batch_maker(name: Batching, adapted: AdaptedModel, task: Task) -> MakeBatches:
    """What turns examples into tensors, and `labels` beside them.

    Args:
        name: "auto" packs where the model is seen to keep packed examples apart, and is "bucketed" elsewhere.
        adapted: the model; asked once, in evaluation mode.
        task: knows how examples are padded.

    Raises:
        UsageError: packing was asked for, and this task or model has no use for it.
    """
    if name in ("auto", "packed"):
        can_pack = task.spec.kind == "causal-lm" and keeps_packed_apart(adapted)
        if name == "packed" and not can_pack:
            raise UsageError(
                "--batching packed: this model or task cannot have several examples in one row",
                hint="--batching bucketed, or auto",
            )
        name = "packed" if can_pack else "bucketed"
    if name == "padded":
        return lambda chosen: [task.collate(chosen)]
    if name == "packed":
        return lambda chosen: [packed_batch(pack_rows(chosen))]
    cost = _PASS_COST.get(adapted.model.device.type, 0)
    return lambda chosen: [task.collate(bucket) for bucket in buckets(chosen, cost)]


def buckets(examples: Sequence[Example], pass_cost: int) -> list[list[Example]]:
    """The examples by falling length, cut where that makes the fewest tokens, padding included.

    Args:
        examples: at least one.
        pass_cost: how many tokens a further bucket may save before it is made.
    """
    ordered = _by_length(examples)
    # Where each length starts, and the end: it never pays to cut between examples of one length.
    edges = [0, *(n for n in range(1, len(ordered)) if _length(ordered[n]) < _length(ordered[n - 1])), len(ordered)]
    # best[i]: the least that examples from edge i on cost, and the edge where their first bucket ends.
    best: list[tuple[int, int]] = [(0, 0)] * len(edges)
    for first in reversed(range(len(edges) - 1)):
        longest = _length(ordered[edges[first]])
        best[first] = min(
            ((edges[last] - edges[first]) * longest + pass_cost + best[last][0], last)
            for last in range(first + 1, len(edges))
        )
    found, first = [], 0
    while first < len(edges) - 1:
        last = best[first][1]
        found.append(ordered[edges[first] : edges[last]])
        first = last
    return found


def pack_rows(examples: Sequence[Example]) -> list[list[Example]]:
    """Rows no longer than the longest example: each example, by falling length, goes where the least room is left."""
    ordered = _by_length(examples)
    rows: list[list[Example]] = []
    sizes: list[int] = []  # of room that some row has, ascending
    with_room: dict[int, list[int]] = {}
    for example in ordered:
        place = bisect_left(sizes, _length(example))
        if place < len(sizes):
            room = sizes[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], sizes[place]
        else:
            room, row = _length(ordered[0]), len(rows)
            rows.append([])
        rows[row].append(example)
        room -= _length(example)
        if room not in with_room:
            insort(sizes, room)
        with_room.setdefault(room, []).append(row)
    return rows


def _by_length(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: -_length(example))


def _length(example: Example) -> int:
    return len(example.input_ids)


def packed_batch(rows: Sequence[Sequence[Example]]) -> Batch:
    """`input_ids`, `position_ids` and `labels`, `(rows, T)`; no `attention_mask`, which would hide the positions.

    What fills a row up is an example of its own that nobody learns from. The first token of an example is no target:
    the token before it is not its own.
    """
    ids = [[token for example in row for token in example.input_ids] for row in rows]
    labels = [[label for example in row for label in (IGNORED, *_token_labels(example)[1:])] for row in rows]
    positions = [[place for example in row for place in range(len(example.input_ids))] for row in rows]
    longest = max(len(row) for row in ids)
    positions = [[*row, *range(longest - len(row))] for row in positions]
    return {
        "input_ids": pad_right(ids, 0),
        "position_ids": pad_right(positions, 0),
        "labels": pad_right(labels, IGNORED),
    }


@torch.no_grad()
def keeps_packed_apart(adapted: AdaptedModel) -> bool:
    """Whether the model says the same of two examples in one row as of each alone; it is tried on a few tokens.

    Not all do: positions may be counted from a mask, or a state may run through the row.
    """
    n_words = adapted.model.get_input_embeddings().num_embeddings
    ids = tuple(number * (n_words - 1) // _PROBE_TOKENS for number in range(1, _PROBE_TOKENS + 1))
    halves = [Example(part, part, was_cut=False) for part in (ids, ids[::-1])]
    for module in adapted.model.modules():
        # In evaluation mode bitsandbytes' 4-bit layers rearrange their weights for a CPU, for good.
        module.training = isinstance(module, nn.Linear)
    try:
        packed = adapted.logits(_inputs(packed_batch([halves])))[0].float()
        alone = [adapted.logits({"input_ids": pad_right([half.input_ids], 0)})[0].float() for half in halves]
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    finally:
        adapted.model.eval()
    apart = torch.cat(alone)
    return bool((packed - apart).abs().max() <= _TOLERANCE[adapted.compute] * apart.abs().max())


def _inputs(batch: Batch) -> Batch:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def _token_labels(example: Example) -> tuple[int, ...]:
    if isinstance(example.labels, int):
        raise TypeError("an example with one label for all its tokens cannot be packed")
    return example.labels
