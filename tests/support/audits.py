"""Audits of tiny federations."""

from fedlpp_cli import audit
from fedlpp_cli.records.audits import AuditSpec
from fedlpp_cli.records.specs import TrainSpec

RECIPE = TrainSpec(steps=12, batch_size=8, learning_rate=1e-2)
CHEAP = AuditSpec(attacks=("proxy",))


def run(federation, data, *artifacts, spec=CHEAP, **options):
    """The report about a federation's run folder, or about those artifacts of it."""
    found = audit(artifacts or [federation.folder], data=data, base=federation.base, spec=spec, device="cpu", **options)
    return found.report


def shards_of(federation):
    """Client to rows."""
    return {client: federation.data(client) for client in federation.clients}


def rows_of(report, attack):
    """Those of one kind."""
    return [row for row in report.rows if row.attack == attack]
