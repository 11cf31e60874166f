"""Options of `aggregate`; names are those of AggregateSpec's fields."""

from pathlib import Path
from typing import Annotated

import typer

from fedlpp_cli.cli.options import of
from fedlpp_cli.records.masks import MaskMean
from fedlpp_cli.records.specs import AggregateSpec, Combine, Rule, ServerOptimizer, Weighting

OPTIMIZER = "Server optimizer"
RULE = "Rule"
PRIVACY = "Privacy of clients"

UpdateRuleOpt = Annotated[int | None, of(AggregateSpec, "update_rule", "1: theta + eta d; 2 to 4: see the docs.")]
ServerLearningRateOpt = Annotated[float | None, of(AggregateSpec, "server_learning_rate", "eta of the update rule.")]
WeightingOpt = Annotated[Weighting | None, of(AggregateSpec, "weighting", "Weights of the clients.")]
MaxExamplesOpt = Annotated[int | None, of(AggregateSpec, "max_examples", "Examples of a client that count at most.")]
CombineOpt = Annotated[
    Combine | None, of(AggregateSpec, "combine", "What is averaged: factors, or products B A in one of three ways.")
]
MaskMeanOpt = Annotated[
    MaskMean | None,
    of(AggregateSpec, "mask_mean", "With masks: the mean over those who got a row, or as if all had."),
]
RuleOpt = Annotated[Rule | None, of(AggregateSpec, "rule", "How updates become one.", panel=RULE)]
NMaliciousOpt = Annotated[
    int | None, of(AggregateSpec, "n_malicious", "Clients that the rule shall withstand.", panel=RULE)
]
ClipNormOpt = Annotated[
    float | None,
    of(AggregateSpec, "clip_norm", "Cut norms to it in front of the rule; centered-clipping's radius.", panel=RULE),
]
ClipToMedianOpt = Annotated[
    bool | None,
    typer.Option(
        "--clip-to-median/--no-clip-to-median",
        help="Cut norms to the round's median in front of the rule.",
        show_default=False,
        rich_help_panel=RULE,
    ),
]
ReferenceUpdateOpt = Annotated[
    str | None,
    typer.Option(
        "--reference-update",
        metavar="REF",
        help="The owner's own update, trained on the package; fltrust needs it.",
        show_default=False,
        rich_help_panel=RULE,
    ),
]
NPopulationOpt = Annotated[
    int | None,
    typer.Option(
        "--n-population",
        help="How many clients there are, in this round or not, where the package asks for control variates.",
        show_default="as many as before, or as sent an update",
    ),
]
MinClientsOpt = Annotated[
    int | None,
    typer.Option(
        "--min-clients",
        help="With as many sound updates the others are left out; without it all must be sound.",
        show_default=False,
    ),
]
MaxShareOpt = Annotated[float | None, of(AggregateSpec, "max_share", "Weight of a client at most.")]
NRoundsOpt = Annotated[int | None, of(AggregateSpec, "n_rounds", "Planned rounds; update rule 4 needs them.")]
ServerOptimizerOpt = Annotated[
    ServerOptimizer | None,
    of(AggregateSpec, "server_optimizer", "Takes the mean update for its gradient; sgd adds it.", panel=OPTIMIZER),
]
Beta1Opt = Annotated[float | None, of(AggregateSpec, "beta1", "Decay of its momentum.", panel=OPTIMIZER)]
Beta2Opt = Annotated[
    float | None, of(AggregateSpec, "beta2", "Decay of adam's and yogi's second moment.", panel=OPTIMIZER)
]
TauOpt = Annotated[
    float | None,
    of(AggregateSpec, "tau", "Joins the root of the second moment: below it changes stay small.", panel=OPTIMIZER),
]
ClientNoiseMultiplierOpt = Annotated[
    float | None,
    of(
        AggregateSpec,
        "client_noise_multiplier",
        "Noise on the sum of the clipped updates, in units of --clip-norm: protects whole clients.",
        panel=PRIVACY,
    ),
]
ExpectedClientsOpt = Annotated[
    int | None,
    of(
        AggregateSpec,
        "expected_clients",
        "What the sum is divided by, whoever came: the clients that a round has on average.",
        panel=PRIVACY,
    ),
]
ClientSamplingRateOpt = Annotated[
    float | None,
    of(
        AggregateSpec,
        "client_sampling_rate",
        "Below 1 only if each client was in the round with this probability, drawn in secret and independently of all "
        "others; a fixed number of clients, or those who had time, is 1.",
        panel=PRIVACY,
    ),
]
ClientDeltaOpt = Annotated[
    float | None,
    of(AggregateSpec, "client_delta", "At which delta epsilon is told; below 1 / clients.", panel=PRIVACY),
]
ClipQuantileOpt = Annotated[
    float | None,
    of(
        AggregateSpec,
        "clip_quantile",
        "Let the clipping norm follow this quantile of the norms, from --clip-norm on; 0.5 is usual.",
        panel=PRIVACY,
    ),
]
ClipLearningRateOpt = Annotated[
    float | None, of(AggregateSpec, "clip_learning_rate", "How fast it follows.", panel=PRIVACY)
]
ClippedCountStddevOpt = Annotated[
    float | None,
    typer.Option(
        "--clipped-count-stddev",
        help="Noise on how many norms are below it.",
        show_default="--expected-clients / 20",
        rich_help_panel=PRIVACY,
    ),
]
PrivacyLedgerOpt = Annotated[
    Path | None,
    typer.Option(
        "--privacy-ledger",
        metavar="FILE",
        help="The owner's, for all rounds: each master with noise is charged before it has its name.",
        show_default=False,
        rich_help_panel=PRIVACY,
    ),
]
