"""AS-LoRA (Kim et al. 2026, arXiv 2605.05769): each layer trains A or B, as its gradients have been larger.

In round r, from 1, of W warm-up rounds all layers train B and A by turns. Later, with S_A and S_B a layer's scores and
T = max(0.1, 0.95^(r - W)), a layer trains A with probability

    sigmoid(d / T)      d = (S_A - S_B) / (|S_A| + |S_B| + 1e-8)

Clients answer with the scores of their last gradients (`training/gradient_scores.py`), summed here over a layer's
modules. Their mean s over the clients, or with a robust rule their median, moves the score of the factor that was
trained, and no other: S becomes 0.9 S + 0.1 s. As one factor of a module moves in a round, the mean of products is the
product of means.

A layer is what names of modules share up to their first number: one block of a transformer.
"""

import math
import statistics
from collections.abc import Iterable
from typing import Final

from fedlpp_cli.methods.method import Answers, Asked, Method, refuse_for_one_factor
from fedlpp_cli.randomness import seed_for
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.methods import Factor, FactorPlan, FactorScores
from fedlpp_cli.rounding import six_digits

# The paper's: a tenth of its 100 rounds.
WARMUP_ROUNDS: Final = 10
_COOLING: Final = 0.95
_COLDEST: Final = 0.1
_DECAY: Final = 0.9
_LARGEST: Final = 30.0
_STREAM_SIZE: Final = 2**63


def layer_of(module: str) -> str:
    """The block of layers that a module is in; a module in none is one of its own."""
    parts = module.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])


def probability_of_a(scores: FactorScores, cooled: int) -> float:
    """With which a layer trains A, `cooled` rounds after the warm-up."""
    a, b = scores.a or 0.0, scores.b or 0.0
    temperature = max(_COLDEST, _COOLING**cooled)
    ratio = (a - b) / (a + b + 1e-8) / temperature
    return 1 / (1 + math.exp(-max(-_LARGEST, min(_LARGEST, ratio))))


def _plan(master: MasterSpec, round_number: int) -> FactorPlan:
    modules = master.model.lora.target_modules
    chosen = {layer: _factor(master, layer, round_number) for layer in _layers(modules)}
    return FactorPlan(trains="modules", modules={module: chosen[layer_of(module)] for module in modules}, scores=True)


def _factor(master: MasterSpec, layer: str, round_number: int) -> Factor:
    cooled = round_number + 1 - (master.method_options.warmup_rounds or WARMUP_ROUNDS)
    if cooled <= 0:
        return "A" if round_number % 2 else "B"
    drawn = seed_for(master.seed, "as-lora", round_number, layer) / _STREAM_SIZE
    return "A" if drawn < probability_of_a(master.layer_scores.get(layer, FactorScores()), cooled) else "B"


def _next_scores(master: MasterSpec, answers: Answers) -> dict[str, FactorScores]:
    is_robust = answers.aggregate.rule != "mean"
    after = dict(master.layer_scores)
    for layer in _layers(answers.plan.modules):
        modules = [module for module in answers.plan.modules if layer_of(module) == layer]
        found = [math.fsum(scores[module] for module in modules) for scores in answers.scores]
        score = statistics.median(found) if is_robust else math.fsum(found) / len(found)
        before = after.get(layer, FactorScores())
        if answers.plan.modules[modules[0]] == "A":
            after[layer] = FactorScores(a=_moved(before.a, score), b=before.b)
        else:
            after[layer] = FactorScores(a=before.a, b=_moved(before.b, score))
    return after


def _moved(before: float | None, score: float) -> float:
    return six_digits(score if before is None else _DECAY * before + (1 - _DECAY) * score)


def _layers(modules: Iterable[str]) -> list[str]:
    return sorted({layer_of(module) for module in modules})


def _refuse(asked: Asked) -> str | None:
    if asked.train is not None and asked.train.proximal_mu:
        return "its scores are of the data's gradients, and FedProx (proximal_mu) adds one that is not"
    if asked.is_masked:
        return "its scores compare gradients of whole factors, and masks hide rows of B"
    if asked.aggregate is not None and asked.aggregate.client_noise_multiplier is not None:
        return "its scores steer what other clients see, and noise for clients does not cover them"
    return refuse_for_one_factor(asked)


METHOD: Final = Method(
    name="as-lora",
    paper="Kim et al. 2026, arXiv 2605.05769",
    down="A and B, rounded; which factor each layer trains",
    up="of each module A or B, and a score",
    private="A and B in full precision, the layers' scores",
    cost="r (m + n) down, r m or r n and a score up; gradients of one factor",
    plan=_plan,
    refuse=_refuse,
    next_scores=_next_scores,
    options=("warmup_rounds",),
)
