"""`quantize`: a master becomes the proxy that clients may see."""

from fedlpp_cli.adapters.proxy_tensors import proxy_layout, tensor_name
from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes, write_tensors
from fedlpp_cli.errors import UsageError
from fedlpp_cli.models.quantized_base import provide_quantized_base
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader, ProxySpec
from fedlpp_cli.records.record import Record
from fedlpp_cli.records.specs import BaseQuantSpec, BaseSpec, ModelSpec, QuantSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike, federation_of, open_tensors


class QuantizeResult(Record, frozen=True, kw_only=True):
    """What `quantize` made; with `dry_run` what it would make, and `sha256` is None.

    `bits_per_parameter` and `n_bytes` count codes and scales. `base`: where the quantized private base lies.
    """

    path: str
    sha256: str | None
    federation: str
    round: int
    quantize: QuantSpec
    n_parameters: int
    n_bytes: int
    bits_per_parameter: float
    base: str | None


def quantize(
    master: RefLike,
    *,
    out: RefLike,
    spec: QuantSpec | None = None,
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
        spec: bits, block and scales of the adapter.
        base: folder or Hub address of a private base; needed until `base_out` is there.
        base_out: where the quantized private base goes, or lies since an earlier round.
        base_spec: format of the private base.
        force: replace an existing proxy.
        dry_run: compute sizes and write nothing.
        on_progress: told what is going on.

    Raises:
        GateError: a weight that is not finite.
        UsageError: a private base without `base_out`.
        ModelError: `base` is not the base of this federation.
    """
    spec = spec or QuantSpec()
    with open_tensors(master, MasterHeader) as opened:
        is_private = opened.header.spec.model.base.private
        if is_private and base_out is None:
            raise UsageError("--base-out is missing: the base is private, clients get a quantized copy of it")
        if dry_run:
            return _result(opened, spec, path=str(out), sha256=None, base=base_out)
        base_sha256 = None
        if is_private and base_out is not None:
            base_sha256 = provide_quantized_base(
                opened.header.spec.model,
                federation_of(opened),
                base_spec or BaseQuantSpec(),
                source=None if base is None else parse_ref(base),
                out=parse_ref(base_out),
                on_progress=on_progress,
            )
        with store.destination(parse_ref(out), message=f"Proxy of round {opened.header.round}", force=force) as place:
            _write_proxy(opened, spec, base_sha256, place, force=force, on_progress=on_progress)
            sha256 = sha256_of_file(place.path)
        return _result(opened, spec, path=str(place.written), sha256=sha256, base=base_out if is_private else None)


def _write_proxy(
    master: TensorFile[MasterHeader],
    spec: QuantSpec,
    base_sha256: str | None,
    place: store.Destination,
    *,
    force: bool,
    on_progress: Progress,
) -> None:
    shapes = {name: info.shape for name, info in master.tensors.items()}
    header = ProxyHeader(
        federation=federation_of(master),
        round=master.header.round,
        parents={"master": (master.sha256,), **({"base": (base_sha256,)} if base_sha256 else {})},
        spec=ProxySpec(model=_seen_by_clients(master.header.spec.model), quantize=spec, shapes=shapes),
    )
    with write_tensors(place.path, header, proxy_layout(shapes, spec), force=force) as writer:
        for number, name in enumerate(master.tensors, start=1):
            for part, tensor in quantize_tensor(master.read(name), spec, name=name).items():
                writer.write(tensor_name(name, part), tensor)
            on_progress("quantizing adapter", number, len(shapes))


def _seen_by_clients(model: ModelSpec) -> ModelSpec:
    """Of a private base, clients learn the architecture and nothing that tells which model it is."""
    if not model.base.private:
        return model
    base = BaseSpec(model_type=model.base.model_type, private=True, hub=None, files={})
    return ModelSpec(base=base, task=model.task, lora=model.lora)


def _result(
    master: TensorFile[MasterHeader], spec: QuantSpec, *, path: str, sha256: str | None, base: RefLike | None
) -> QuantizeResult:
    layout = proxy_layout({name: info.shape for name, info in master.tensors.items()}, spec)
    n_parameters = sum(info.n_elements for info in master.tensors.values())
    n_bytes = layout_bytes(layout)
    return QuantizeResult(
        path=path,
        sha256=sha256,
        federation=federation_of(master),
        round=master.header.round,
        quantize=spec,
        n_parameters=n_parameters,
        n_bytes=n_bytes,
        bits_per_parameter=round(8 * n_bytes / n_parameters, 4),
        base=None if base is None else str(base),
    )
