"""The owner's part of SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378): c, the mean of the clients' variates.

A client's changes by dc_i = -p - d_i / S, where p is what the proxy says of c, d_i its update and S the sum of its
learning rates (`training/control_variates.py`). With n clients in a round, the paper's c += sum of dc_i / N is

    c = (N' c + n (-p - D / S)) / N

with D the mean of the updates, and N' the clients of the round before, which is N unless more have come. D is here
whatever the rule made of the updates, after clipping and weights: what a rule keeps out of the adapter it keeps out of
c too. In full precision p is c; rounded, c - p stays the owner's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlpp_cli.adapters.control_tensors import control_name
from fedlpp_cli.adapters.proxy_tensors import read_control
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import AggregateSpec


@dataclass(frozen=True, slots=True)
class ControlStep:
    """How c moves in a round of `n_clients` of all the `n_population`; `rate_sum` is S.

    `n_before`: how many clients c is the mean of. New ones come with zeros.
    """

    n_clients: int
    n_population: int
    n_before: int
    rate_sum: float

    def next_value(self, before: Tensor, sent: Tensor, mean: Tensor) -> Tensor:
        """The next c of a component; all float64, of one shape, or of none for zeros."""
        return (self.n_before * before - self.n_clients * (sent + mean / self.rate_sum)) / self.n_population

    def next_tensor(
        self, master: TensorFile[MasterHeader], proxy: TensorFile[ProxyHeader], component: str, mean: Tensor
    ) -> Tensor:
        """The same from the files; a master and a proxy before the first such round have zeros."""
        before = sent = torch.zeros((), dtype=torch.float64)
        if master.header.spec.control_variates:
            before = master.read(control_name(component)).double()
        found = read_control(proxy, component)
        return self.next_value(before, sent if found is None else found.double(), mean)


def control_step(spec: AggregateSpec, before: MasterSpec, rate_sum: float | None, n_updates: int) -> ControlStep | None:
    """None in a round without control variates.

    Args:
        spec: `n_population`; None for as many as before, or as many as sent an update if those are more.
        before: the open round's master.
        rate_sum: S as the package has it; None where it asks for no control variates.
        n_updates: how many are used.

    Raises:
        UsageError: a population where there is none to count, or one that is too small; products, not factors.
    """
    population = spec.n_population
    if rate_sum is None:
        if population is not None:
            raise UsageError(f"--n-population {population}: the package asks for no control variates")
        return None
    if spec.combine != "factors":
        raise UsageError(f"--combine {spec.combine}: control variates are of factors", hint="--combine factors")
    last = before.aggregate.n_population if before.control_variates and before.aggregate else None
    least = max(n_updates, last or 0)
    if population is not None and population < least:
        counted = f"there are {n_updates} updates" if n_updates == least else f"it was {last}, and who has left counts"
        raise UsageError(f"--n-population {population}: {counted}")
    return ControlStep(n_updates, population or least, last or n_updates, rate_sum)


def same_rate_sum(found: Sequence[tuple[str, float | None]]) -> float | None:
    """S of a round; all its packages have one.

    Args:
        found: of each package what to call it, and S, None where it asks for no control variates.

    Raises:
        UsageError: packages that differ.
    """
    first, expected = found[0]
    for name, rate_sum in found:
        if rate_sum != expected:
            raise UsageError(
                f"{name} and {first}: with control variates all packages of a round ask for them, with the same steps "
                "and learning rates"
            )
    return expected
