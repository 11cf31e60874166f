"""What becomes of each tensor of a private base, decided before a byte is read. Loads no torch.

Whatever has two dimensions or more is rounded, unless the owner named it in `keep`, or it is trained whole. What a
format cannot round and nobody named is refused: it would leave in 16 bits without anybody having said so.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from fedlpp_cli.artifact.tensor_file import layout_bytes
from fedlpp_cli.artifact.tensor_header import TensorInfo
from fedlpp_cli.errors import ModelError, SecrecyError
from fedlpp_cli.models.base_mask import FeatureMask, draw_feature_mask
from fedlpp_cli.models.base_tensors import SourceTensor
from fedlpp_cli.quantization.base_layout import Layout, weight_layout
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.specs import EMBEDDINGS, OUTPUT, BaseQuantSpec, WeightRole

Treatment = Literal["round", "turn", "keep", "copy", "drop"]

_FLOATS: Final = {"F32", "BF16", "F16"}
_COPIED: Final = {"I64", "I32", "I8", "U8", "BOOL"}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the source. `treatment`: round it, turn and round it, keep it in 16 bits, copy or drop it.

    `mask`: which of its output features are hidden; None for none.
    """

    name: str
    info: TensorInfo
    treatment: Treatment
    mask: FeatureMask | None = None

    @property
    def shape(self) -> Shape:
        """As it lies in the rounded base: `(out_features, in_features)` where it is turned."""
        return self.info.shape[::-1] if self.treatment == "turn" else self.info.shape

    def layout(self, spec: BaseQuantSpec) -> Layout:
        """Name to (dtype, shape) of what it becomes."""
        match self.treatment:
            case "round" | "turn":
                return weight_layout(self.name, self.shape, spec)
            case "keep":
                return {self.name: ("F16" if self.info.dtype == "F16" else "BF16", self.shape)}
            case "copy":
                return {self.name: (self.info.dtype, self.shape)}
            case "drop":
                return {}


@dataclass(frozen=True, slots=True)
class BasePlan:
    """All tensors, by the source's shard, in order."""

    spec: BaseQuantSpec
    shards: dict[str, tuple[TensorPlan, ...]]

    def tensors(self) -> Iterator[TensorPlan]:
        """Every tensor."""
        for tensors in self.shards.values():
            yield from tensors

    @property
    def written(self) -> dict[str, tuple[TensorPlan, ...]]:
        """The shards of which anything is left."""
        return {shard: found for shard, found in self.shards.items() if any(one.treatment != "drop" for one in found)}

    @property
    def unquantized(self) -> dict[str, str]:
        """Name to dtype of what is not rounded."""
        kinds = (tensor.layout(self.spec) for tensor in self.tensors() if tensor.treatment in {"keep", "copy"})
        return {name: dtype for layout in kinds for name, (dtype, _) in sorted(layout.items())}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name to shape of what is packed; empty where the layout is bitsandbytes'."""
        if self.spec.bits is None:
            return {}
        return {tensor.name: tensor.shape for tensor in self.tensors() if tensor.treatment == "round"}

    @property
    def masked(self) -> dict[str, int]:
        """Name to how many of its weights are hidden, of what is masked."""
        return {tensor.name: tensor.mask.n_weights for tensor in self.tensors() if tensor.mask is not None}

    @property
    def n_parameters(self) -> int:
        """Weights of the source that are sent in one form or another."""
        return sum(tensor.info.n_elements for tensor in self.tensors() if tensor.treatment != "drop")

    @property
    def n_bytes(self) -> int:
        """What they take."""
        return sum(layout_bytes(tensor.layout(self.spec)) for tensor in self.tensors())


def plan_base(
    tensors: Mapping[str, SourceTensor],
    roles: Mapping[str, WeightRole],
    spec: BaseQuantSpec,
    *,
    source: str,
    seed: int = 0,
    modules: Collection[str] = (),
) -> BasePlan:
    """The plan for a base with those tensors.

    Args:
        tensors: as `base_tensors` gives them.
        roles: as `weight_roles` gives them.
        spec: how to round.
        source: what to call the base in an error.
        seed: the master's; masks are drawn from it.
        modules: those that have an adapter, whose masks hide the same features.

    Raises:
        ModelError: a dtype that cannot be rounded, nothing to round, or a mask that hides nothing.
        SecrecyError: a tensor that the format has no form for and `keep` does not name.
    """
    treated = {name: _treatment(name, one.info, roles.get(name), spec, source) for name, one in tensors.items()}
    masks = _masks(tensors, treated, roles, spec, seed=seed, modules=modules)
    plans = [
        (tensor.shard, TensorPlan(name, tensor.info, treated[name], masks.get(name)))
        for name, tensor in tensors.items()
    ]
    rounded = [plan.info.n_elements for _, plan in plans if plan.treatment in {"round", "turn"}]
    if not rounded:
        raise ModelError(f"{source}: nothing in it would be quantized", hint="name less in --base-keep")
    if spec.block > max(rounded) and spec.format != "int8":
        raise ModelError(f"{source}: a block of {spec.block} is larger than every tensor, of {max(rounded)} at most")
    if spec.mask and not masks:
        raise ModelError(
            f"{source}: a mask of {spec.mask:g} hides nothing: no linear layer that is rounded has as many features",
            hint="--base-mask with a larger share, or name less in --base-keep",
        )
    shards = {shard: tuple(plan for _, plan in group) for shard, group in groupby(plans, key=lambda pair: pair[0])}
    return BasePlan(spec, shards)


def _masks(
    tensors: Mapping[str, SourceTensor],
    treated: Mapping[str, Treatment],
    roles: Mapping[str, WeightRole],
    spec: BaseQuantSpec,
    *,
    seed: int,
    modules: Collection[str],
) -> dict[str, FeatureMask]:
    """Of linear layers that are rounded. A matrix that is packed as it lies may have its output features last."""
    masks = {}
    for name, tensor in tensors.items():
        if treated[name] not in {"round", "turn"} or roles.get(name) not in {"linear", "transposed"}:
            continue
        shape = tensor.info.shape[::-1] if treated[name] == "turn" else tensor.info.shape
        axis = 1 if roles[name] == "transposed" and treated[name] == "round" else 0
        mask = draw_feature_mask(name, shape, axis, spec.mask, seed=seed, modules=modules)
        if mask is not None:
            masks[name] = mask
    return masks


def skipped_modules(roles: Mapping[str, WeightRole], saved: Collection[str], spec: BaseQuantSpec) -> list[str]:
    """Linear modules that transformers must leave alone, by name: what is kept, and what is trained whole."""
    kept = {
        name.rpartition(".")[0]
        for name, role in roles.items()
        if role in {"linear", "transposed", "output", "kept"} and _is_kept(name, role, spec)
    }
    return sorted(kept | set(saved))


def _treatment(name: str, info: TensorInfo, role: WeightRole | None, spec: BaseQuantSpec, source: str) -> Treatment:
    if role == "unused":
        return "drop"
    if info.dtype in _COPIED:
        return "copy"
    if info.dtype not in _FLOATS:
        raise ModelError(f"{source}: {name} is {info.dtype}, which cannot be quantized", hint="save it in bfloat16")
    if len(info.shape) < 2 or _is_kept(name, role, spec):
        return "keep"
    if spec.bits is not None or (role in {"linear", "output"} and len(info.shape) == 2):
        return "round"
    if role == "transposed":
        return "turn"
    raise SecrecyError(
        f"{source}: {name} {list(info.shape)} would leave in 16 bits, bitsandbytes' {spec.format} is for linear layers",
        hint="--base-format nf3 (or another packed one), or --base-keep with a part of its name",
    )


def _is_kept(name: str, role: WeightRole | None, spec: BaseQuantSpec) -> bool:
    if (
        role == "kept"
        or (role == "embedding" and EMBEDDINGS in spec.keep)
        or (role == "output" and OUTPUT in spec.keep)
    ):
        return True
    return any(f".{part}." in f".{name}." for part in {*spec.keep} - {EMBEDDINGS, OUTPUT})
