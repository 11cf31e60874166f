"""What benchmarks of many federations share: the examples they play, and what a cell came to, kept for the next run."""

import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
_WORK: Final = Path(__file__).parent / "work"
_MADE: Final = {"demo": "work/base/config.json", "wordnet-minilm": "work/data/test.jsonl"}


def make_data(example: str) -> None:
    """An example's base and rows, where they have not been made yet."""
    subprocess.run(["make", "--no-print-directory", "-C", str(EXAMPLES / example), _MADE[example]], check=True)


def kept(words: Iterable[object], play: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `play` gives, as JSON has it: now, or in an earlier run with the same words."""
    path = _WORK / ("-".join(str(word).replace(" ", "_") for word in words) + ".json")
    if not path.is_file():
        found = play()
        _WORK.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(path)
    outcome: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return outcome
