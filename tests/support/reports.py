"""Reports with made-up numbers, about no model: what pages are made of."""

from collections.abc import Sequence

from fedlpp_cli.records.audits import (
    AttackRow,
    AuditReport,
    CanaryTest,
    LabelRecovery,
    Membership,
    TokenRecovery,
    UpdateAuditReport,
)
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.plans import GroupRow, PlanReport, PlanRow, PlanTargets
from fedlpp_cli.records.privacy import ClientPrivacy, ExamplePrivacy
from fedlpp_cli.records.reports import (
    AggregateReport,
    ClientContribution,
    EvaluateReport,
    EvaluateRow,
    Interval,
    RejectedUpdate,
)
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TaskSpec, TrainMetrics
from fedlpp_cli.reporting.story import Given, RoundTold, Story

FEDERATION = "f" * 64
HOSTILE = "<script>alert(1)</script>\"'&\u202e\x1b[2J\uffff"
CLASSES = TaskSpec(kind="seq-cls", labels=("no", "yes"))
_ATTACKS = ("proxy", "average", "fine-tune", "pool", "intersect", "replay", "rerounding", "distill")


def around(value: float, width: float) -> Interval:
    """An interval that far to both sides."""
    return Interval(low=value - width, high=value + width)


def evaluation(n_rounds: int = 4, *, detail: str = "", per_class: bool = False) -> EvaluateReport:
    """Central and proxy after each round, base, and a client alone; with one round side by side."""
    classes = {"no": {"f1": 0.7}, "yes": {"f1": 0.8}} if per_class else {}

    def row(model, role, value, number=None):
        return EvaluateRow(
            model=model, role=role, round=number, artifact=None if number is None else f"{number:064x}", detail=detail,
            scores={"loss": 1 - value, "accuracy": value}, intervals={"accuracy": around(value, 0.02)},
            per_class=classes if number is not None else {},
        )  # fmt: skip

    rows = [row("base", "base", 0.31), row("alone", "alone", 0.62)]
    for number in range(n_rounds) if n_rounds > 1 else (3,):
        central = 0.78 - 0.45 / (number + 1) ** 2
        rows += [row("proxy", "proxy", central - 0.03, number), row("central", "central", central, number)]
    return EvaluateReport(task=CLASSES, data="d" * 64, n_examples=600, n_cut=0, generation={}, rows=tuple(rows))


def audit(
    rhos: Sequence[float | None] = (0.9, 0.97, None),
    *,
    n_bytes: int = 90_000,
    words: str = "",
    max_rho: float | None = 0.5,
) -> AuditReport:
    """One attack for each number; None for one that was not computed."""
    rows = [
        AttackRow(attack=kind, variant=f"variant {words}", knows=f"everything {words}", skipped=f"no way {words}")
        if rho is None
        else AttackRow(
            attack=kind, variant=words, knows="a package", scores={"accuracy": 0.3 + rho / 2}, rho=rho,
            rho_interval=around(rho, 0.05), error_a=0.2, kl=0.01,
        )
        for kind, rho in zip(_ATTACKS, rhos, strict=False)
    ]  # fmt: skip
    found = [(rho, index) for index, rho in enumerate(rhos) if rho is not None]
    return AuditReport(
        task=CLASSES, data="d" * 64, n_examples=600, n_rounds=4, headline="accuracy", base={"accuracy": 0.31},
        proxy={"accuracy": 0.75}, central={"accuracy": 0.78}, gain=0.47, gain_interval=around(0.47, 0.03),
        bytes_down=n_bytes, rows=tuple(rows), worst=max(found)[1] if found else None, max_rho=max_rho, n_compared=600,
        verdict=f"unprotected {words}",
    )  # fmt: skip


def plan(
    rhos: Sequence[float | None] = (0.99, 0.8, 0.6),
    *,
    chosen: int | None = 1,
    words: str = "",
    targets: PlanTargets | None = None,
) -> PlanReport:
    """One simulated setting for each number, each cheaper than the one before, and one that was not simulated."""
    simulated = [
        PlanRow(
            label=f"setting {number} {words}".strip(), quantize=QuantSpec(), rank=4, combine="factors",
            bytes_down=40_000 - 1000 * number, bytes_up=300_000, proxy={"loss": 2.0, "accuracy": 0.5},
            tuned={"loss": 1.9, "accuracy": 0.6}, loss_increase=0.1, gradient_change=0.3, cosine=0.9 - number / 100,
            score=0.2, central={"loss": 1.5 + number / 10, "accuracy": 0.7 - number / 100}, rho_newest=rho,
            rho_mean=None if rho is None else rho - 0.1, rho=rho,
            rho_interval=None if rho is None else around(rho, 0.05), on_front=number > 0,
        )
        for number, rho in enumerate(rhos)
    ]  # fmt: skip
    other = PlanRow(
        label="other", quantize=QuantSpec(), rank=4, combine="factors", bytes_down=9_000, bytes_up=300_000, cosine=0.4,
        skipped=f"no time {words}",
    )  # fmt: skip
    group = GroupRow(
        group=f"lora_A {words}", bits="3", n_bytes=500, loss_increase=0.1, gradient_change=0.2, cosine=0.9, score=0.1
    )
    return PlanReport(
        task=CLASSES, data="d" * 64, n_examples=60, n_clients=3, n_rounds=4, headline="accuracy",
        base={"loss": 3.0, "accuracy": 0.2}, plain={"loss": 1.4, "accuracy": 0.72}, gain=0.52, gain_interval=None,
        trade_off=1.0, targets=targets or PlanTargets(max_rho=0.9), groups=(group,), rows=(*simulated, other),
        chosen=chosen, verdict=f"chosen or not {words}",
    )  # fmt: skip


def update_audit(
    *, auc: float | None = 0.88, span: float | None = 0.9, words: str = "", max_auc: float | None = 0.6
) -> UpdateAuditReport:
    """Rows and words that come out or, with None, were not tested; random words without noise and with."""
    tokens = (
        TokenRecovery(skipped=f"no span {words}")
        if span is None
        else TokenRecovery(
            n_tokens=30,
            n_candidates=90,
            by_chance=0.3,
            by_frequency=0.6,
            rank=8,
            is_exact=True,
            by_span=span,
            by_rise=0.5,
        )
    )
    rows = (
        Membership(of="update", skipped=f"too few {words}")
        if auc is None
        else Membership(
            of="update", n_members=40, n_others=20, auc=auc, auc_interval=around(auc, 0.05), true_positive_rate=0.066
        )
    )
    canaries = [
        CanaryTest(
            noise_multiplier=noise, n_canaries=6, n_references=512, exposure_mean=mean, exposure_max=2 * mean, auc=0.7,
            n_guesses=8, n_right=7, epsilon_bound=0.8, epsilon=promised, delta=1e-5,
        )
        for noise, mean, promised in ((None, 3.2, None), (0.5, 1.9, 7.996))
    ]  # fmt: skip
    return UpdateAuditReport(
        task=CLASSES, data="d" * 64, control_data="e" * 64, n_examples=40, n_steps=24, privacy=None, tokens=tokens,
        labels=LabelRecovery(n_classes=2, n_pairs=1, in_order=1.0, most_frequent=True), membership=rows,
        canaries=() if auc is None else tuple(canaries), max_auc=max_auc, verdict=f"rows can be told {words}",
        advice=(f"noise {words}", "more rows"),
    )  # fmt: skip


def given(spec, name: str = "report", federation: str | None = FEDERATION, number: int = 1) -> Given:
    """As if it had been read."""
    return Given(name, ReportHeader(federation=federation, round=number, parents={}, spec=spec), f"{number:064x}")


def aggregate(clients: Sequence[str], *, reason: str | None = None, epsilon: float | None = None) -> AggregateReport:
    """How a round of those was aggregated; with a reason one more was left out."""
    told = [
        ClientContribution(
            client=name, update=f"{number:064x}", n_examples=10 + number, weight=1 / len(clients), rank=4,
            update_norm=1 + number / 10, cosine=0.9 - number / len(clients), loss_first=3.0, loss_last=2.0,
        )
        for number, name in enumerate(clients)
    ]  # fmt: skip
    left_out = () if reason is None else (RejectedUpdate(client=None, update=None, code="gate", reason=reason),)
    return AggregateReport(
        aggregate=AggregateSpec(), n_clients=len(clients), n_tensors=4, n_parameters=100, mean_norm=0.7, step_norm=0.7,
        clients=tuple(told), rejected=left_out, client_privacy=None if epsilon is None else noise(epsilon),
    )  # fmt: skip


def noise(epsilon: float) -> ClientPrivacy:
    """What protects whole clients."""
    return ClientPrivacy(
        sampling="everybody", sampling_rate=1.0, expected_clients=4, noise_multiplier=1.0, update_noise_multiplier=1.0,
        clip_norm=0.5, next_clip_norm=None, noise_norm=0.2, n_releases=1, delta=1e-5, epsilon=epsilon,
    )  # fmt: skip


def update_of(client: str, epsilon: float | None = None):
    """What an update says of itself."""
    from fedlpp_cli.records.headers import UpdateSpec

    privacy = None
    if epsilon is not None:
        privacy = ExamplePrivacy(
            noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.1, n_steps=5, delta=1e-5, epsilon=epsilon
        )
    losses = None if privacy else 2.0
    metrics = TrainMetrics(
        n_examples=10, n_steps=5, n_tokens=0, loss_first=losses, loss_last=losses, update_norm=1.0
    )  # fmt: skip
    return UpdateSpec(client=client, metrics=metrics, privacy=privacy)


def run_told(
    n_rounds: int = 4, clients: Sequence[str] = ("bank", "port"), *, reason: str | None = None, private: bool = False
) -> Story:
    """A run of that many rounds, without reports beside it."""
    rounds = [
        RoundTold(
            number=number, master=f"{number + 1:064x}", package=f"{number + 90:064x}", bits="3", bytes_down=20_000,
            bytes_up=30_000,
            updates=tuple(update_of(name, 1.5 * (number + 1) if private else None) for name in clients),
            report=aggregate(clients, reason=reason, epsilon=2.0 * (number + 1) if private else None),
        )
        for number in range(n_rounds)
    ]  # fmt: skip
    newest = RoundTold(number=n_rounds, master=f"{n_rounds + 1:064x}")
    return Story(FEDERATION, None, (*rounds, newest), ())
