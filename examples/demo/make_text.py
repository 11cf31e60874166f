"""Write the demo's text: everyday rows for the base model, private rows for four clients, held-out rows.

Every row turns a structured record (the prompt) into one natural sentence (the completion). All of it is invented,
from the tables in `topics/` and a seeded generator: equal seeds give equal bytes.

A topic is a file. Its first line names the record's keys. `key = a; b; c` lists a key's values; a table with slashes
gives several keys values that go together; `> ` starts a sentence. A value `left=right` shows its left side in the
record and its right side in the sentence. A tag such as `<noun>`, `<name 2>` or `<3-20>` is drawn from
`topics/words.txt` or made up, and stands for the same text throughout one row.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

CLIENT_ROWS = {"hospital": 240, "bank": 320, "plant": 400, "port": 280}
OWN_SHARE = 0.88  # of a client's rows; the rest comes from the other three domains
PUBLIC_ROWS = 700  # per everyday topic
TEST_ROWS = 50  # per private domain

TOPICS = Path(__file__).parent / "topics"


def read_words() -> dict[str, list[str]]:
    """The word lists of `topics/words.txt`: a name and its words, over indented lines. Names are heads with tails."""
    text = (TOPICS / "words.txt").read_text(encoding="utf-8").replace("\n  ", " ")
    lists = {name: words.split() for name, _, words in (line.partition(" ") for line in text.splitlines())}
    heads, tails = lists.pop("name.head"), lists.pop("name.tail")
    names = [head + tail for head in heads for tail in tails]
    return {"name": names, **lists}


WORDS = read_words()


@dataclass
class Topic:
    """A topic's block of lines, taken apart."""

    keys: list[str]
    slots: dict[str, list[str]] = field(default_factory=dict)
    table: list[list[list[str]]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Topic":
        """The topic in a file."""
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        topic = cls(first.split(" | "))
        for line in lines:
            if line.startswith("> "):
                topic.sentences.append(line[2:])
            elif " = " in line:
                key, _, values = line.partition(" = ")
                topic.slots[key] = values.split("; ")
            else:
                topic.table.append([cell.split("; ") for cell in line.split(" / ")])
        return topic

    def row(self, rng: random.Random) -> dict[str, str]:
        """One record with its sentence."""
        drawn: dict[str, str] = {}

        def fill(text: str) -> str:
            return re.sub(r"<([^>]+)>", lambda tag: drawn.setdefault(tag[1], draw(rng, tag[1])), text)

        values = {key: rng.choice(choices) for key, choices in self.slots.items()}
        if self.table:
            cells = zip(self.table[0], rng.choice(self.table[1:]), strict=True)
            values |= {key: rng.choice(choices) for (key,), choices in cells}
        pairs = {key: fill(value).partition("=") for key, value in values.items()}
        record = " | ".join(f"{fill(key)}: {pairs[key][0]}" for key in self.keys)
        shown = {key: right or left for key, (left, _, right) in pairs.items()}
        text = fill(rng.choice(self.sentences).format(**shown))
        return {"prompt": f"{record}\n", "completion": text[0].upper() + text[1:]}

    def rows(self, rng: random.Random, count: int) -> list[dict[str, str]]:
        """`count` rows among which neither a record nor a sentence comes twice."""
        rows: dict[str, dict[str, str]] = {}
        sentences: set[str] = set()
        while len(rows) < count:
            row = self.row(rng)
            if row["prompt"] not in rows and row["completion"] not in sentences:
                rows[row["prompt"]] = row
                sentences.add(row["completion"])
        return list(rows.values())


def draw(rng: random.Random, tag: str) -> str:
    """A text for `tag`: a number of a range, a code, or a word of a list."""
    kind = tag.split(maxsplit=1)[0]
    if kind[0].isdigit():
        low, high = kind.split("-")
        return str(rng.randint(int(low), int(high)))
    if kind == "code":
        return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(1, 4))) + rng.choice(["", "7", "24"])
    return rng.choice(WORDS[kind])


def public_rows(seed: int) -> list[dict[str, str]]:
    """The rows of all everyday topics, mixed."""
    rows: list[dict[str, str]] = []
    for path in sorted((TOPICS / "public").glob("*.txt")):
        rows += Topic.read(path).rows(random.Random(f"{seed}/{path.stem}"), PUBLIC_ROWS)
    random.Random(f"{seed}/public").shuffle(rows)
    return rows


def private_files(seed: int) -> dict[str, list[dict[str, str]]]:
    """The rows of each client and of the test file; no row is in two of them."""
    need = TEST_ROWS + sum(CLIENT_ROWS.values())
    pools = {
        name: Topic.read(TOPICS / "private" / f"{name}.txt").rows(random.Random(f"{seed}/{name}"), need)
        for name in CLIENT_ROWS
    }
    files = {"test": [pool.pop() for pool in pools.values() for _ in range(TEST_ROWS)]}
    for name, count in CLIENT_ROWS.items():
        own = round(count * OWN_SHARE)
        others = [other for other in CLIENT_ROWS if other != name]
        sources = [name] * own + [others[i % len(others)] for i in range(count - own)]
        files[name] = [pools[source].pop() for source in sources]
        random.Random(f"{seed}/order/{name}").shuffle(files[name])
    return files


def main() -> None:
    """Write the files and print how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the files, made if needed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    files = {"public": public_rows(arguments.seed)} | private_files(arguments.seed)
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name + '.jsonl':16} {len(rows):5} rows")


if __name__ == "__main__":
    main()
