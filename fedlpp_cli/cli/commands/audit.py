"""`fedlpp audit`."""

from fedlpp_cli.cli import audit_options as a
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli import privacy_options as p
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import columns_of
from fedlpp_cli.errors import UsageError
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import BaseQuantSpec, EvaluateSpec, QuantSpec


def audit(
    artifacts: a.AuditArg = None,
    data: a.HeldOutOpt = None,
    base: o.BaseOpt = None,
    base_artifact: o.BaseArtifactOpt = None,
    round_number: a.RoundOpt = None,
    shard: a.ShardOpt = None,
    seen: a.SeenOpt = None,
    attacks: a.AttacksOpt = None,
    count: a.CountOpt = None,
    attack_epochs: a.EpochsOpt = 5,
    queries: a.QueriesOpt = 256,
    budget: a.BudgetOpt = None,
    max_rho: a.MaxRhoOpt = None,
    update: a.UpdateOpt = None,
    package: a.PackageOpt = None,
    control_data: a.ControlDataOpt = None,
    canaries: a.CanariesOpt = 64,
    trials: a.TrialsOpt = 4096,
    max_auc: a.MaxAucOpt = None,
    dp_epsilon: p.DpEpsilonOpt = None,
    noise_multiplier: p.NoiseMultiplierOpt = None,
    dp_delta: p.DpDeltaOpt = None,
    dp_rounds: p.DpRoundsOpt = None,
    max_grad_norm: p.MaxGradNormOpt = None,
    out: a.AuditOutOpt = None,
    bits: o.BitsOpt = None,
    block: o.BlockOpt = None,
    scale: o.ScaleOpt = None,
    rounding: o.RoundingOpt = None,
    rounding_seed: o.RoundingSeedOpt = None,
    scale_rounding: o.ScaleRoundingOpt = None,
    batch_size: o.EvaluateBatchSizeOpt = None,
    limit: o.LimitOpt = None,
    column: o.ColumnOpt = None,
    split: o.SplitOpt = None,
    device: o.DeviceOpt = "auto",
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
) -> Record:
    """Play the attacker before the next package leaves: what do all packages together tell of the model?

    fedlpp audit runs/a -f federation.toml
    fedlpp audit runs/a --base ./model --data test.jsonl --shard north.jsonl --budget 10 --out audit.json
    fedlpp audit runs/a -f federation.toml --attacks proxy,average --max-rho 0.8 --json

    Or, as a client: which words, classes and rows come out of an update, before it is sent?

    fedlpp audit --update north.safetensors --package package --data notes.jsonl --control-data others.jsonl
    fedlpp audit --update north.safetensors --package package --data notes.jsonl --dp-epsilon 8 --max-auc 0.6
    """
    settings = read_settings(federation)
    if update is not None:
        _check_update(artifacts, package, data, max_rho)
        from fedlpp_cli.steps.audit_update import audit_update

        return audit_update(
            update,
            package=package or "",
            data=data or "",
            control_data=control_data,
            base=settings.ref(base, "base"),
            columns=columns_of(settings, column),
            split=split,
            device=device,
            privacy=p.privacy_spec(
                settings,
                epsilon=dp_epsilon,
                noise_multiplier=noise_multiplier,
                delta=dp_delta,
                n_rounds=dp_rounds,
                max_grad_norm=max_grad_norm,
            ),
            n_canaries=canaries,
            n_trials=trials,
            budget=budget,
            batch_size=batch_size or 16,
            max_auc=max_auc,
            out=out,
            force=force,
            on_progress=on_progress,
        )
    from fedlpp_cli.steps.audit import audit as step

    if not artifacts:
        raise UsageError("audit needs a run folder, or masters and what was distributed", hint="a client: --update")
    if max_auc is not None or package is not None or control_data is not None:
        raise UsageError("--max-auc, --package and --control-data are about an update", hint="--update UPDATE")
    quantize = {
        "bits": bits,
        "block": block,
        "scale": scale,
        "rounding": rounding,
        "rounding_seed": rounding_seed,
        "scale_rounding": scale_rounding,
    }
    is_told = any(value is not None for value in quantize.values())
    return step(
        artifacts,
        data=settings.needed_ref(data, "test_data", flag="--data"),
        base=settings.ref(base, "base"),
        base_artifact=base_artifact,
        shards=a.shards_of(settings, shard),
        seen=a.seen_of(seen),
        round_number=round_number,
        spec=a.audit_spec(attacks, count, attack_epochs, queries, budget, max_rho),
        evaluate=settings.resolve(EvaluateSpec, batch_size=batch_size, limit=limit),
        train=None,
        quantize=settings.resolve(QuantSpec, **quantize) if is_told else None,
        base_quantize=settings.resolve(BaseQuantSpec),
        columns=columns_of(settings, column),
        split=split,
        device=device,
        out=out,
        force=force,
        on_progress=on_progress,
    )


def _check_update(artifacts: list[str] | None, package: str | None, data: str | None, max_rho: float | None) -> None:
    """Refuse what does not go with `--update`."""
    if artifacts or max_rho is not None:
        raise UsageError("--update is a client's audit: it takes no other artifacts and no --max-rho", hint="--max-auc")
    for option, value in (("--package", package), ("--data", data)):
        if value is None:
            raise UsageError(f"{option} is missing: an update is audited with the package and the rows it is made of")
