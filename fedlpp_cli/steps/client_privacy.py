"""Privacy for whole clients, as `aggregate` needs it: what goes with it, which noise, what it costs."""

import math
from collections.abc import Sequence
from pathlib import Path

from fedlpp_cli import canonical
from fedlpp_cli.adapters.master_tensors import n_parameters
from fedlpp_cli.aggregation.client_noise import ClientNoise, update_noise_multiplier
from fedlpp_cli.aggregation.fold import Fold
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import UsageError
from fedlpp_cli.privacy.accountant import epsilon_of
from fedlpp_cli.privacy.round_ledger import RoundCharge, read_charges, record_charge
from fedlpp_cli.privacy.secret_stream import SecretStream, new_key
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.privacy import ClientPrivacy
from fedlpp_cli.records.record import to_plain
from fedlpp_cli.records.specs import AggregateSpec
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import federation_of
from fedlpp_cli.steps.packages import OpenPackage


def check_client_privacy(
    spec: AggregateSpec, sent: Sequence[OpenPackage], *, ledger: Path | None, noise_key: bytes | None
) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: noise and no ledger, a ledger and no noise, or control variates with noise.
    """
    if spec.client_noise_multiplier is None:
        if ledger is not None:
            raise UsageError("--privacy-ledger: nothing is charged without --client-noise-multiplier")
        return
    if ledger is None and noise_key is None:
        raise UsageError(
            "--privacy-ledger is missing: a round with --client-noise-multiplier is charged to it",
            hint="--privacy-ledger FILE, the same one in all rounds",
        )
    for package in sent:
        if package.folder.header.spec.train.control_variates:
            raise UsageError(f"{package.name}: control variates do not go with --client-noise-multiplier")


def noise_of(
    spec: AggregateSpec,
    master: TensorFile[MasterHeader],
    sent: Sequence[OpenPackage],
    updates: Sequence[str],
    noise_key: bytes | None,
) -> ClientNoise | None:
    """The round's noise; None where none is asked for.

    Args:
        spec: how to aggregate.
        master: the open round's; it knows where adaptive clipping has come to.
        sent: what went out.
        updates: sha256 of those that are folded.
        noise_key: of a round that is computed again; None draws one.
    """
    if spec.client_noise_multiplier is None or spec.clip_norm is None:
        return None
    inputs = {
        "master": master.sha256,
        "package": sorted(package.folder.sha256 for package in sent),
        "update": list(updates),
        "aggregate": to_plain(spec),
    }
    # Of all that goes in: one key with another update in it gives other noise, and no difference of two shows anybody.
    stream = SecretStream(noise_key or new_key(), canonical.encode(inputs).decode())
    moved = master.header.spec.next_clip_norm if spec.clip_quantile is not None else None
    return ClientNoise(spec, moved or spec.clip_norm, stream)


def planned_privacy(fold: Fold, ledger: Path | None) -> ClientPrivacy | None:
    """What the round would cost, with all before it; None without noise, or where it is only computed again.

    Raises:
        UsageError: dp-accounting is not installed.
        ArtifactError, InputError: a damaged ledger.
    """
    if fold.noise is None or ledger is None:
        return None
    return _told(fold, (*read_charges(ledger), _charge(fold, "0" * 64)))


def charge_client_privacy(fold: Fold, ledger: Path | None, master_sha256: str) -> ClientPrivacy | None:
    """Charge the round for the master that has come out and has no name yet. None as `planned_privacy`.

    Raises:
        ArtifactError, InputError, OutputError: as `record_charge`.
    """
    if fold.noise is None or ledger is None:
        return None
    return _told(fold, record_charge(ledger, _charge(fold, master_sha256)))


def _charge(fold: Fold, master_sha256: str) -> RoundCharge:
    noise, spec = fold.noise, fold.spec
    if noise is None or spec.client_noise_multiplier is None:
        raise ValueError("a round without noise is not charged")
    return RoundCharge(
        federation=federation_of(fold.master),
        round=fold.master.header.round + 1,
        master=master_sha256,
        noise_multiplier=spec.client_noise_multiplier,
        sampling_rate=spec.client_sampling_rate,
        clip_norm=noise.clip_norm,
        expected_clients=noise.n_expected,
    )


def _told(fold: Fold, charges: Sequence[RoundCharge]) -> ClientPrivacy:
    noise, spec = fold.noise, fold.spec
    if noise is None or spec.client_noise_multiplier is None:
        raise ValueError("a round without noise promises nothing")
    return ClientPrivacy(
        sampling="everybody" if spec.client_sampling_rate == 1 else "poisson",
        sampling_rate=spec.client_sampling_rate,
        expected_clients=noise.n_expected,
        noise_multiplier=spec.client_noise_multiplier,
        update_noise_multiplier=six_digits(update_noise_multiplier(spec)),
        clip_norm=noise.clip_norm,
        next_clip_norm=noise.next_clip_norm(fold.norms),
        noise_norm=six_digits(noise.stddev * math.sqrt(n_parameters(fold.trained))),
        n_releases=len(charges),
        delta=spec.client_delta,
        epsilon=six_digits(epsilon_of([one.spending for one in charges], spec.client_delta)),
    )
