"""`budget`: what a data holder's ledger has counted, and how far it still goes. Loads no torch."""

from pathlib import Path
from typing import Final

from fedlpp_cli.errors import InputError
from fedlpp_cli.privacy.accountant import Spending
from fedlpp_cli.privacy.budget_ledger import Charge, Ledger, read_ledger
from fedlpp_cli.records.record import Record

# No more rounds than this are looked for.
_MANY: Final = 1000


class BudgetResult(Record, frozen=True, kw_only=True):
    """What a ledger says. `epsilon`: of all `charges`, at `delta`.

    `max_epsilon`: how far it may go, None for no end. `left`: how far it still may. `n_rounds_left`: how many more
    trainings like the last one fit, 1000 for that many or more; None where nothing was charged or there is no end.
    """

    path: str
    delta: float
    epsilon: float
    max_epsilon: float | None
    left: float | None
    n_rounds_left: int | None
    charges: tuple[Charge, ...]


def budget(ledger: Path | str) -> BudgetResult:
    """Read a ledger.

    Raises:
        InputError: none is there.
        ArtifactError: a damaged line.
        UsageError: dp-accounting is not installed.
    """
    path = Path(ledger)
    found = read_ledger(path)
    if found is None:
        raise InputError(f"{path}: no ledger is there")
    epsilon, limit = found.epsilon(), found.budget.max_epsilon
    return BudgetResult(
        path=str(path),
        delta=found.budget.delta,
        epsilon=epsilon,
        max_epsilon=limit,
        left=None if limit is None else max(0.0, limit - epsilon),
        n_rounds_left=None if limit is None or not found.charges else _rounds_left(found, limit),
        charges=found.charges,
    )


def _rounds_left(ledger: Ledger, limit: float) -> int:
    last = ledger.charges[-1].spending

    def fits(n_rounds: int) -> bool:
        more = Spending(last.noise_multiplier, last.sampling_rate, n_rounds * last.n_steps)
        return ledger.epsilon(more) <= limit

    high = 1
    while high < _MANY and fits(high):
        high *= 2
    low, high = high // 2, min(high, _MANY)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high if high == _MANY and fits(high) else low
