"""Which models an `evaluate` compares: rows out of masters, packages, proxies, PEFT adapters and run folders.

A master stands for three: the base without adapter, the proxy that clients would get now, and the central model. A
package or a proxy stands for what a client has.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.peft_format import read_peft
from fedlpp_cli.adapters.proxy_tensors import check_groups, check_proxy, read_adapter
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.foreign_base import check_foreign_base
from fedlpp_cli.models.quantized_base import quantize_base
from fedlpp_cli.progress import Progress
from fedlpp_cli.records.headers import BaseHeader, MasterHeader, ProxyHeader, ProxySpec
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.reports import Role
from fedlpp_cli.records.specs import BaseQuantSpec, BaseSpec, LoraSpec, QuantSpec, TaskSpec
from fedlpp_cli.records.tensor_groups import spell_widths
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.given_artifacts import Given
from fedlpp_cli.steps.inputs import RefLike, federation_of, public_base_folder
from fedlpp_cli.steps.master_models import MasterModels
from fedlpp_cli.tasks.task import Task

Values = Callable[[], Mapping[str, Tensor]]
Training = Callable[[AdaptedModel, Task, Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One row: its name, whose model it is, what else to say, the artifact's sha256, and how to get the model.

    `master`: the sha256 of the master that it is of, or is the proxy of; `label`: what it was called; `is_last`: not of
    an earlier round of a run; `client`: whose proxy it
    is, where masks give each another. `train`: what happens to the model, once it has its values, before it is scored.
    """

    name: str
    role: Role
    round: int | None = None
    detail: str
    sha256: str | None = None
    master: str | None = None
    label: str = ""
    is_last: bool = True
    client: str | None = None
    base: Path
    task: TaskSpec
    lora: LoraSpec
    values: Values
    train: Training | None = None


@dataclass(slots=True)
class Line:
    """Everything that is needed to line contenders up.

    `mask`: what clients do not get of a master; None for as in a proxy beside it, or as its method has it. `clients`:
    their names; what the first of them gets is shown. `subject`: the models of the first master, or of the newest one
    of its federation that goes by the same name.
    """

    files: ExitStack
    base: RefLike | None
    base_artifact: RefLike | None
    quantize: QuantSpec | None
    base_quantize: BaseQuantSpec | None
    mask: MaskSpec | None = None
    clients: Sequence[str] = ()
    federation: str | None = None
    round: int = 0
    method: str = METHOD
    subject: MasterModels | None = None
    _subject_label: str = ""
    _sent: dict[str, ProxySpec] = field(default_factory=dict)
    _full: list[tuple[BaseSpec, Path]] = field(default_factory=list)
    _seen: dict[str | None, Path] = field(default_factory=dict)

    def up(self, given: Sequence[Given]) -> list[Contender]:
        """The contenders, a base only once.

        Raises:
            UsageError: a PEFT adapter alone, which has no task.
            LineageError: artifacts of different tasks.
        """
        files = [(one.label, one.file) for one in given if isinstance(one.file, TensorFile)]
        if len({file.header.spec.model.task for _, file in files}) > 1:
            raise LineageError("these artifacts are for different tasks and cannot be compared on one set of data")
        if files:
            label, first = files[0]
            self.federation, self.method = federation_of(first), first.header.method
            own = [file for name, file in files if name == label and federation_of(file) == self.federation]
            self.round = max(file.header.round for file in own)
        proxies = [file.header for _, file in files if isinstance(file.header, ProxyHeader)]
        proxied = {header.parent("master") for header in proxies}
        self._sent = {str(header.federation): header.spec for header in proxies if header.spec.mask is not None}
        rows: list[Contender] = []
        for one in given:
            if isinstance(one.file, Path):
                rows += self._of_peft(one, one.file, rows)
            elif isinstance(one.file.header, MasterHeader):
                master = one.file.narrow(MasterHeader)
                rows += self._of_master(one, master, is_proxied=master.sha256 in proxied)
            else:
                rows += self._of_proxy(one, one.file.narrow(ProxyHeader))
        bases = [row for row in rows if row.role == "base"]
        if self.subject is not None:
            bases = [_base_row(self.subject)]
        return [*bases[:1], *(row for row in rows if row.role != "base")]

    def _of_master(self, one: Given, file: TensorFile[MasterHeader], *, is_proxied: bool) -> list[Contender]:
        models = self._models(file)
        if self._is_subject(one, file):
            self._subject_label, self.subject = one.label, models
        model, round_text = models.model, f"round {file.header.round}"
        common = partial(
            Contender, round=file.header.round, sha256=file.sha256, master=file.sha256, label=one.label,
            is_last=one.is_last, task=model.task,
        )  # fmt: skip
        has_proxy = (models.quantize.is_rounded or models.mask.hides or model.base.private) and not is_proxied
        rows = []
        if has_proxy:
            rows.append(
                common(
                    name=f"{one.label} proxy".strip(),
                    role="proxy",
                    detail=_joined(
                        round_text,
                        spell_rounding(models.quantize),
                        _spell_mask(models.mask, models.client),
                        one.of_label,
                    ),
                    base=models.seen,
                    lora=model.lora,
                    values=models.proxy,
                    client=models.client,
                )
            )
        name = one.label if one.label and not (has_proxy or is_proxied) else f"{one.label} central".strip()
        central = common(
            name=name,
            role="central",
            detail=_joined(round_text, one.of_label),
            base=models.full,
            lora=models.central_lora,
            values=models.central,
        )
        return [*rows, central]

    def _is_subject(self, one: Given, file: TensorFile[MasterHeader]) -> bool:
        if self.subject is None:
            return True
        so_far = self.subject.file
        is_newer = file.header.round > so_far.header.round
        return is_newer and one.label == self._subject_label and federation_of(file) == federation_of(so_far)

    def _models(self, file: TensorFile[MasterHeader]) -> MasterModels:
        model = file.header.spec.model
        full = self._full_base(model.base)
        method = method_of(file.header, source=str(file.path))
        told = None if self.quantize is None else method.rounding(self.quantize)
        quantize = told or file.header.spec.quantize or method.quantize
        check_groups(components_of(file), quantize)
        sent = self._sent.get(federation_of(file))
        known = [*self.clients, *([sent.client] if sent is not None and sent.client is not None else [])]
        mask = self.mask or (sent.mask if sent is not None else None) or method.mask
        client = known[0] if known and mask.client else None
        seen = self._seen_base(file) if model.base.private else full
        return MasterModels(file, full, seen, quantize, mask, client)

    def _of_proxy(self, one: Given, proxy: TensorFile[ProxyHeader]) -> list[Contender]:
        check_proxy(proxy)
        spec = proxy.header.spec
        model = spec.model
        seen = self._seen_base(None) if model.base.private else self._full_base(model.base)

        def values() -> Mapping[str, Tensor]:
            return read_adapter(proxy)

        def nothing() -> Mapping[str, Tensor]:
            return {name: torch.zeros(shape) for name, shape in spec.shapes.items()}

        row = Contender(
            name=f"{one.label} proxy".strip(),
            role="proxy",
            round=proxy.header.round,
            detail=_joined(
                f"round {proxy.header.round}",
                spell_rounding(spec.quantize),
                _spell_mask(spec.mask or MaskSpec(), spec.client),
                one.of_label,
            ),
            sha256=proxy.sha256,
            master=proxy.header.parent("master"),
            label=one.label,
            is_last=one.is_last,
            client=spec.client,
            base=seen,
            task=model.task,
            lora=model.lora,
            values=values,
        )
        if model.lora.modules_to_save:  # a head of zeros would be no base model
            return [row]
        base = Contender(
            name="base", role="base", detail=model.base.model_type, base=seen, task=model.task, lora=model.lora,
            values=nothing,
        )  # fmt: skip
        return [base, row]

    def _of_peft(self, one: Given, folder: Path, before: Sequence[Contender]) -> list[Contender]:
        if not before or self.base is None:
            raise UsageError(f"{folder}: to score a PEFT adapter, put a master in front of it and give --base")
        adapter = read_peft(folder)
        base = store.fetch_model(parse_ref(self.base))[0]
        return [
            Contender(
                name=one.label or folder.name, role="adapter", detail=_joined("PEFT", one.of_label), label=one.label,
                base=base, task=before[0].task, lora=adapter.lora, values=lambda: adapter.values,
            )
        ]  # fmt: skip

    def _full_base(self, spec: BaseSpec) -> Path:
        """The folder of the base, whose files are checked once."""
        found = next((path for other, path in self._full if other == spec), None)
        if found is None:
            found = public_base_folder(spec, self.base)
            self._full.append((spec, found))
        return found

    def _seen_base(self, master: TensorFile[MasterHeader] | None) -> Path:
        """What clients see of a private base; of a master's, made on the fly where it is not there."""
        name = None if self.base_artifact is not None or master is None else federation_of(master)
        if name not in self._seen:
            self._seen[name] = self._quantized_base(master)
        return self._seen[name]

    def _quantized_base(self, master: TensorFile[MasterHeader] | None) -> Path:
        if self.base_artifact is not None:
            artifact = open_folder(store.fetch(parse_ref(self.base_artifact)), BaseHeader)
            check_foreign_base(artifact)
            return artifact.path
        if self.base is None or master is None:
            raise UsageError("--base-artifact is missing: clients see a quantized copy of this private base")
        scratch = Path(self.files.enter_context(tempfile.TemporaryDirectory(prefix="fedlpp-"))) / "base"
        folder, _ = store.fetch_model(parse_ref(self.base))
        spec = self.base_quantize or BaseQuantSpec()
        quantize_base(folder, master.header.spec, federation_of(master), spec, scratch)
        return scratch


def _base_row(models: MasterModels) -> Contender:
    """The model that everything began with."""
    model = models.model
    return Contender(
        name="base", role="base", detail=model.base.model_type, base=models.full, task=model.task, lora=model.lora,
        values=models.first,
    )  # fmt: skip


def spell_rounding(quantize: QuantSpec) -> str:
    """How a proxy was rounded, in words."""
    if not quantize.is_rounded:
        return "full precision"
    drawn = "" if quantize.rounding == "nearest" else f", {quantize.rounding}"
    levels = ", symmetric levels" if quantize.codebook == "symmetric" else ""
    return f"{spell_widths(quantize.bits, quantize.groups)}, block {quantize.block}{drawn}{levels}"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _spell_mask(mask: MaskSpec, client: str | None) -> str:
    if not mask.hides:
        return ""
    if mask.client and client is None:
        return "without masks: what all clients together have"
    return f"masks {mask.server:g} and {mask.client:g}" + (f" of {client}" if client else "")
