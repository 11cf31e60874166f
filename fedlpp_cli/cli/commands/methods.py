"""`fedlpp methods`."""

from fedlpp_cli.records.record import Record


def methods() -> Record:
    """List the methods that a federation can go by, for init --method: papers, what travels, what stays, what it costs.

    fedlpp methods
    fedlpp methods --json
    """
    from fedlpp_cli.steps.list_methods import list_methods as step

    return step()
