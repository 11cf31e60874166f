"""What rounding gives and costs, a group of tensors at a time. Loads no torch."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from fedlpp_cli.adapters.proxy_tensors import proxy_layout
from fedlpp_cli.artifact.folder import FolderArtifact
from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.artifact.tensor_header import ANY_DTYPE, TensorInfo, read_infos
from fedlpp_cli.models.base_plan import BasePlan
from fedlpp_cli.models.foreign_weights import rounded_shapes
from fedlpp_cli.quantization.base_layout import weight_layout
from fedlpp_cli.quantization.expected_error import SIXTEEN_BIT_ERROR, expected_base_error, expected_error
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import BaseHeader
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec
from fedlpp_cli.rounding import six_digits


class TensorGroup(Record, frozen=True, kw_only=True):
    """The tensors of one name in all layers, such as `q_proj.lora_A`.

    `n_bytes` counts codes and scales. `expected_error`: ||Q(x) - x|| / ||x|| for normally distributed weights;
    `measured_error`: of the weights themselves, where they are at hand. `n_hidden`: how many weights of a private base
    masks hide; errors are without them.
    """

    part: Literal["adapter", "base"]
    group: str
    n_tensors: int
    n_parameters: int
    n_bytes: int
    bits_per_parameter: float
    expected_error: float
    measured_error: float | None = None
    n_hidden: int = 0


class _Row(Record, frozen=True, kw_only=True):
    part: Literal["adapter", "base"]
    name: str
    n_parameters: int
    n_bytes: int
    error: float
    n_hidden: int = 0


def adapter_groups(
    shapes: Mapping[str, Shape], spec: QuantSpec, errors: Mapping[str, tuple[float, float]] | None = None
) -> tuple[TensorGroup, ...]:
    """Groups of an adapter's components.

    Args:
        shapes: component to shape.
        spec: how they are rounded.
        errors: component to (||Q(x) - x||^2, ||x||^2), where measured.
    """
    rows = [
        _Row(
            part="adapter",
            name=name,
            n_parameters=math.prod(shape),
            n_bytes=layout_bytes(proxy_layout({name: shape}, spec)),
            error=expected_error(spec.of(name), math.prod(shape)),
        )
        for name, shape in shapes.items()
    ]
    return _grouped(rows, errors or {})


def planned_base_groups(plan: BasePlan) -> tuple[TensorGroup, ...]:
    """Groups of a private base that is going to be rounded."""
    rows = []
    for tensor in plan.tensors():
        if tensor.treatment in {"round", "turn"}:
            n_hidden = 0 if tensor.mask is None else tensor.mask.n_weights
            rows.append(_rounded_row(tensor.name, tensor.shape, plan.spec, n_hidden))
        elif tensor.treatment != "drop":
            rows.append(_kept_row(tensor.name, tensor.shape, *tensor.layout(plan.spec).values()))
    return _grouped(rows, {})


def base_groups(base: FolderArtifact[BaseHeader]) -> tuple[TensorGroup, ...]:
    """Groups of a private base that was rounded.

    Raises:
        ArtifactError: weights that do not say soundly what they are.
    """
    where: dict[str, str] = {}
    infos: dict[str, TensorInfo] = {}
    for entry in base.header.files:
        if entry.name.endswith(".safetensors"):
            found = read_infos(base.path / entry.name, dtypes=ANY_DTYPE)
            infos |= found
            where |= dict.fromkeys(found, entry.name)
    spec = base.header.spec
    shapes = rounded_shapes(base, infos, where) if infos else {}
    rows = [_rounded_row(name, shape, spec.quantize, spec.masked.get(name, 0)) for name, shape in shapes.items()]
    rows += [_kept_row(name, infos[name].shape, (infos[name].dtype, infos[name].shape))
             for name in spec.unquantized if name in infos]  # fmt: skip
    return _grouped(rows, {})


def _rounded_row(name: str, shape: Shape, spec: BaseQuantSpec, n_hidden: int) -> _Row:
    n_values = math.prod(shape)
    return _Row(
        part="base",
        name=name,
        n_parameters=n_values,
        n_bytes=layout_bytes(weight_layout(name, shape, spec)),
        error=expected_base_error(spec, n_values, shape[-1]),
        n_hidden=n_hidden,
    )


def _kept_row(name: str, shape: Shape, kind: tuple[str, Shape]) -> _Row:
    n_values = math.prod(shape)
    error = SIXTEEN_BIT_ERROR if kind[0] == "BF16" else 0.0
    return _Row(part="base", name=name, n_parameters=n_values, n_bytes=n_values * ANY_DTYPE[kind[0]], error=error)


def _grouped(rows: Iterable[_Row], errors: Mapping[str, tuple[float, float]]) -> tuple[TensorGroup, ...]:
    """Rows of one last part of the name as one; errors are roots of mean squares, by parameters."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(".".join(row.name.split(".")[-2:]), []).append(row)
    return tuple(_group(name, members, errors) for name, members in sorted(groups.items()))


def _group(name: str, rows: list[_Row], errors: Mapping[str, tuple[float, float]]) -> TensorGroup:
    n_parameters, n_bytes = sum(row.n_parameters for row in rows), sum(row.n_bytes for row in rows)
    expected = math.sqrt(sum(row.n_parameters * row.error**2 for row in rows) / n_parameters)
    off, size = (sum(errors[row.name][i] for row in rows if row.name in errors) for i in (0, 1))
    measured: Any = six_digits(math.sqrt(off / size)) if size else 0.0 if errors else None
    return TensorGroup(
        part=rows[0].part,
        group=name,
        n_tensors=len(rows),
        n_parameters=n_parameters,
        n_bytes=n_bytes,
        bits_per_parameter=round(8 * n_bytes / n_parameters, 4),
        expected_error=float(f"{expected:.2g}"),
        measured_error=measured,
        n_hidden=sum(row.n_hidden for row in rows),
    )
