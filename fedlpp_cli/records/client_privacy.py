"""Which settings of `aggregate` go with noise for whole clients: those that bound what one client can change."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fedlpp_cli.records.specs import AggregateSpec

# Field to the only value with which adding or removing a client moves the sum by the clipping norm at most.
_ONE_BOUND: Final[dict[str, object]] = {
    "rule": "mean",
    "weighting": "equal",
    "combine": "factors",
    "update_rule": 1,
    "clip_to_median": False,
    "max_share": 1.0,
}
# What means nothing without noise, and its default.
_OF_NOISE: Final[dict[str, object]] = {
    "expected_clients": None,
    "client_sampling_rate": 1.0,
    "clip_quantile": None,
    "clipped_count_stddev": None,
}


def check_client_privacy(spec: "AggregateSpec") -> None:
    """Refuse what does not go together in one spec.

    Raises:
        ValueError: the field, what it is and what it would have to be.
    """
    sigma = spec.client_noise_multiplier
    if sigma is None:
        for field, default in _OF_NOISE.items():
            if getattr(spec, field) != default:
                raise ValueError(f"{field}: goes with client_noise_multiplier, which is not set")
        return
    for field, needed in _ONE_BOUND.items():
        found = getattr(spec, field)
        if found != needed:
            raise ValueError(f"{field}: noise for clients (client_noise_multiplier) goes with {needed}, not {found}")
    for field, reason in (("clip_norm", "its unit"), ("expected_clients", "what the sum is divided by")):
        if getattr(spec, field) is None:
            raise ValueError(f"{field}: client_noise_multiplier needs {reason}; set it")
    _check_count(spec, sigma)


def _check_count(spec: "AggregateSpec", sigma: float) -> None:
    if spec.clip_quantile is None:
        if spec.clipped_count_stddev is not None:
            raise ValueError("clipped_count_stddev: goes with clip_quantile, which is not set")
    elif 2 * spec.count_stddev <= sigma:
        raise ValueError(
            f"clipped_count_stddev: {spec.count_stddev:g}, more than half of client_noise_multiplier is needed, or "
            "counting norms alone costs as much as the round may"
        )
