"""Reports with made-up numbers, about no model: what pages are made of."""

from collections.abc import Sequence

from fedlpp_cli.records.audits import AttackRow, AuditReport
from fedlpp_cli.records.headers import ReportHeader
from fedlpp_cli.records.privacy import ClientPrivacy, ExamplePrivacy
from fedlpp_cli.records.reports import (
    AggregateReport,
    ClientContribution,
    EvaluateReport,
    EvaluateRow,
    Interval,
    RejectedUpdate,
)
from fedlpp_cli.records.specs import AggregateSpec, TaskSpec, TrainMetrics
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
