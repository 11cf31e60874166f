"""What a simulation is told about attackers, and the mark that a run with attackers bears."""

import json
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from fedlpp_cli import canonical
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.artifact.run_folder import ATTACK
from fedlpp_cli.artifact.whole import output_errors, whole_file, write_all
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.records.record import Count, PositiveFloat, Record, to_plain
from fedlpp_cli.records.specs import TaskSpec

AttackName = Literal["sign-flip", "gaussian", "alie", "ipm", "label-flip", "backdoor"]

# What `scale` is where nobody says; of alie it follows from the numbers of clients and attackers.
DEFAULT_SCALES: Final[dict[AttackName, float]] = {
    "sign-flip": 10.0,
    "gaussian": 10.0,
    "ipm": 0.5,
    "label-flip": 1.0,
    "backdoor": 10.0,
}
DEFAULT_TRIGGER: Final = "cf"
DEFAULT_SHARE: Final = 0.5
_ON_LABELS: Final[frozenset[AttackName]] = frozenset({"label-flip", "backdoor"})
_MAX_MARK_BYTES: Final = 2**16


class AttackSpec(Record, frozen=True, kw_only=True):
    """Who is against the owner, and how (`update_attacks.py`, `data_attacks.py`).

    `scale`: what an update is multiplied with, alie's z, ipm's epsilon, or how much larger than honest values gaussian
    noise is. Of a backdoor: the `trigger`, put into a `poisoned_share` of an attacker's rows, and what the model shall
    then say. None stands for a default, filled in by `resolved`.
    """

    attack: AttackName
    n_attackers: Count
    scale: PositiveFloat | None = None
    trigger: str | None = None
    target_label: str | None = None
    poisoned_share: Annotated[float, Meta(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        for field in ("trigger", "target_label", "poisoned_share"):
            if getattr(self, field) is not None and self.attack != "backdoor":
                raise UsageError(f"--{field.replace('_', '-')} goes with --attack backdoor, not {self.attack}")

    def resolved(self, task: TaskSpec) -> "AttackSpec":
        """With defaults filled in.

        Raises:
            UsageError: an attack on labels where the task has none, or a label that it has not.
        """
        if self.attack in _ON_LABELS and task.kind != "seq-cls":
            raise UsageError(f"--attack {self.attack} changes labels: it goes with seq-cls, not with {task.kind}")
        scale = self.scale if self.scale is not None else DEFAULT_SCALES.get(self.attack)
        if self.attack != "backdoor":
            return replace(self, scale=scale)
        target = task.labels[0] if self.target_label is None else self.target_label
        if target not in task.labels:
            raise UsageError(f"--target-label {target!r:.60}; this federation has {', '.join(task.labels)}")
        return replace(
            self,
            scale=scale,
            trigger=DEFAULT_TRIGGER if self.trigger is None else self.trigger,
            target_label=target,
            poisoned_share=DEFAULT_SHARE if self.poisoned_share is None else self.poisoned_share,
        )


def check_mark(run: Path, attack: AttackSpec | None) -> None:
    """Refuse to go on with a run that was begun with other attackers, or without.

    Raises:
        LineageError: what the run was begun with.
    """
    mark, wanted = run / ATTACK, None if attack is None else _encode(attack)
    found = read_regular(mark, _MAX_MARK_BYTES) if mark.is_file() else None
    if found != wanted:
        raise LineageError(
            f"{run}: was begun {_spell(found)}, and cannot go on {_spell(wanted)}",
            hint="the options of before, or another --out",
        )


def write_mark(run: Path, attack: AttackSpec | None) -> None:
    """Before the first artifact. Without attackers there is none, and what a run that never began left is removed.

    Raises:
        OutputError: as `whole_file`.
    """
    mark = run / ATTACK
    if attack is None:
        with output_errors(mark):
            mark.unlink(missing_ok=True)
        return
    with whole_file(mark, force=True) as descriptor, output_errors(mark):
        write_all(descriptor, _encode(attack), 0)


def _encode(attack: AttackSpec) -> bytes:
    return canonical.encode(to_plain(attack)) + b"\n"


def _spell(mark: bytes | None) -> str:
    if mark is None:
        return "without an attack"
    try:
        fields = json.loads(mark)
        given = [f"{name} {value}" for name, value in fields.items() if name != "attack" and value is not None]
        return shorten(f"with attack {fields['attack']} ({', '.join(given)})", 200)
    except (ValueError, KeyError, AttributeError):
        return f"with an attack that {ATTACK} does not name"
