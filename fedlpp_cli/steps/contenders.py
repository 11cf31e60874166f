"""Which models an `evaluate` compares: rows out of masters, packages, proxies and PEFT adapters.

A master stands for three: the base without adapter, the proxy that clients would get now, and the central model. A
package or a proxy stands for what a client has.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from fedlpp_cli.adapters.drawn import drawn_of
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.adapters.peft_format import CONFIG, read_peft
from fedlpp_cli.adapters.proxy_tensors import check_groups, check_proxy, read_adapter
from fedlpp_cli.adapters.ranks import lora_of_rank
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.adapters.withheld import of_one_rank, owners_values
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.folder import MANIFEST, open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LineageError, UsageError
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.models.first_values import first_values
from fedlpp_cli.models.foreign_base import check_foreign_base
from fedlpp_cli.models.quantized_base import quantize_base
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import BaseHeader, Header, MasterHeader, ProxyHeader, spell_kind
from fedlpp_cli.records.methods import METHOD
from fedlpp_cli.records.reports import Role
from fedlpp_cli.records.specs import BaseQuantSpec, LoraSpec, ModelSpec, QuantSpec, TaskSpec
from fedlpp_cli.records.tensor_groups import spell_widths
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of, public_base_folder
from fedlpp_cli.steps.packages import open_package

_LABELLED: Final = re.compile(r"([a-z0-9_-]{1,32})=(.+)")

Values = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One row: its name, whose model it is, what else to say, the artifact's sha256, and how to get the model."""

    name: str
    role: Role
    round: int | None
    detail: str
    sha256: str | None
    base: Path
    task: TaskSpec
    lora: LoraSpec
    values: Values


@dataclass(slots=True)
class Line:
    """Everything that is needed to line contenders up."""

    files: ExitStack
    base: RefLike | None
    base_artifact: RefLike | None
    quantize: QuantSpec | None
    base_quantize: BaseQuantSpec | None
    federation: str | None = None
    round: int = 0
    method: str = METHOD

    def up(self, artifacts: Sequence[RefLike]) -> list[Contender]:
        """The contenders, a base only once.

        Raises:
            UsageError: a PEFT adapter alone, which has no task.
            LineageError: artifacts of different tasks.
        """
        opened = [self._open(artifact) for artifact in artifacts]
        headers = [
            cast("MasterHeader | ProxyHeader", file.header) for _, file in opened if isinstance(file, TensorFile)
        ]
        tasks = {header.spec.model.task for header in headers}
        if len(tasks) > 1:
            raise LineageError("these artifacts are for different tasks and cannot be compared on one set of data")
        proxied = {header.parent("master") for header in headers if isinstance(header, ProxyHeader)}
        rows: list[Contender] = []
        for label, file in opened:
            if isinstance(file, Path):
                rows += self._of_peft(label, file, rows)
            elif isinstance(file.header, MasterHeader):
                rows += self._of_master(label, file.narrow(MasterHeader), is_proxied=file.sha256 in proxied)
            else:
                rows += self._of_proxy(label, file.narrow(ProxyHeader))
        return _without_repeats(rows)

    def _open(self, artifact: RefLike) -> tuple[str, TensorFile[Header] | Path]:
        label, ref = _split_label(artifact)
        path = store.fetch(parse_ref(ref))
        if (path / CONFIG).is_file():
            return label, path
        if (path / MANIFEST).is_file():
            package = open_package(path)
            self.files.callback(package.proxy.close)
            if package.proxy.header.spec.model.base.private and self.base_artifact is None:
                self.base_artifact = path / "base"
            file: TensorFile[Header] = package.proxy
        else:
            file = self.files.enter_context(TensorFile(path, Header))
        if not isinstance(file.header, MasterHeader | ProxyHeader):
            raise LineageError(
                f"{path} is {spell_kind(file.header.kind)}; a master, proxy, package or PEFT adapter is needed"
            )
        if self.federation is None:
            self.federation, self.round = file.header.federation or file.sha256, file.header.round
            self.method = file.header.method
        return label, file

    def _of_master(self, label: str, file: TensorFile[MasterHeader], *, is_proxied: bool) -> list[Contender]:
        spec = file.header.spec
        model = spec.model
        full = self._full_base(model)
        round_text = f"round {file.header.round}"
        quantize = self.quantize or spec.quantize or QuantSpec()
        check_groups(components_of(file), quantize)
        seen = self._quantized_base(file) if model.base.private else full
        lora = lora_of_rank(model.lora, model.lora.rank + max(spec.withheld.values(), default=0))

        def first() -> Mapping[str, Tensor]:
            return first_values(full, model.task, model.lora, seed=spec.seed)

        def rounded() -> Mapping[str, Tensor]:
            drawn = method_of(file.header, source=str(file.path)).draws_a and drawn_of(file) is not None
            return {
                name: file.read(name)
                if drawn and factor_of(name) == "A"
                else round_tensor(file.read(name), quantize.of(name), name=name)
                for name in components_of(file)
            }

        def central() -> Mapping[str, Tensor]:
            return of_one_rank(owners_values(file, components_of(file)), lora.rank)

        rows = [Contender("base", "base", None, model.base.model_type, None, full, model.task, model.lora, first)]
        if (quantize.is_rounded or model.base.private) and not is_proxied:
            detail = f"{round_text}, {_spell(quantize)}"
            name = f"{label} proxy".strip()
            rows.append(
                Contender(name, "proxy", file.header.round, detail, file.sha256, seen, model.task, model.lora, rounded)
            )
        name = label if label and len(rows) == 1 else f"{label} central".strip()
        return [
            *rows,
            Contender(name, "central", file.header.round, round_text, file.sha256, full, model.task, lora, central),
        ]

    def _of_proxy(self, label: str, proxy: TensorFile[ProxyHeader]) -> list[Contender]:
        check_proxy(proxy)
        spec = proxy.header.spec
        model = spec.model
        seen = self._quantized_base(None) if model.base.private else self._full_base(model)

        def values() -> Mapping[str, Tensor]:
            return read_adapter(proxy)

        def nothing() -> Mapping[str, Tensor]:
            return {name: torch.zeros(shape) for name, shape in spec.shapes.items()}

        detail = f"round {proxy.header.round}, {_spell(spec.quantize)}"
        row = Contender(
            f"{label} proxy".strip(),
            "proxy",
            proxy.header.round,
            detail,
            proxy.sha256,
            seen,
            model.task,
            model.lora,
            values,
        )
        if model.lora.modules_to_save:  # a head of zeros would be no base model
            return [row]
        return [
            Contender("base", "base", None, model.base.model_type, None, seen, model.task, model.lora, nothing),
            row,
        ]

    def _of_peft(self, label: str, folder: Path, before: Sequence[Contender]) -> list[Contender]:
        if not before or self.base is None:
            raise UsageError(f"{folder}: to score a PEFT adapter, put a master in front of it and give --base")
        adapter = read_peft(folder)
        base = store.fetch_model(parse_ref(self.base))[0]
        return [
            Contender(
                label or folder.name,
                "adapter",
                None,
                "PEFT",
                None,
                base,
                before[0].task,
                adapter.lora,
                lambda: adapter.values,
            )
        ]

    def _full_base(self, model: ModelSpec) -> Path:
        return public_base_folder(model.base, self.base)

    def _quantized_base(self, master: TensorFile[MasterHeader] | None) -> Path:
        """What clients see of a private base; of a master's, made on the fly where it is not there."""
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


def _without_repeats(rows: Sequence[Contender]) -> list[Contender]:
    bases = [row for row in rows if row.name == "base"]
    return [*bases[:1], *(row for row in rows if row.name != "base")]


def _split_label(artifact: RefLike) -> tuple[str, RefLike]:
    match = _LABELLED.fullmatch(artifact) if isinstance(artifact, str) else None
    if match is None or Path(str(artifact)).exists():
        return "", artifact
    return match[1], match[2]


def _spell(quantize: QuantSpec) -> str:
    if not quantize.is_rounded:
        return "full precision"
    drawn = "" if quantize.rounding == "nearest" else f", {quantize.rounding}"
    return f"{spell_widths(quantize.bits, quantize.groups)}, block {quantize.block}{drawn}"
