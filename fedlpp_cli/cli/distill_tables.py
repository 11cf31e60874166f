"""What `distill` did, as people read it."""

from collections.abc import Iterable
from typing import Any

from fedlpp_cli.cli.blocks import Block, facts, short, size, table, train_text
from fedlpp_cli.cli.key_tables import signers_text


def transcript(result: Any) -> Iterable[Block]:
    """What `distill publish` wrote."""
    things = "labels" if result.task.labels else "tokens"
    told = "scores" if result.targets == "scores" else "log probabilities"
    how_many = "all" if result.top_k == result.n_outcomes else f"{result.top_k} of"
    cut = f", {result.n_cut} cut to the task's length" if result.n_cut else ""
    yield facts([
        ("teacher", result.teacher),
        ("inputs", f"{result.n_inputs}, {_source(result.inputs)}{cut}"),
        ("answers", f"{result.n_answers}: {told} of {how_many} {result.n_outcomes} {things}"),
        ("size", size(result.n_bytes)),
        ("sha256", result.sha256),
        ("signed with", ", ".join(short(one) or "" for one in result.signed_with) or None),
        *(("warning", warning) for warning in result.warnings),
    ])  # fmt: skip


def learned(result: Any) -> Iterable[Block]:
    """What `distill train` made."""
    heat = f" at temperature {result.temperature:g}" if result.loss == "kl" else ""
    yield facts([
        ("student", f"{result.model_type}, {result.n_parameters:,} parameters"),
        ("recipe", train_text(result.train)),
        ("loss", f"{result.loss}{heat}: {_losses(result)}"),
        ("cut", f"{result.n_cut} inputs, to the student's length" if result.n_cut else None),
        ("federation", short(result.federation)),
        *(("warning", warning) for warning in result.warnings),
    ])  # fmt: skip
    rows = [
        (one.teacher, signers_text(one.signers) or "nobody", short(one.sha256), one.n_inputs, one.n_answers)
        for one in result.transcripts
    ]
    yield table(("teacher", "signed by", "transcript", "inputs", "answers"), rows, text_columns=3)


def _losses(result: Any) -> str:
    return f"{result.loss_first:.4f} at step 1, {result.loss_last:.4f} at step {result.n_steps}"


def _source(inputs: Any) -> str:
    return {"random": "random tokens", "templates": "from templates", "sampled": "sampled from a model"}[inputs.source]
