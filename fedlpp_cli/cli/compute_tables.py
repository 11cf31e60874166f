"""How a training computes, and what it would take, as people read it."""

from typing import Any

from fedlpp_cli.cli.blocks import size


def compute_text(choice: Any) -> str:
    """What was chosen, and why."""
    arithmetic = "" if choice.backend.startswith("dense") else f", {choice.arithmetic}"
    text = f"{choice.backend}{arithmetic} on {choice.device}: {choice.reason}"
    if choice.gradient_checkpointing:
        text += "; gradient checkpointing"
    if choice.micro_batch is not None:
        text += f"; {choice.micro_batch} rows at once"
    if choice.n_processes == 1:
        return text
    return f"{text}; {choice.n_processes} processes" + (", each with a part of the base" if choice.shard_base else "")


def plan_rows(plan: Any, choice: Any) -> list[tuple[str, object]]:
    """Lines of a dry run."""
    measured = f"measured {size(plan.memory_peak)}" if plan.memory_peak else "not measured"
    base = f", and {size(plan.bytes_down_base)} of the public base" if plan.bytes_down_base else ""
    rows: list[tuple[str, object]] = [
        ("base", f"{plan.n_base_parameters:,} parameters, {size(plan.n_base_bytes)} in memory"),
        ("memory", f"at most {size(choice.memory_estimate)} estimated; with all of the process {measured}"),
        ("tokens", f"{plan.n_tokens:,}"),
        ("download", f"{size(plan.bytes_down)}{base}"),
    ]
    if plan.step_seconds is not None:
        rows.append(("time", f"{plan.step_seconds:.3g} s a step, about {_duration(plan.total_seconds)} in all"))
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
