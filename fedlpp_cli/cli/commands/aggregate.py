"""`fedlpp aggregate`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import aggregate_options as a
from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.cli.settings_file import resolve_aggregate
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings

UpdatesArg = Annotated[
    list[str], typer.Argument(metavar="UPDATE...", help="What the clients sent, in any order.", show_default=False)
]
PackagesOpt = Annotated[
    list[str],
    typer.Option("--package", metavar="REF", help="What the clients were sent; repeat it if there were several."),
]


def aggregate(
    master: o.MasterArg,
    updates: UpdatesArg,
    package: PackagesOpt,
    out: o.SecretOutOpt,
    update_rule: a.UpdateRuleOpt = None,
    server_learning_rate: a.ServerLearningRateOpt = None,
    weighting: a.WeightingOpt = None,
    max_examples: a.MaxExamplesOpt = None,
    max_share: a.MaxShareOpt = None,
    n_rounds: a.NRoundsOpt = None,
    combine: a.CombineOpt = None,
    mask_mean: a.MaskMeanOpt = None,
    server_optimizer: a.ServerOptimizerOpt = None,
    beta1: a.Beta1Opt = None,
    beta2: a.Beta2Opt = None,
    tau: a.TauOpt = None,
    min_clients: a.MinClientsOpt = None,
    n_population: a.NPopulationOpt = None,
    rule: a.RuleOpt = None,
    n_malicious: a.NMaliciousOpt = None,
    clip_norm: a.ClipNormOpt = None,
    clip_to_median: a.ClipToMedianOpt = None,
    reference_update: a.ReferenceUpdateOpt = None,
    client_noise_multiplier: a.ClientNoiseMultiplierOpt = None,
    expected_clients: a.ExpectedClientsOpt = None,
    client_sampling_rate: a.ClientSamplingRateOpt = None,
    client_delta: a.ClientDeltaOpt = None,
    clip_quantile: a.ClipQuantileOpt = None,
    clip_learning_rate: a.ClipLearningRateOpt = None,
    clipped_count_stddev: a.ClippedCountStddevOpt = None,
    privacy_ledger: a.PrivacyLedgerOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Fold the updates of a round into the full-precision adapter: master + updates -> next master.

    Needs neither the base model nor a GPU. Beside the next master lies a report about the clients.

    fedlpp aggregate master.safetensors updates/*.safetensors --package package --out ../round-0001/master.safetensors
    fedlpp aggregate master.safetensors updates/*.safetensors --package package --server-optimizer adam
        --server-learning-rate 0.01 --out ../round-0001/master.safetensors
    fedlpp aggregate master.safetensors updates/*.safetensors --package package-2 --package package-8
        --combine residual --weighting product-norm --out ../round-0001/master.safetensors
    fedlpp aggregate master.safetensors bank.safetensors court.safetensors --package for-bank --package for-court
        --mask-mean unaware --out ../round-0001/master.safetensors
    fedlpp aggregate master.safetensors updates/*.safetensors --package package --clip-norm 0.5
        --client-noise-multiplier 1 --expected-clients 200 --privacy-ledger privacy.jsonl
        --out ../round-0001/master.safetensors
    """
    from fedlpp_cli.steps.aggregate import aggregate as step

    settings = read_settings(federation)
    spec = resolve_aggregate(
        settings,
        update_rule=update_rule,
        server_learning_rate=server_learning_rate,
        weighting=weighting,
        max_examples=max_examples,
        max_share=max_share,
        n_rounds=n_rounds,
        combine=combine,
        mask_mean=mask_mean,
        server_optimizer=server_optimizer,
        beta1=beta1,
        beta2=beta2,
        tau=tau,
        min_clients=min_clients,
        n_population=n_population,
        rule=rule,
        n_malicious=n_malicious,
        clip_norm=clip_norm,
        clip_to_median=clip_to_median,
        client_noise_multiplier=client_noise_multiplier,
        expected_clients=expected_clients,
        client_sampling_rate=client_sampling_rate,
        client_delta=client_delta,
        clip_quantile=clip_quantile,
        clip_learning_rate=clip_learning_rate,
        clipped_count_stddev=clipped_count_stddev,
    )
    return step(
        master,
        updates,
        packages=package,
        out=out,
        spec=spec,
        reference=reference_update,
        privacy_ledger=privacy_ledger,
        force=force,
        dry_run=dry_run,
        on_progress=on_progress,
    )
