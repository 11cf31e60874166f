"""What `evaluate` was given, opened: one entry an artifact, the rounds of a run folder one after the other."""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedlpp_cli.adapters.peft_format import CONFIG
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE, MANIFEST
from fedlpp_cli.artifact.run_folder import RoundFolder, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import InputError, LineageError, UsageError
from fedlpp_cli.records.headers import Header, MasterHeader, ProxyHeader, spell_kind
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of
from fedlpp_cli.steps.packages import open_package

_LABELLED: Final = re.compile(r"([a-z0-9_-]{1,32})=(.+)")

ScoredFile = TensorFile[MasterHeader] | TensorFile[ProxyHeader]


@dataclass(frozen=True, slots=True)
class Given:
    """One thing to score. `file` is a master, a proxy, or the folder of a PEFT adapter.

    `of_label`: "2 of 3" where several have its label; `is_last`: not an earlier round of a run.
    """

    label: str
    of_label: str
    file: ScoredFile | Path
    is_last: bool = True


@dataclass(slots=True)
class GivenArtifacts:
    """Opens arguments. `recipe`: of the newest package among them; `private_base`: what lies with a package or a run.

    Of a run every `every`-th round counts, and the last; its proxies are those that were made, unless `rounds_anew`.
    """

    files: ExitStack
    every: int = 1
    rounds_anew: bool = False
    recipe: TrainSpec | None = None
    private_base: Path | None = None
    _recipe_round: int = -1

    def open(self, artifacts: Sequence[RefLike]) -> list[Given]:
        """Everything that there is to score, in order.

        Raises:
            UsageError: rounds that nobody can count.
            InputError: nothing there, or a run without masters.
            LineageError: an artifact that cannot be scored, or a run of several federations.
        """
        if self.every < 1:
            raise UsageError(f"--every {self.every}: 1 stands for all rounds, 2 for every second one")
        split = [_split_label(artifact) for artifact in artifacts]
        totals, seen = Counter(label for label, _ in split), Counter[str]()
        found: list[Given] = []
        for label, ref in split:
            seen[label] += 1
            of_label = f"{seen[label]} of {totals[label]}" if label and totals[label] > 1 else ""
            files, n_last = self._open(ref)
            for index, file in enumerate(files):
                found.append(Given(label, of_label, file, is_last=len(files) - index <= n_last))
        return found

    def _open(self, ref: RefLike) -> tuple[list[ScoredFile | Path], int]:
        """The files of one argument, and how many of the last are those of its last round."""
        path = store.fetch(parse_ref(ref))
        if (path / CONFIG).is_file():
            return [path], 1
        if (path / MANIFEST).is_file():
            return [self._open_package(path)], 1
        if path.is_dir():
            return self._open_run(path)
        file = self.files.enter_context(TensorFile(path, Header))
        if isinstance(file.header, MasterHeader):
            return [file.narrow(MasterHeader)], 1
        if isinstance(file.header, ProxyHeader):
            return [file.narrow(ProxyHeader)], 1
        raise LineageError(
            f"{path} is {spell_kind(file.header.kind)}; a master, proxy, package, PEFT adapter or run folder is needed"
        )

    def _open_package(self, path: Path) -> TensorFile[ProxyHeader]:
        package = open_package(path)
        self.files.callback(package.proxy.close)
        if package.proxy.header.spec.model.base.private:
            self.private_base = self.private_base or path / BASE
        self._note_recipe(package.proxy.header.round, package.folder.header.spec.train)
        return package.proxy

    def _note_recipe(self, number: int, recipe: TrainSpec) -> None:
        if number > self._recipe_round:
            self._recipe_round, self.recipe = number, recipe

    def _open_run(self, run: Path) -> tuple[list[ScoredFile | Path], int]:
        rounds = [one for one in scan_run(run) if one.master is not None]
        if not rounds:
            raise InputError(
                f"{run}: no master in it, and evaluate scores those of each round",
                hint="the owner has the masters; a client gives evaluate one package",
            )
        if (run / BASE / MANIFEST).is_file():
            self.private_base = self.private_base or run / BASE
        packages = [one.some_package for one in scan_run(run) if one.some_package is not None]
        if packages:
            self._open_package(packages[-1])  # for its recipe
        found: list[ScoredFile | Path] = []
        chosen = [one for one in rounds if one.number % self.every == 0 or one is rounds[-1]]
        of_round: list[ScoredFile] = []
        for one in chosen:
            of_round = self._open_round(one)
            found += of_round
        federations = {federation_of(file) for file in found if isinstance(file, TensorFile)}
        if len(federations) > 1:
            raise LineageError(f"{run}: masters and proxies of {len(federations)} federations in one run folder")
        return found, len(of_round)

    def _open_round(self, one: RoundFolder) -> list[ScoredFile]:
        """The proxy as clients got it, if it is there, and the master."""
        assert one.master is not None  # noqa: S101  # only rounds with one are asked for
        master = self.files.enter_context(TensorFile(one.master, MasterHeader))
        if self.rounds_anew:
            return [master]
        if one.proxy is not None:
            proxy = self.files.enter_context(TensorFile(one.proxy, ProxyHeader))
        elif one.some_package is not None:
            proxy = self._open_package(one.some_package)
        else:
            return [master]
        return [master] if proxy.header.parent("master") != master.sha256 else [proxy, master]


def _split_label(artifact: RefLike) -> tuple[str, RefLike]:
    match = _LABELLED.fullmatch(artifact) if isinstance(artifact, str) else None
    if match is None or Path(str(artifact)).exists():
        return "", artifact
    return match[1], match[2]
