"""`quantize`: a master becomes the proxy that clients may see."""

import math
from collections.abc import Mapping
from functools import partial

import torch
from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.control_tensors import with_control
from fedlpp_cli.adapters.drawn import drawn_of, sent_shapes
from fedlpp_cli.adapters.masks import mask_layout, pack_rows, visible_name, visible_share
from fedlpp_cli.adapters.master_tensors import components_of, n_parameters
from fedlpp_cli.adapters.proxy_tensors import check_groups, tensor_name, whole_layout
from fedlpp_cli.adapters.ranks import first_terms, lora_of_rank, shapes_of_rank
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes, write_tensors
from fedlpp_cli.errors import UsageError
from fedlpp_cli.methods.method import Asked, Method
from fedlpp_cli.methods.table import method_of
from fedlpp_cli.models.quantized_base import plan_quantized_base, provide_quantized_base
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.hidden_rows import hide_rows
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.quantization.tensors import quantize_tensor, round_tensor
from fedlpp_cli.records.headers import BaseHeader, MasterHeader, ProxyHeader, ProxySpec
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import BaseQuantSpec, BaseSpec, ModelSpec, QuantSpec
from fedlpp_cli.refs import Ref, parse_ref
from fedlpp_cli.rounding import six_digits
from fedlpp_cli.steps.inputs import RefLike, federation_of, open_tensors
from fedlpp_cli.steps.proxy_masks import check_mask, mask_warnings, masks_of
from fedlpp_cli.steps.sizes import TensorGroup, adapter_groups, base_groups, planned_base_groups


class QuantizeResult(Record, frozen=True, kw_only=True):
    """What `quantize` made; with `dry_run` what it would make, and `sha256` is None.

    `bits_per_parameter` and `n_bytes` count codes, scales and masks; `n_bytes_fp16` is what the adapter takes in fp16.
    `base`: where the quantized private base lies. `groups`: the same by groups of tensors, with the error that rounding
    makes; measured in a dry run. Those of a private base are among them where it, or its quantized copy, is at hand.
    With `control_variates` those of SCAFFOLD count as well: in `n_bytes`, in `groups`, and as numbers of their own in
    `bits_per_parameter`. `visible`: the share of the factors B that `mask` leaves to the client; None without masks.
    `base_quantize`: how the private base is rounded, None for a public one. `warnings`: to read before packing.
    """

    path: str
    sha256: str | None
    federation: str
    round: int
    quantize: QuantSpec
    rank: int
    n_parameters: int
    n_bytes: int
    n_bytes_fp16: int
    bits_per_parameter: float
    base: str | None
    base_quantize: BaseQuantSpec | None
    control_variates: bool
    mask: MaskSpec | None
    client: str | None
    visible: float | None
    warnings: tuple[str, ...]
    groups: tuple[TensorGroup, ...]


def quantize(
    master: RefLike,
    *,
    out: RefLike,
    spec: QuantSpec | None = None,
    rank: int | None = None,
    mask: MaskSpec | None = None,
    client: str | None = None,
    base: RefLike | None = None,
    base_out: RefLike | None = None,
    base_spec: BaseQuantSpec | None = None,
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress = silent,
) -> QuantizeResult:
    """Round the adapter of a master, and once per federation a private base.

    Args:
        master: the master of the open round.
        out: where the proxy goes.
        spec: bits, block and scales of the adapter; None for the method's own.
        rank: the proxy's, for clients who train with less than the master's; None for the master's.
        mask: what clients do not get; None for what the method hides, which most do not.
        client: whose proxy it is, where `mask` hides something from each client.
        base: folder or Hub address of a private base; needed until `base_out` is there.
        base_out: where the quantized private base goes, or lies since an earlier round.
        base_spec: format of the private base.
        force: replace an existing proxy.
        dry_run: compute sizes and write nothing.
        on_progress: told what is going on.

    Raises:
        GateError: a weight that is not finite.
        UsageError: a private base without `base_out`; a rank that is not one to the master's; a group of tensors that
            the adapter has not; a mask without its client, or the other way round, or of what has no factors, or with
            control variates; a mask on a public base; what the federation's method does not go with.
        LineageError: a method that this version does not know.
        ModelError: `base` is not the base of this federation.
    """
    base_spec = base_spec or BaseQuantSpec()
    with open_tensors(master, MasterHeader) as opened:
        method = method_of(opened.header, source=str(opened.path))
        is_private = opened.header.spec.model.base.private
        if is_private and base_out is None:
            raise UsageError("--base-out is missing: the base is private, clients get a quantized copy of it")
        spec, mask = spec or method.quantize, mask or method.mask
        if base_spec.mask and not is_private:
            raise UsageError(f"--base-mask {base_spec.mask:g}: the base is public, clients have all of it")
        rank, mask = _check_rank(opened, rank), check_mask(opened, mask, client)
        method.check(Asked(quantize=spec, mask=mask))
        shapes = shapes_of_rank(components_of(opened), rank)
        check_groups(shapes, spec)
        _check_block(shapes, spec)
        sent = _proxy_spec(opened, method, spec, rank, mask, client)
        told = partial(_result, opened, sent, base_spec if is_private else None)
        base_ref = None if base is None else parse_ref(base)
        if dry_run:
            groups = adapter_groups(_travelling(sent), spec, _errors(opened, sent, on_progress))
            if is_private:
                groups += _groups_of_base(opened, base_ref, parse_ref(str(base_out)), base_spec)
            base_path = base_out if is_private else None
            return told(groups, path=str(out), sha256=None, base=base_path)
        groups, base_sha256 = adapter_groups(_travelling(sent), spec), None
        if is_private:
            base_sha256 = provide_quantized_base(
                opened.header.spec,
                federation_of(opened),
                base_spec,
                source=base_ref,
                out=parse_ref(str(base_out)),
                method=opened.header.method,
                on_progress=on_progress,
            )
            groups += _groups_of_base(opened, None, parse_ref(str(base_out)), base_spec)
        with store.destination(parse_ref(out), message=f"Proxy of round {opened.header.round}", force=force) as place:
            _write_proxy(opened, sent, base_sha256, place, force=force, on_progress=on_progress)
            sha256 = sha256_of_file(place.path)
        base_path = base_out if is_private else None
        return told(groups, path=str(place.written), sha256=sha256, base=base_path)


def defaults_of(master: RefLike) -> dict[str, dict[str, object]]:
    """What sections of the federation file say where they are silent, by the master's method.

    Raises:
        InputError, ArtifactError, LineageError: as `open_tensors` and `method_of`.
    """
    with open_tensors(master, MasterHeader) as opened:
        return method_of(opened.header, source=str(opened.path)).defaults


def _check_rank(master: TensorFile[MasterHeader], rank: int | None) -> int:
    lora = master.header.spec.model.lora
    if rank is not None and not 1 <= rank <= lora.rank:
        raise UsageError(f"--rank {rank}: the master's is {lora.rank}", hint=f"--rank 1 to --rank {lora.rank}")
    if rank not in (None, lora.rank) and not lora.target_modules:
        raise UsageError(f"--rank {rank}: this adapter has no factors, all of it is trained whole")
    if rank not in (None, lora.rank) and master.header.spec.control_variates:
        raise UsageError(f"--rank {rank}: control variates go with the master's rank, {lora.rank}")
    return lora.rank if rank is None else rank


def _check_block(shapes: Mapping[str, Shape], spec: QuantSpec) -> None:
    largest = max(math.prod(shape) for shape in shapes.values())
    if spec.is_rounded and spec.block > largest:
        raise UsageError(
            f"--block {spec.block} is larger than every tensor of the adapter, of {largest} weights at most",
            hint=f"--block {min(64, largest)}",
        )


def _travelling(spec: ProxySpec) -> dict[str, Shape]:
    """Name to shape of all that clients get, rounded."""
    return with_control(sent_shapes(spec), spec.control_variates)


def _to_round(master: TensorFile[MasterHeader], name: str, spec: QuantSpec, rank: int) -> Tensor:
    """What is rounded into a proxy of that rank.

    Below the master's rank a factor is cut out of what the rounded whole says, and rounded again. Were it cut out
    first, blocks would lie elsewhere, and two ranks would be two roundings of the same weights. So every rank's proxy
    is made from one rounding, and all of them together tell no more than that one.
    """
    value = master.read(name)
    cut = first_terms(name, value, rank)
    return value if cut is value else first_terms(name, round_tensor(value, spec, name=name), rank)


def _errors(master: TensorFile[MasterHeader], spec: ProxySpec, on_progress: Progress) -> dict[str, tuple[float, float]]:
    """Name to (||Q(x) - x||^2, ||x||^2)."""
    found, names, rank = {}, _travelling(spec), spec.model.lora.rank
    for number, name in enumerate(names, start=1):
        value = first_terms(name, master.read(name), rank)
        off = round_tensor(_to_round(master, name, spec.quantize, rank), spec.quantize, name=name).double()
        off -= value.double()
        found[name] = (float(off.square().sum()), float(value.double().square().sum()))
        on_progress("measuring errors", number, len(names))
    return found


def _groups_of_base(
    master: TensorFile[MasterHeader], source: Ref | None, out: Ref, spec: BaseQuantSpec
) -> tuple[TensorGroup, ...]:
    """Of the quantized copy where it is there, else of what would be made of the base, else nothing."""
    if store.exists(out):
        return base_groups(open_folder(store.fetch(out), BaseHeader))
    if source is None:
        return ()
    folder, _ = store.fetch_model(source)
    return planned_base_groups(plan_quantized_base(folder, master.header.spec, spec)[0])


def _proxy_spec(
    master: TensorFile[MasterHeader],
    method: Method,
    spec: QuantSpec,
    rank: int,
    mask: MaskSpec | None,
    client: str | None,
) -> ProxySpec:
    return ProxySpec(
        model=_seen_by_clients(master.header.spec.model, rank),
        quantize=spec,
        shapes=shapes_of_rank(components_of(master), rank),
        control_variates=master.header.spec.control_variates,
        factors=method.plan(master.header.spec, master.header.round),
        drawn=drawn_of(master) if method.draws_a else None,
        mask=mask,
        client=client,
    )


def _write_proxy(
    master: TensorFile[MasterHeader],
    spec: ProxySpec,
    base_sha256: str | None,
    place: store.Destination,
    *,
    force: bool,
    on_progress: Progress,
) -> None:
    rank, travelling, masks = spec.model.lora.rank, _travelling(spec), masks_of(master, spec)
    header = ProxyHeader(
        federation=federation_of(master),
        round=master.header.round,
        method=master.header.method,
        parents={"master": (master.sha256,), **({"base": (base_sha256,)} if base_sha256 else {})},
        spec=spec,
    )
    with write_tensors(place.path, header, whole_layout(spec), force=force) as writer:
        for number, (name, shape) in enumerate(travelling.items(), start=1):
            rounding = spec.quantize.of(name)
            parts = quantize_tensor(_to_round(master, name, spec.quantize, rank), rounding, name=name)
            if name in masks:
                parts = hide_rows(parts, torch.from_numpy(masks[name]), shape, rounding)
            for part, tensor in parts.items():
                writer.write(tensor_name(name, part), tensor)
            on_progress("quantizing adapter", number, len(travelling))
        for name, rows in masks.items():
            writer.write(visible_name(name), torch.from_numpy(pack_rows(rows)))


def _seen_by_clients(model: ModelSpec, rank: int) -> ModelSpec:
    """Of a private base, clients learn the architecture and nothing that tells which model it is."""
    model = replace(model, lora=lora_of_rank(model.lora, rank))
    if not model.base.private:
        return model
    base = BaseSpec(model_type=model.base.model_type, private=True, hub=None, files={})
    return ModelSpec(base=base, task=model.task, lora=model.lora)


def _result(
    master: TensorFile[MasterHeader],
    spec: ProxySpec,
    base_spec: BaseQuantSpec | None,
    groups: tuple[TensorGroup, ...],
    *,
    path: str,
    sha256: str | None,
    base: RefLike | None,
) -> QuantizeResult:
    rank, masks = spec.model.lora.rank, masks_of(master, spec)
    n_values = n_parameters(spec.shapes)
    n_bytes = sum(group.n_bytes for group in groups if group.part == "adapter")
    n_bytes += layout_bytes(mask_layout(spec.shapes, spec.mask))
    return QuantizeResult(
        path=path,
        sha256=sha256,
        federation=federation_of(master),
        round=master.header.round,
        quantize=spec.quantize,
        rank=rank,
        n_parameters=n_values,
        n_bytes=n_bytes,
        n_bytes_fp16=2 * n_values,
        bits_per_parameter=round(8 * n_bytes / n_parameters(_travelling(spec)), 4),
        base=None if base is None else str(base),
        base_quantize=base_spec,
        control_variates=spec.control_variates,
        mask=spec.mask,
        client=spec.client,
        visible=six_digits(visible_share(spec.shapes, masks)) if masks else None,
        warnings=mask_warnings(master, spec),
        groups=groups,
    )
