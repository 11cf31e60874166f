"""What a training with noise promises, what protects whole clients, what a ledger has counted: as people read it."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, short, table


def privacy_text(privacy: Any) -> str | None:
    """One line for an update; None for one without privacy for its examples."""
    if privacy is None:
        return None
    return (
        f"epsilon {privacy.epsilon:.4g} at delta {privacy.delta:g} with all that was charged before; "
        f"noise {privacy.noise_multiplier:g} x {privacy.max_grad_norm:g}, an example in {privacy.sampling_rate:.4g} of "
        f"{privacy.n_steps} steps"
    )


def client_privacy_rows(found: Any) -> list[tuple[str, object]]:
    """Lines about the noise and its price; none where there is no noise."""
    if found is None:
        return []
    sampling = "everybody in every round"
    if found.sampling == "poisson":
        sampling = f"Poisson sampling of clients at {found.sampling_rate:g}"
    moves = "" if found.next_clip_norm is None else f", next round {found.next_clip_norm:g}"
    releases = f"{found.n_releases} release" + ("s" if found.n_releases > 1 else "")
    return [
        ("clients' privacy", f"epsilon {found.epsilon:.4g} at delta {found.delta:g} for {releases} so far"),
        ("", f"for {found.relation.replace('-', ' ')} client, {sampling}"),
        ("noise", f"multiplier {found.noise_multiplier:g}, clipping norm {found.clip_norm:g}{moves}"),
        ("", f"norm {found.noise_norm:.4g} in the mean over {found.expected_clients} expected clients"),
    ]


def budget(result: Any) -> Iterable[Block]:
    """The blocks of `fedlpp budget`."""
    limit, n_left = result.max_epsilon, result.n_rounds_left
    yield facts([
        ("epsilon", f"{result.epsilon:.4g} at delta {result.delta:g}, for adding or removing one example"),
        ("budget", "no end" if limit is None else f"{limit:g}, {result.left:.4g} left"),
        ("rounds left", None if n_left is None else f"{n_left} like the last one"),
    ])  # fmt: skip
    rows = (
        (
            short(one.federation), one.round, one.client, short(one.data), short(one.update),
            f"{one.noise_multiplier:g}", f"{one.sampling_rate:.4g}", one.n_steps,
        )
        for one in result.charges
    )  # fmt: skip
    yield table(("federation", "round", "client", "data", "update", "noise", "rate", "steps"), rows)
