"""What protects whole clients, as people read it."""

from typing import Any


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
