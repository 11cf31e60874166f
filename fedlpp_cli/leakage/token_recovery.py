"""The words of the rows, out of an update: every token of the vocabulary is held against it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.components import factor_a, factor_b
from fedlpp_cli.evaluation.scored import Array
from fedlpp_cli.leakage.first_layer import FirstLayer, find_first_layer, token_inputs
from fedlpp_cli.leakage.membership import auc
from fedlpp_cli.leakage.token_span import Span, distances, span_of
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.records.audits import TokenRecovery
from fedlpp_cli.records.specs import Bits, TrainSpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.schedule import learning_rate_sum

# Later places of long texts are not tried: each costs as much as the whole vocabulary.
MAX_POSITIONS: Final = 32
# Of a number that was rounded to float32, and of sums of such numbers: a few units in the last of its 24 bits.
_FLOAT32: Final = 2.0**-22
_MIXED: Final = "what enters the first adapted layer is a mixture of tokens"
_UNMOVED: Final = "what the update changes in the first adapted layer is no more than rounding"
_ALL: Final = "the rows have all tokens, or none but special ones"


@dataclass(frozen=True, slots=True)
class Change:
    """An update as an attacker sees it: by component, `start` is the proxy, `values` what weight decay did not do.

    `modules`: those with factors. `bits`: to which it was rounded.
    """

    modules: Sequence[str]
    start: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    bits: Bits = "full"


def without_decay(
    values: Mapping[str, Tensor], start: Mapping[str, Tensor], recipe: TrainSpec, n_steps: int
) -> dict[str, Tensor]:
    """Proxy plus update minus proxy, with what weight decay took put back, to first order.

    It is no function of the rows, and whoever knows the recipe knows it.
    """
    taken = learning_rate_sum(recipe, n_steps) * recipe.weight_decay
    return {name: value - (1 - taken) * start[name] for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near tokens are to the spans of an update, float64 `(tokens,)`, none above 0; the rest as `TokenRecovery`."""

    scores: Array
    rank: int
    is_exact: bool


def token_nearness(
    adapted: AdaptedModel, change: Change, tokens: Sequence[int], longest: int
) -> tuple[Nearness | None, str | None]:
    """How well the update's first layer goes with each token, or why nothing can be said.

    Args:
        adapted: the model.
        change: the update.
        tokens: those to try.
        longest: how many places a row has.
    """
    layer = find_first_layer(adapted, change.modules)
    if layer is None:
        return None, _MIXED
    spans = _spans(layer, change)
    if not spans:
        return None, _UNMOVED
    n_positions = min(longest, MAX_POSITIONS) if layer.has_positions else 1
    with torch.no_grad():
        parts = [_distances(spans, entered) for _, entered in token_inputs(adapted, layer, tokens, n_positions)]
    rank = max(len(span.directions) for span, _ in spans)
    return Nearness(-np.concatenate(parts), rank, all(span.is_exact for span, _ in spans)), None


def recover_tokens(
    adapted: AdaptedModel,
    change: Change,
    examples: Sequence[Example],
    *,
    similar: Sequence[Example],
    special: Collection[int],
    rises: Array | None,
) -> TokenRecovery:
    """Rank all tokens by what the update says of them; how many of the rows' own come first.

    Args:
        adapted: the model.
        change: the update.
        examples: what it was trained on.
        similar: other examples of the same kind, whose most frequent tokens are what one would guess without the
            update; may be empty.
        special: token ids that every text has; they are no secret.
        rises: how far each token's log-probability rose, `(V,)`; None where the model does not say tokens.
    """
    n_vocabulary = adapted.model.get_input_embeddings().num_embeddings
    tokens = [token for token in range(n_vocabulary) if token not in special]
    own = {token for example in examples for token in example.input_ids} - set(special)
    if not own or len(own) == len(tokens):
        return TokenRecovery(skipped=_ALL)
    is_own = np.array([token in own for token in tokens])
    found = TokenRecovery(
        n_tokens=len(own),
        n_candidates=len(tokens),
        by_chance=six_digits(len(own) / len(tokens)),
        by_frequency=_by_frequency(similar, own, special),
        by_rise=None if rises is None else _share_first(rises[tokens], is_own),
        by_rise_auc=None if rises is None else six_digits(auc(rises[tokens], is_own)),
    )
    near, skipped = token_nearness(adapted, change, tokens, max(len(example.input_ids) for example in examples))
    if near is None:
        return replace(found, skipped=skipped)
    return replace(
        found,
        rank=near.rank,
        is_exact=near.is_exact,
        by_span=_share_first(near.scores, is_own),
        by_span_auc=six_digits(auc(near.scores, is_own)),
    )


def _spans(layer: FirstLayer, change: Change) -> list[tuple[Span, Tensor | None]]:
    """Spans of inputs, and of what a factor A makes of them, with that A; exact ones only, where there are any."""
    # Between two levels out of 2^bits, half a step at most.
    rounding = _FLOAT32 if change.bits == "full" else 0.5 ** (2 if change.bits == "ternary" else int(change.bits) + 1)

    def span(names: Sequence[str]) -> Span | None:
        errors = [_FLOAT32 * change.start[name].abs().max() for name in names]
        errors += [rounding * change.values[name].abs().max() for name in names]
        return span_of(torch.cat([change.values[name] for name in names]), error=float(max(errors)))

    of_inputs = span([factor_a(module) for module in layer.modules])
    found: list[tuple[Span, Tensor | None]] = [] if of_inputs is None else [(of_inputs, None)]
    for module in layer.modules:
        of_factor = span([factor_b(module)])
        if of_factor is not None:
            found.append((of_factor, change.start[factor_a(module)].double()))
    return [one for one in found if one[0].is_exact] or found


def _distances(spans: Sequence[tuple[Span, Tensor | None]], entered: Tensor) -> Array:
    """Mean distance over spans of what enters, `(tokens, positions, n)`, at the best position; float64 `(tokens,)`."""
    entered = entered.double()
    total = sum(
        (distances(span, entered if factor is None else entered @ factor.T) for span, factor in spans),
        start=torch.zeros(entered.shape[:2], dtype=torch.float64),
    )
    return np.asarray((total / len(spans)).amin(1).numpy())


def _share_first(scores: Array, is_own: Array) -> float:
    """The share of own tokens among as many as there are own ones, from the highest on."""
    first = np.argsort(-scores, kind="stable")[: is_own.sum()]
    return six_digits(float(is_own[first].mean()))


def _by_frequency(similar: Sequence[Example], own: Collection[int], special: Collection[int]) -> float | None:
    if not similar:
        return None
    counts = Counter(token for example in similar for token in example.input_ids if token not in special)
    guessed = sorted(counts, key=lambda token: (-counts[token], token))[: len(own)]
    return six_digits(sum(token in own for token in guessed) / len(own))
