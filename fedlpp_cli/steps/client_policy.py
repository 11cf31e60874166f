"""Whether a package asks for more than its client allows; decided before the base model is opened."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from fedlpp_cli.errors import PolicyError, UsageError
from fedlpp_cli.records.keys import PublicKey
from fedlpp_cli.records.policy import ClientPolicy
from fedlpp_cli.records.privacy import ExamplePrivacy
from fedlpp_cli.steps.packages import OpenPackage
from fedlpp_cli.training.schedule import n_steps

_ASK_FOR_LESS: Final = "ask the owner for less, or change the policy file if you mean to allow it"


def allowed_signers(policy: ClientPolicy, asked: Sequence[PublicKey]) -> tuple[PublicKey, ...]:
    """Whose packages are taken; nobody in particular where neither says so. An option cannot widen a policy.

    Args:
        policy: the client's.
        asked: the keys that this call asks for.

    Raises:
        UsageError: no key is in both.
    """
    own = policy.signer_keys
    if not own or not asked:
        return own or tuple(asked)
    both = tuple(key for key in own if key in asked)
    if not both:
        raise UsageError("--signer: none of these keys is in signers of the policy file")
    return both


def check_policy(policy: ClientPolicy, package: OpenPackage) -> None:
    """Refuse a package that asks for more than the policy allows.

    Raises:
        PolicyError: naming everything that is too much.
    """
    _refuse(package, [*_asked_too_much(policy, package)])


def check_length(policy: ClientPolicy, package: OpenPackage, n_examples: int) -> None:
    """Refuse a training that is longer than the policy allows, whichever way the recipe says how long.

    Raises:
        PolicyError: naming everything that is too much.
    """
    train = package.folder.header.spec.train
    steps = n_steps(train, n_examples)
    epochs = (
        steps * train.batch_size * train.gradient_accumulation / n_examples if train.epochs is None else train.epochs
    )
    _refuse(package, [*_above(("max_steps", steps, policy.max_steps), ("max_epochs", epochs, policy.max_epochs))])


def check_privacy(policy: ClientPolicy, package: OpenPackage, privacy: ExamplePrivacy | None) -> None:
    """Refuse a training that protects its examples less than the policy asks for.

    Args:
        policy: the client's.
        package: what would be trained.
        privacy: what the update would promise; None for nothing.

    Raises:
        PolicyError: naming everything that is too much.
    """
    if privacy is None:
        problems = ["it would be trained without privacy for its examples"] if policy.asks_for_privacy else []
    else:
        problems = [*_promised_too_little(policy, privacy)]
    _refuse(package, problems, hint="--dp-epsilon or --noise-multiplier, with --ledger; or change the policy file")


def _asked_too_much(policy: ClientPolicy, package: OpenPackage) -> Iterator[str]:
    manifest, spec = package.folder.header, package.proxy.header.spec
    if policy.federations and manifest.federation not in policy.federations:
        yield f"its federation {(manifest.federation or '')[:12]}… is not in federations"
    unknown = sorted(_base_digests(package) - {*policy.bases}) if policy.bases else []
    if unknown:
        yield f"its base {unknown[0][:12]}… is not in bases"
    n_parameters = sum(math.prod(shape) for shape in spec.shapes.values())
    yield from _above(
        ("max_rounds", manifest.round + 1, policy.max_rounds), ("max_parameters", n_parameters, policy.max_parameters)
    )


def _promised_too_little(policy: ClientPolicy, privacy: ExamplePrivacy) -> Iterator[str]:
    least = policy.min_noise_multiplier
    if least is not None and privacy.noise_multiplier < least:
        yield f"min_noise_multiplier is {least:g}, it would be {privacy.noise_multiplier:g}"
    yield from _above(
        ("max_epsilon", privacy.epsilon, policy.max_epsilon), ("max_delta", privacy.delta, policy.max_delta)
    )


def _above(*limits: tuple[str, float, float | None]) -> Iterator[str]:
    for name, found, limit in limits:
        if limit is not None and found > limit:
            yield f"{name} is {limit:,.10g}, it would be {found:,.10g}"


def _base_digests(package: OpenPackage) -> set[str]:
    """Of a public base's weight files; of a private one's manifest."""
    base = package.proxy.header.spec.model.base
    if base.private:
        return {package.folder.header.parent("base") or ""}
    return {digest for name, digest in base.files.items() if name.endswith(".safetensors")}


def _refuse(package: OpenPackage, problems: list[str], *, hint: str = _ASK_FOR_LESS) -> None:
    if problems:
        raise PolicyError(
            f"{package.name}: more than your policy allows: {'; '.join(problems)}",
            hint=hint,
        )
