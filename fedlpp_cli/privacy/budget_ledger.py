"""What a data holder's rows have been through: every training with noise that has led, or may have led, to an update.

A file of the data holder's own, kept across rounds and federations, one canonical JSON object a line:

    {"about":"budget","delta":1e-05,"max_epsilon":8.0}
    {"about":"charge","client":...,"data":...,"federation":...,"n_steps":...,"noise_multiplier":...,...}

A charge is on disk before its update has its name. All charges count together, whatever data they name: rows may be in
both. A last line without an end that is no JSON was cut short before its update could be seen: it does not count.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from fedlpp_cli.artifact.ledger_file import MAX_BYTES, append, append_records, locked, whole_lines
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.whole import fsync_folder
from fedlpp_cli.errors import ArtifactError, BudgetError, LineageError, OutputError, UsageError
from fedlpp_cli.privacy.accountant import Spending, epsilon_of
from fedlpp_cli.records.privacy import Delta
from fedlpp_cli.records.record import Count, Digest, PartyName, PositiveFloat, Record, read_record


class Budget(Record, frozen=True, kw_only=True, tag_field="about", tag="budget"):
    """At which delta epsilon is counted, and how far it may go; the last one in the file holds."""

    delta: Delta
    max_epsilon: PositiveFloat | None = None


class Charge(Record, frozen=True, kw_only=True, tag_field="about", tag="charge"):
    """One update. `run`: digest of what its secret numbers came from; the same run again is charged once."""

    federation: Digest
    round: Count
    package: Digest
    client: PartyName
    data: Digest
    noise_multiplier: PositiveFloat
    sampling_rate: Annotated[float, Meta(gt=0, le=1)]
    n_steps: Count
    run: Digest
    update: Digest

    @property
    def spending(self) -> Spending:
        """What the accountant needs of it."""
        return Spending(self.noise_multiplier, self.sampling_rate, self.n_steps)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a file says."""

    budget: Budget
    charges: tuple[Charge, ...]

    def epsilon(self, *more: Spending) -> float:
        """Of all charges, and `more`."""
        return epsilon_of([*(one.spending for one in self.charges), *more], self.budget.delta)

    def until(self, run: str) -> "Ledger | None":
        """What it said when that run was charged; None where it was not."""
        found = next((number for number, one in enumerate(self.charges, 1) if one.run == run), None)
        return None if found is None else Ledger(self.budget, self.charges[:found])


def read_ledger(path: Path) -> Ledger | None:
    """The ledger; None where there is none, or an empty file.

    Raises:
        ArtifactError: a damaged line.
        InputError: no regular file.
    """
    return _parse(read_regular(path, MAX_BYTES + 1), path)[0] if os.path.lexists(path) else None


def foresee_charge(path: Path, budget: Budget, charge: Charge, *, data_changed: bool = False) -> float:
    """What `record_charge` would return now; raises as it does. Writes nothing."""
    known = read_ledger(path) or Ledger(budget, ())
    charged = known.until(charge.run)
    if charged is not None:
        return charged.epsilon()
    check_charge(path, known, budget, charge, data_changed=data_changed)
    return known.epsilon(charge.spending)


def record_charge(
    path: Path, budget: Budget, charge: Charge, *, data_changed: bool = False, told: float | None = None
) -> float:
    """Charge an update, or refuse. When this returns it is on disk. Of two processes the second sees the first's.

    Args:
        path: the ledger; made where there is none.
        budget: what holds from now on.
        charge: the update.
        data_changed: it is for other data than the last one, and should be.
        told: the epsilon that the update says.

    Returns:
        epsilon of this charge and all before it.

    Raises:
        BudgetError: it would pass the budget.
        LineageError: the last charge was for other data, and `data_changed` is not set; epsilon is not what was told,
            as another training was charged meanwhile.
        UsageError: another delta, or a larger budget, than the ledger has.
        ArtifactError: the ledger is damaged.
        InputError, OutputError: it is no regular file, or cannot be locked or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as descriptor:
            data = os.pread(descriptor, MAX_BYTES + 1, 0)
            ledger, size = _parse(data, path)
            known = ledger or Ledger(budget, ())
            charged = known.until(charge.run)
            if charged is not None:
                append(descriptor, b"", size)
                return charged.epsilon()
            budget = check_charge(path, known, budget, charge, data_changed=data_changed)
            total = known.epsilon(charge.spending)
            if told not in (None, total):
                raise LineageError(f"{path}: another training was charged meanwhile", hint="the same command again")
            new: list[Record] = [charge] if ledger and ledger.budget == budget else [budget, charge]
            append_records(descriptor, new, data, size)
            fsync_folder(path.parent)
            return total
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})", hint="--ledger FILE") from None


def check_charge(path: Path, known: Ledger, budget: Budget, charge: Charge, *, data_changed: bool = False) -> Budget:
    """The budget that holds with this charge. Writes nothing. Raises as `record_charge`."""
    limit = known.budget.max_epsilon
    if budget.delta != known.budget.delta:
        raise UsageError(f"{path}: counts at delta {known.budget.delta:g}, this training has {budget.delta:g}")
    if limit is not None and budget.max_epsilon is not None and budget.max_epsilon > limit:
        raise UsageError(f"{path}: has a budget of epsilon {limit:g}, {budget.max_epsilon:g} is asked for")
    limits = [one for one in (limit, budget.max_epsilon) if one is not None]
    budget = Budget(delta=budget.delta, max_epsilon=min(limits, default=None))
    if known.charges and known.charges[-1].data != charge.data and not data_changed:
        raise LineageError(
            f"{path}: a ledger of other data, {known.charges[-1].data[:12]}…, not {charge.data[:12]}…",
            hint="the ledger of this data; where rows were added or changed, --data-changed",
        )
    total = known.epsilon(charge.spending)
    if budget.max_epsilon is not None and total > budget.max_epsilon:
        raise BudgetError(f"{path}: epsilon would be {total:.4g}, the budget is {budget.max_epsilon:g}")
    return budget


def _parse(data: bytes, path: Path) -> tuple[Ledger | None, int]:
    """What the file says, and how many of its bytes say it."""
    lines, size = whole_lines(data, path)
    found = [_read(raw, source) for source, raw in lines]
    budgets = [one for one in found if isinstance(one, Budget)]
    if found and not isinstance(found[0], Budget):
        raise ArtifactError(f"{path}: line 1: a budget is needed")
    return (Ledger(budgets[-1], tuple(_charges(found))) if budgets else None), size


def _charges(found: Sequence[Budget | Charge]) -> list[Charge]:
    return [one for one in found if isinstance(one, Charge)]


def _read(raw: dict[str, Any], source: str) -> Budget | Charge:
    kind: type[Budget | Charge] = Charge if raw.get("about") == "charge" else Budget
    return read_record(raw, kind, source=source, error=ArtifactError)
