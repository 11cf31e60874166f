"""Print how well each model tells anomalies on held-out lines, and how often two models say the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedlpp_cli.evaluation.score import measure
from fedlpp_cli.evaluation.scored import mean_scores
from fedlpp_cli.models.open_model import open_tokenizer
from fedlpp_cli.steps.distill_models import find_teacher
from fedlpp_cli.tasks.data import load_data
from fedlpp_cli.tasks.kinds import task_for

WORK = Path("work")
SHARDS = ("storage", "network", "all")


@dataclass
class Model:
    """A master and the base that it is for."""

    name: str
    master: str
    base: str

    def score(self) -> dict[str, Any]:
        """Shard to what `measure` found."""
        found = find_teacher(WORK / self.master, base=WORK / self.base, task={})
        adapted, task = found.open("cpu"), task_for(found.task, open_tokenizer(found.folder), {})
        scored = {}
        for shard in SHARDS:
            data = load_data(WORK / "data" / f"test-{shard}.jsonl", task, columns={})
            scored[shard] = measure(adapted, task, data.examples, 64, lambda done, total: None)
        return scored


def show(title: str, models: list[Model]) -> list[dict[str, Any]]:
    """A table of macro F1; what was found."""
    table = Table("", *SHARDS, box=None, pad_edge=False)
    found = [model.score() for model in models]
    for model, scored in zip(models, found, strict=True):
        table.add_row(model.name, *(f"{mean_scores(scored[shard])['macro_f1']:.3f}" for shard in SHARDS))
    console = Console(width=110, highlight=False)
    console.print(title)
    console.print(table)
    console.print()
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How often two models give a held-out line the same label."""
    return float((one["all"].predicted == other["all"].predicted).mean())


def main() -> None:
    """Both tables."""
    show(
        "An untrained student and its teacher, macro F1 on held-out lines",
        [
            Model("teacher (BERT, its own rows of both logs)", "teacher/round-0001/master.safetensors", "base-a"),
            Model("student (RoBERTa), untrained", "untrained.safetensors", "base-b"),
            Model("student after 8000 answers to templates", "student.safetensors", "base-b"),
        ],
    )
    before_a, before_b, after_a, after_b = show(
        "Two models of different shards, before and after they taught each other, macro F1",
        [
            Model("a (BERT, storage rows), before", "a/round-0001/master.safetensors", "base-a"),
            Model("b (RoBERTa, network rows), before", "b/round-0001/master.safetensors", "base-b"),
            Model("a, after", "a-after.safetensors", "base-a"),
            Model("b, after", "b-after.safetensors", "base-b"),
        ],
    )
    print(
        f"a and b say the same of {same(before_a, before_b):.1%} of all held-out lines before, "
        f"of {same(after_a, after_b):.1%} after"
    )


if __name__ == "__main__":
    main()
