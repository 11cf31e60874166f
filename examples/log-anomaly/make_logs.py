"""Write the example's logs: private labelled lines for each participant, held-out lines, and public templates.

A line of `logs/*.txt` is a template with one pair of brackets, [normal words / anomalous words]. Private lines take a
word from one side and have a label. Templates to publish with name all the words, in one order, and no label: they are
what anybody can read in the source of the program that logs. Equal seeds give equal bytes.
"""

import argparse
import json
import random
import re
from pathlib import Path

from fedlpp_cli.tasks.templates import fill_templates, parse_templates

HERE = Path(__file__).parent
SHARDS = ("storage", "network")
LABELS = ("normal", "anomaly")
ANOMALOUS = 0.3  # of all lines
N_TRAIN, N_TEST = 2500, 500
BRACKETS = re.compile(r"\[(.*) / (.*)\]")


def read_logs(shard: str) -> list[tuple[str, list[list[str]]]]:
    """Each template with a gap for its word, and the words of the two classes."""
    found = []
    for line in (HERE / "logs" / f"{shard}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = BRACKETS.search(line)
        if match is None:
            raise SystemExit(f"{shard}.txt: no brackets in {line!r}")
        found.append((BRACKETS.sub("{}", line), [side.split(", ") for side in match.groups()]))
    return found


def lines(shard: str, n_lines: int, seed: int) -> list[dict[str, str]]:
    """Labelled lines."""
    draw, logs, rows = random.Random(f"{shard} {seed}"), read_logs(shard), []
    for number in range(n_lines):
        template, words = draw.choice(logs)
        is_anomaly = draw.random() < ANOMALOUS
        (filled,) = parse_templates(template.format(draw.choice(words[is_anomaly])), source=shard)
        rows.append({"text": fill_templates([filled], 1, seed=seed + number)[0], "label": LABELS[is_anomaly]})
    return rows


def main() -> None:
    """Make `<out>/<shard>.jsonl`, `<out>/test-<shard>.jsonl`, `<out>/<shard>.templates.txt`, and `all` of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {"all": [], "test-all": []}
    templates: dict[str, list[str]] = {"all": []}
    for shard in SHARDS:
        rows[shard] = lines(shard, N_TRAIN, 10_000 * options.seed)
        rows[f"test-{shard}"] = lines(shard, N_TEST, 10_000 * options.seed + 5_000)
        templates[shard] = [
            template.format(f"<choice {'|'.join(sorted(normal + anomalous))}>")
            for template, (normal, anomalous) in read_logs(shard)
        ]
        rows["all"] += rows[shard]
        rows["test-all"] += rows[f"test-{shard}"]
        templates["all"] += templates[shard]
    for name, found in templates.items():
        (options.out / f"{name}.templates.txt").write_text("\n".join(found) + "\n", encoding="utf-8")
    for name, some in sorted(rows.items()):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (options.out / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
