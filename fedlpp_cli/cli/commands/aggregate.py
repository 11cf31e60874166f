"""`fedlpp aggregate`."""

from typing import Annotated

import typer

from fedlpp_cli.cli import options as o
from fedlpp_cli.cli.screen import on_progress
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import AggregateSpec

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
    update_rule: o.UpdateRuleOpt = None,
    server_learning_rate: o.ServerLearningRateOpt = None,
    weighting: o.WeightingOpt = None,
    max_examples: o.MaxExamplesOpt = None,
    max_share: o.MaxShareOpt = None,
    n_rounds: o.NRoundsOpt = None,
    min_clients: o.MinClientsOpt = None,
    rule: o.RuleOpt = None,
    n_malicious: o.NMaliciousOpt = None,
    clip_norm: o.ClipNormOpt = None,
    clip_to_median: o.ClipToMedianOpt = None,
    reference_update: o.ReferenceUpdateOpt = None,
    federation: o.FederationOpt = None,
    force: o.ForceOpt = False,
    dry_run: o.DryRunOpt = False,
) -> Record:
    """Fold the updates of a round into the full-precision adapter: master + updates -> next master.

    Needs neither the base model nor a GPU. Beside the next master lies a report about the clients.

    fedlpp aggregate master.safetensors updates/*.safetensors --package package --out ../round-0001/master.safetensors
    """
    from fedlpp_cli.steps.aggregate import aggregate as step

    settings = read_settings(federation)
    spec = settings.resolve(
        AggregateSpec,
        update_rule=update_rule,
        server_learning_rate=server_learning_rate,
        weighting=weighting,
        max_examples=max_examples,
        max_share=max_share,
        n_rounds=n_rounds,
        min_clients=min_clients,
        rule=rule,
        n_malicious=n_malicious,
        clip_norm=clip_norm,
        clip_to_median=clip_to_median,
    )
    return step(
        master,
        updates,
        packages=package,
        out=out,
        spec=spec,
        reference=reference_update,
        force=force,
        dry_run=dry_run,
        on_progress=on_progress,
    )
