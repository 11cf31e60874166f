"""The attackers of one round.

Each trains as everybody does, on its own data or on what it has made of it, and then changes what it sends. They come
last and know every honest update. What they send is sound: it passes all gates.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.adapters.trained import update_shapes
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.data_attacks import flip_labels, plant, trigger_of
from fedlpp_cli.engines.update_attacks import Moments, alie, alie_z, boosted, gaussian, ipm, moments, sign_flip
from fedlpp_cli.randomness import generator
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.local_training import LocalRound, TrainedUpdate
from fedlpp_cli.tasks.seq_cls import SeqCls
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.error_feedback import round_update
from fedlpp_cli.training.gates import check_update

# Of the largest norm that is allowed: rounding can make an update a little longer again.
_MARGIN: Final = 0.999
# How far attackers with one plan keep apart; scales in fp16 tell 1.0 from 1.001.
_SPREAD: Final = 0.01


@dataclass(slots=True, kw_only=True)
class RoundAttack:
    """`honest`: the updates of the honest clients that take part, all there by now; `n_attackers` take part too."""

    spec: AttackSpec
    local: LocalRound
    seed: int
    honest: Sequence[Path]
    n_attackers: int
    _moments: dict[str, Moments] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # The run's master decides what the task is, whatever the settings say by now.
        self.spec = self.spec.resolved(self.local.task.spec)

    def poison(self, client: str, examples: Sequence[Example]) -> Sequence[Example]:
        """What the attacker trains on. Raises as `trigger_of`."""
        task, spec = self.local.task, self.spec
        if spec.attack == "label-flip":
            return flip_labels(examples, len(task.spec.labels))
        if spec.attack == "backdoor" and isinstance(task, SeqCls):
            trigger = trigger_of(task, spec.trigger or "", spec.target_label or "")
            return plant(examples, trigger, spec.poisoned_share or 0.0, self.seed, "backdoor", client)
        return examples

    def craft(self, client: str, trained: TrainedUpdate) -> TrainedUpdate:
        """What the attacker sends in place of what it trained, within the norm that the package allows.

        Attackers keep no state: what rounding takes is lost.

        Raises:
            GateError: values that are not finite, or too large for the package's rounding.
        """
        own = trained.rounded.values
        delta = {name: self._component(client, name, value, own) for name, value in own.items()}
        manifest = self.local.package.folder.header
        limit = manifest.spec.train.max_update_norm
        norm = check_update(delta, None)
        while True:
            if limit is not None and norm > limit:
                delta = {name: boosted(value, _MARGIN * limit / norm) for name, value in delta.items()}
            rounded = round_update(delta, manifest.spec.update)
            norm = check_update(rounded.values, None)
            if limit is None or norm <= limit:
                break
        metrics = replace(trained.header.spec.metrics, update_norm=six_digits(norm))
        header = replace(trained.header, spec=replace(trained.header.spec, metrics=metrics))
        return TrainedUpdate(header, trained.shapes, rounded, trained.state)

    def _component(self, client: str, name: str, own: Tensor, whole: Mapping[str, Tensor]) -> Tensor:
        scale = self.spec.scale or 0.0
        match self.spec.attack:
            case "sign-flip":
                return sign_flip(own, scale)
            case "label-flip" | "backdoor":
                return boosted(own, scale)
            case "gaussian":
                draws = generator(self.seed, "gaussian", self.local.package.folder.header.round, client, name)
                return gaussian(self._known(whole)[name], scale, draws)
            case "ipm":
                return boosted(ipm(self._known(whole)[name], scale), self._own_factor(client))
            case "alie":
                z = self.spec.scale
                if z is None:
                    z = alie_z(len(self.honest) + self.n_attackers, self.n_attackers)
                return boosted(alie(self._known(whole)[name], z), self._own_factor(client))

    def _own_factor(self, client: str) -> float:
        """About 1: attackers who all send the very same tensors are refused as each other's copies."""
        draws = generator(self.seed, "own factor", self.local.package.folder.header.round, client)
        return 1.0 + _SPREAD * (2 * torch.rand(1, generator=draws).item() - 1)

    def _known(self, own: Mapping[str, Tensor]) -> Mapping[str, Moments]:
        """Of the honest updates, read once a round; in a round without any an attacker knows its own."""
        if not self.honest:
            return {name: moments([value]) for name, value in own.items()}
        if self._moments is None:
            allow_open_files(len(self.honest))
            with ExitStack() as files:
                updates = [files.enter_context(TensorFile(path, UpdateHeader)) for path in self.honest]
                self._moments = {
                    name: moments(read_update(update, name, shape) for update in updates)
                    for name, shape in update_shapes(self.local.package.proxy.header.spec).items()
                }
        return self._moments
