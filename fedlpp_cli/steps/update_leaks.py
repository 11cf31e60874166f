"""What an update is looked at for: words, classes, rows, and what a training like it remembers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.evaluation.scored import Array, Scored
from fedlpp_cli.leakage.canaries import canary_test, make_canaries, toss
from fedlpp_cli.leakage.label_recovery import mean_logits, recover_labels
from fedlpp_cli.leakage.membership import loss_drops, membership
from fedlpp_cli.leakage.token_recovery import Change, recover_tokens, without_decay
from fedlpp_cli.leakage.token_rises import mean_log_probabilities
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.privacy.accountant import epsilon_of
from fedlpp_cli.progress import Progress
from fedlpp_cli.randomness import numpy_draws
from fedlpp_cli.records.audits import CanaryTest, LabelRecovery, Membership, TokenRecovery
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.steps.local_training import LocalRound
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.steps.rehearsal import rehearse, with_spending
from fedlpp_cli.tasks.data import Data
from fedlpp_cli.tasks.task import Example, Task

LEAST_ROWS: Final = 4
# Canaries that are never trained on: ranks among them are exposures of up to nine bits.
_N_REFERENCES: Final = 512
_N_PROBES: Final = 64
_DELTA: Final = 1e-5


@dataclass(frozen=True, slots=True)
class OpenAudit:
    """All that the tests look at. `others`: rows that were not trained on. `values`: proxy plus update."""

    package: OpenPackage
    header: UpdateHeader
    local: LocalRound
    tokenizer: Any
    columns: Mapping[str, str]
    rows: Data
    others: Data | None
    values: Mapping[str, Tensor]
    batch_size: int
    on_progress: Progress

    def measured(self, values: Mapping[str, Tensor], examples: Sequence[Example], doing: str) -> Scored:
        """What a model of those values gets on each example."""
        self.local.adapted.load(values)
        return measure(
            self.local.adapted, self.local.task, examples, self.batch_size,
            lambda done, total: self.on_progress(doing, done, total),
        )  # fmt: skip


def own_privacy(header: UpdateHeader) -> PrivacySpec | None:
    """The noise that the update says it has."""
    found = header.spec.privacy
    if found is None:
        return None
    return PrivacySpec(noise_multiplier=found.noise_multiplier, delta=found.delta, max_grad_norm=found.max_grad_norm)


def words_of(audit: OpenAudit) -> TokenRecovery:
    """Which of the rows' tokens come out of the update."""
    audit.on_progress("looking for words", 0, 0)
    return recover_tokens(
        audit.local.adapted,
        change_of(audit, audit.values),
        audit.rows.examples,
        similar=() if audit.others is None else audit.others.examples,
        special=set(audit.tokenizer.all_special_ids),
        rises=None
        if audit.local.task.spec.labels
        else np.subtract(*on_probes(audit, audit.values, mean_log_probabilities)),
    )


def classes_of(audit: OpenAudit) -> LabelRecovery | None:
    """Which classes come out of the update; None for a language model."""
    n_classes = len(audit.local.task.spec.labels)
    if not n_classes:
        return None
    after, before = on_probes(audit, audit.values, mean_logits)
    return recover_labels(before, after, audit.rows.examples, n_classes)


def change_of(audit: OpenAudit, values: Mapping[str, Tensor]) -> Change:
    """What an attacker reads out of proxy plus update: of the audit's own, or of a training like it."""
    recipe, start = audit.package.folder.header.spec.train, audit.local.start
    return Change(
        modules=audit.package.proxy.header.spec.model.lora.target_modules,
        start=start,
        values=without_decay(values, start, recipe, audit.header.spec.metrics.n_steps),
        bits=audit.header.spec.quantize.bits,
    )


def on_probes(
    audit: OpenAudit,
    values: Mapping[str, Tensor],
    measured: Callable[[AdaptedModel, Task, Sequence[Example], int], Array],
) -> tuple[Array, Array]:
    """What is measured on texts of random words, with those values and with the proxy's."""
    adapted, task = audit.local.adapted, audit.local.task
    probes = make_canaries(task, audit.tokenizer, audit.columns, _N_PROBES, "probes")

    def of(loaded: Mapping[str, Tensor]) -> Array:
        adapted.load(loaded)
        return measured(adapted, task, probes, audit.batch_size)

    return of(values), of(audit.local.start)


def rows_of(audit: OpenAudit) -> Membership:
    """Whether rows of the update, or of a training like it, are told from others.

    Raises:
        GateError: that training went wrong.
    """
    own = audit.rows.examples
    if audit.others is not None:
        return _told(audit, audit.values, own, audit.others.examples, of_update=True)
    if len(own) < LEAST_ROWS:
        return Membership(of="training like it", skipped=f"{len(own)} rows are too few to keep half of them back")
    order = numpy_draws("held back", audit.package.folder.sha256).permutation(len(own)).tolist()
    members, held_back = ([own[i] for i in part] for part in (order[: len(own) // 2], order[len(own) // 2 :]))
    noise = with_spending(audit.local, own_privacy(audit.header), len(members))
    values = rehearse(audit.local, audit.header.spec.client, members, noise, audit.on_progress)
    return _told(audit, values, members, held_back, of_update=False)


def _told(
    audit: OpenAudit,
    values: Mapping[str, Tensor],
    own: Sequence[Example],
    others: Sequence[Example],
    *,
    of_update: bool,
) -> Membership:
    drops = _drops(audit, values, [*own, *others])
    return membership(drops[: len(own)], drops[len(own) :], of_update=of_update)


def _drops(audit: OpenAudit, values: Mapping[str, Tensor], examples: Sequence[Example]) -> Array:
    before = audit.measured(audit.local.start, examples, "scoring with the proxy")
    return loss_drops(before, audit.measured(values, examples, "scoring with the update"))


def canaries_of(audit: OpenAudit, privacy: PrivacySpec | None, n_canaries: int) -> tuple[CanaryTest, ...]:
    """What trainings like the update's, without noise and with that of `privacy`, remember of canaries.

    Args:
        audit: the update.
        privacy: the noise; None for a training without only.
        n_canaries: how many coins are tossed.

    Raises:
        GateError: a training that went wrong.
        UsageError: dp-accounting is not installed.
    """
    name = audit.package.folder.sha256
    made = make_canaries(audit.local.task, audit.tokenizer, audit.columns, n_canaries + _N_REFERENCES, name)
    is_in = toss(n_canaries, name)
    rows = [*audit.rows.examples, *(made[i] for i in np.flatnonzero(is_in))]
    found = []
    for spec in (None, privacy) if privacy is not None else (None,):
        noise = with_spending(audit.local, spec, len(rows))
        values = rehearse(audit.local, audit.header.spec.client, rows, noise, audit.on_progress)
        drops = _drops(audit, values, made)
        delta = spec.delta if spec is not None else _DELTA
        found.append(
            canary_test(
                drops[:n_canaries],
                is_in,
                drops[n_canaries:],
                epsilon=None if noise is None else epsilon_of([noise[1]], delta),
                delta=delta,
                noise=None if noise is None else noise[1].noise_multiplier,
            )
        )
    return tuple(found)
