"""What `verify` found, as people read it."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, short, table
from fedlpp_cli.cli.key_tables import signers_text


def verify(result: Any) -> Iterable[Block]:
    """What was looked at, who signed it, and what became of aggregates that were computed again."""
    rows = (
        (one.path, one.kind, one.round, one.sha256[:12], f"{one.parents_found} of {one.n_parents}")
        for one in result.artifacts
    )
    yield table(("artifact", "kind", "round", "sha256", "parents"), rows, text_columns=2)
    for one in result.artifacts:
        if one.signers:
            yield f"{one.path} is signed by {signers_text(one.signers)}"
    missing = f"; {result.missing} parents are not among them" if result.missing else ""
    yield f"{len(result.artifacts)} artifacts are sound and belong together{missing}"
    if result.reruns:
        outcomes = [
            (one.path, one.round, one.sha256[:12], short(one.recomputed), _outcome(one)) for one in result.reruns
        ]
        yield table(("aggregate", "round", "sha256", "computed again", ""), outcomes)


def _outcome(rerun: Any) -> str:
    if rerun.outcome == "inputs-missing":
        return f"not computed: {rerun.n_missing} inputs are not among them"
    return "equal" if rerun.outcome == "equal" else f"equal but for its producer, {rerun.producer}"
