"""What an owner has handed out, round by round: out of a run folder, or of artifacts one by one."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fedlpp_cli.adapters.proxy_tensors import check_proxy
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import BASE, MANIFEST, open_folder
from fedlpp_cli.artifact.open_files import allow_open_files
from fedlpp_cli.artifact.run_folder import is_run, scan_run
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import InputError, LineageError, UsageError
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import (
    BaseHeader,
    Header,
    MasterHeader,
    PackageHeader,
    ProxyHeader,
    UpdateHeader,
    spell_kind,
)
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec, TrainSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of
from fedlpp_cli.steps.packages import open_package
from fedlpp_cli.steps.quantize import quantize


@dataclass(frozen=True, slots=True)
class Sent:
    """What went out in a round: the proxy, and how many bytes it came in. `recipe`: None with a proxy alone."""

    proxy: TensorFile[ProxyHeader]
    n_bytes: int
    recipe: TrainSpec | None


@dataclass(frozen=True, slots=True)
class History:
    """Rounds 0 to that of `central`, the newest of which may be about to go out.

    `sent`: by round, the proxy of the highest rank. `updates`: by round, client to file; {} where they are gone.
    `seen`: client to the rounds whose packages it had, as far as is known. `masters`: by round. `shapes`: of the
    components of every proxy, by its sha256. `base_copy`: a private base as clients have it.
    """

    federation: str
    central: TensorFile[MasterHeader]
    masters: Mapping[int, TensorFile[MasterHeader]]
    sent: Mapping[int, Sent]
    updates: Mapping[int, Mapping[str, TensorFile[UpdateHeader]]]
    seen: Mapping[str, frozenset[int]]
    shapes: Mapping[str, Mapping[str, Shape]]
    base_copy: RefLike | None

    @property
    def quantize(self) -> QuantSpec:
        """How the newest proxy is rounded."""
        return self.newest.header.spec.quantize

    @property
    def newest(self) -> TensorFile[ProxyHeader]:
        """The newest proxy."""
        return self.sent[self.central.header.round].proxy

    @property
    def makes_anew(self) -> bool:
        """Whether both factors are new ones in each round: of several rounds only products can be put together."""
        return method_of(self.central.header, source=str(self.central.path)).finish is not None


@dataclass(slots=True)
class HistoryReader:
    """Opens artifacts, and makes the proxies that are not there.

    `files` closes them. `base`: where the base lies; `base_copy`: its quantized copy, where it is private. `quantize`
    and `base_quantize`: how what is not there yet is rounded; None for as before.
    """

    files: ExitStack
    base: RefLike | None = None
    base_copy: RefLike | None = None
    quantize: QuantSpec | None = None
    base_quantize: BaseQuantSpec | None = None
    _masters: dict[int, TensorFile[MasterHeader]] = field(default_factory=dict)
    _sent: dict[int, Sent] = field(default_factory=dict)
    _updates: dict[int, dict[str, TensorFile[UpdateHeader]]] = field(default_factory=lambda: defaultdict(dict))
    _shapes: dict[str, Mapping[str, Shape]] = field(default_factory=dict)
    _federation: str | None = None

    def read(
        self,
        artifacts: Sequence[RefLike],
        *,
        round_number: int | None = None,
        seen: Mapping[str, Iterable[int]] | None = None,
    ) -> History:
        """The history up to a master.

        Args:
            artifacts: run folders, masters, packages, proxies, updates.
            round_number: of the master to protect; None for the newest.
            seen: client to the rounds that it took part in, where its updates do not say so.

        Raises:
            UsageError: no master, or none of that round.
            InputError: a folder that is no run, or a round of which there is neither package, proxy nor master.
            LineageError: artifacts of several federations, or that do not follow from one another.
            ArtifactError: one that is not sound.
        """
        paths = [path for artifact in artifacts for path in self._places(store.fetch(parse_ref(artifact)))]
        allow_open_files(len(paths))
        for path in paths:
            self._add(path)
        last = max(self._masters, default=None) if round_number is None else round_number
        if last is None or last not in self._masters:
            which = "" if round_number is None else f" of round {round_number}"
            raise UsageError(
                f"audit needs the owner's master{which}: that is what is to be protected",
                hint=f"the newest that is here is of round {max(self._masters)}"
                if self._masters
                else "the run folder, or the masters; a client audits its update: --update",
            )
        self._check_chain()
        self._fill_gaps(last)
        rounds = range(last + 1)
        return History(
            federation=str(self._federation),
            central=self._masters[last],
            masters={number: file for number, file in self._masters.items() if number <= last},
            sent={number: self._sent[number] for number in rounds},
            updates={number: dict(sorted(self._updates[number].items())) for number in rounds},
            seen=self._participation(last, seen or {}),
            shapes=self._shapes,
            base_copy=self.base_copy,
        )

    def _places(self, path: Path) -> list[Path]:
        if path.is_dir() and not is_run(path) and not (path / MANIFEST).is_file():
            raise InputError(
                f"{path}: no run folder, there is no round-0000 in it, and no package",
                hint="the owner's run folder, with round-0000 in it, or masters and packages one by one",
            )
        if not is_run(path):
            return [path]
        if self.base_copy is None and (path / BASE / MANIFEST).is_file():
            self.base_copy = path / BASE
        found: list[Path | None] = []
        for folder in scan_run(path):
            found += [folder.master, folder.package or folder.proxy, *folder.updates.values()]
        return [place for place in found if place is not None]

    def _add(self, path: Path) -> None:
        if (path / MANIFEST).is_file():
            package = open_package(path)
            self.files.callback(package.proxy.close)
            if package.proxy.header.spec.model.base.private and self.base_copy is None:
                self.base_copy = path / BASE
            self._keep_sent(
                package.proxy, _package_bytes(package.folder.header, path), package.folder.header.spec.train
            )
            return
        file = self.files.enter_context(TensorFile(path, Header))
        if isinstance(file.header, MasterHeader):
            self._check_federation(path, federation_of(file))
            if file.header.round in self._masters:
                raise LineageError(f"{path}: a second master of round {file.header.round}")
            self._masters[file.header.round] = file.narrow(MasterHeader)
        elif isinstance(file.header, ProxyHeader):
            proxy = file.narrow(ProxyHeader)
            check_proxy(proxy)
            self._keep_sent(proxy, proxy.n_bytes, None)
        elif isinstance(file.header, UpdateHeader):
            self._check_federation(path, str(file.header.federation))
            self._updates[file.header.round][file.header.spec.client] = file.narrow(UpdateHeader)
        else:
            wanted = "a run folder, master, package, proxy or update is needed"
            raise LineageError(f"{path} is {spell_kind(file.header.kind)}; {wanted}")

    def _keep_sent(self, proxy: TensorFile[ProxyHeader], n_bytes: int, recipe: TrainSpec | None) -> None:
        self._check_federation(proxy.path, str(proxy.header.federation))
        self._shapes[proxy.sha256] = proxy.header.spec.shapes
        number = proxy.header.round
        before = self._sent.get(number)
        rank = proxy.header.spec.model.lora.rank
        if before is None or (rank, recipe is not None) > (
            before.proxy.header.spec.model.lora.rank,
            bool(before.recipe),
        ):
            self._sent[number] = Sent(proxy, n_bytes, recipe)

    def _check_federation(self, path: Path, federation: str) -> None:
        if self._federation not in (None, federation):
            raise LineageError(
                f"{path}: of federation {federation[:12]}…, what came before it is of {str(self._federation)[:12]}…"
            )
        self._federation = federation

    def _check_chain(self) -> None:
        """Masters follow from one another, proxies from masters."""
        for number, file in self._masters.items():
            before = self._masters.get(number - 1)
            if before is not None and file.header.parent("master") != before.sha256:
                raise LineageError(f"{file.path}: was not made from the master {before.path}")
            sent = self._sent.get(number)
            if sent is not None and sent.proxy.header.parent("master") != file.sha256:
                raise LineageError(f"{sent.proxy.path}: was not made from the master {file.path}")

    def _fill_gaps(self, last: int) -> None:
        """Round the masters again whose proxies are not there: rounding gives what it gave."""
        missing = [number for number in range(last + 1) if number not in self._sent and number not in self._masters]
        if missing:
            rounds = f"round{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            raise InputError(
                f"{rounds}: neither package, proxy nor master is among the artifacts; who has them knows more than "
                "this audit could say",
                hint="give the run folder, or all packages",
            )
        for number in range(last + 1):
            if number not in self._sent:
                self._sent[number] = self._make_proxy(number, is_newest=number == last)

    def _make_proxy(self, number: int, *, is_newest: bool) -> Sent:
        scratch = Path(self.files.enter_context(tempfile.TemporaryDirectory(prefix="fedlpp-")))
        master = self._masters[number]
        if master.header.spec.model.base.private and self.base_copy is None:
            self.base_copy = scratch / "base"
        out = scratch / "proxy.safetensors"
        quantize(
            master.path,
            out=out,
            spec=self._rounding(number, is_newest=is_newest),
            mask=MaskSpec(),  # what all clients together have
            base=self.base,
            base_out=self.base_copy if master.header.spec.model.base.private else None,
            base_spec=self._base_rounding(),
        )
        proxy = self.files.enter_context(TensorFile(out, ProxyHeader))
        return Sent(proxy, proxy.n_bytes, None)

    def _rounding(self, number: int, *, is_newest: bool) -> QuantSpec:
        method = method_of(self._masters[number].header, source=str(self._masters[number].path))
        told = None if self.quantize is None else method.rounding(self.quantize)
        if is_newest and told is not None:
            return told
        following = self._masters.get(number + 1)
        stated = following.header.spec.quantize if following else self._masters[number].header.spec.quantize
        last = self._sent.get(number - 1)
        return stated or (last.proxy.header.spec.quantize if last else None) or told or method.quantize

    def _base_rounding(self) -> BaseQuantSpec | None:
        """That of the copy that is there; no other could be what clients have."""
        copy = None if self.base_copy is None else parse_ref(self.base_copy)
        if copy is None or not store.exists(copy):
            return self.base_quantize
        return open_folder(store.fetch(copy), BaseHeader).header.spec.quantize

    def _participation(self, last: int, seen: Mapping[str, Iterable[int]]) -> dict[str, frozenset[int]]:
        rounds: dict[str, set[int]] = defaultdict(set)
        for number, of_round in self._updates.items():
            for client in of_round:
                rounds[client].add(number)
        for client, numbers in seen.items():
            rounds[client] |= set(numbers)
        return {client: frozenset(n for n in numbers if n <= last) for client, numbers in sorted(rounds.items())}


def _package_bytes(header: PackageHeader, path: Path) -> int:
    return sum(file.size for file in header.files) + (path / MANIFEST).stat().st_size
