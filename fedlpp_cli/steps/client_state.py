"""What a client keeps between rounds: read before a training, written with the update that it belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedlpp_cli.adapters.control_tensors import control_name
from fedlpp_cli.adapters.proxy_tensors import check_same_layout
from fedlpp_cli.adapters.residuals import residual_name, state_layout
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of, write_tensors
from fedlpp_cli.errors import LineageError
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.headers import PackageHeader, ProxySpec, StateHeader, StateSpec, UpdateHeader
from fedlpp_cli.steps.inputs import RefLike, open_tensors


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client keeps, float32 by component: `residual`, what rounding took; `control`, SCAFFOLD's own variate.

    `control` is None where no round has made any, which stands for zeros.
    `sha256`: of the file that it was read from; `update`: of the update that it belongs to.
    """

    residual: Mapping[str, Tensor]
    control: Mapping[str, Tensor] | None = None
    sha256: str | None = None
    update: str | None = None


def read_state(ref: RefLike, package: PackageHeader, proxy: ProxySpec, *, client: str) -> ClientState:
    """What this client's last round left.

    Args:
        ref: the state.
        package: of the round that is about to be trained.
        proxy: the package's.
        client: who trains.

    Raises:
        LineageError: no state, or one of another federation, client or layout, or not of an earlier round.
        GateError: a value that is not finite.
    """
    with open_tensors(ref, StateHeader) as state:
        source, has_control = str(state.path), state.header.spec.control_variates
        _check_belongs(state, package, client)
        if has_control and not proxy.control_variates:
            raise LineageError(f"{source}: it has control variates, the package is of before the first of them")
        check_same_layout(layout_of(state.tensors), state_layout(proxy.shapes, has_control), source=source)
        names = [residual_name, *([control_name] if has_control else [])]
        held = [{component: state.read(name(component)) for component in proxy.shapes} for name in names]
        sha256, update = state.sha256, state.header.parent("update")
    for name, values in zip(names, held, strict=True):
        for component, value in values.items():
            check_finite(value, name=f"{source}: {name(component)}")
    return ClientState(held[0], held[1] if has_control else None, sha256, update)


def write_state(path: Path, update: UpdateHeader, update_sha256: str, state: ClientState, *, force: bool) -> None:
    """Write the state that belongs to an update, for its client's eyes.

    Raises:
        OutputExistsError, OutputError: as `write_tensors`.
    """
    header = StateHeader(
        federation=update.federation,
        round=update.round,
        method=update.method,
        parents={"update": (update_sha256,)},
        spec=StateSpec(client=update.spec.client, control_variates=state.control is not None),
    )
    shapes = {component: tuple(value.shape) for component, value in state.residual.items()}
    layout = state_layout(shapes, header.spec.control_variates)
    with write_tensors(path, header, layout, private=True, force=force) as writer:
        for component, value in state.residual.items():
            writer.write(residual_name(component), value)
        for component, value in (state.control or {}).items():
            writer.write(control_name(component), value)


def _check_belongs(state: TensorFile[StateHeader], package: PackageHeader, client: str) -> None:
    source, header = str(state.path), state.header
    if header.federation != package.federation:
        ours, theirs = (header.federation or "")[:12], (package.federation or "")[:12]
        raise LineageError(f"{source}: of federation {ours}…, the package is of {theirs}…")
    if header.spec.client != client:
        raise LineageError(f"{source}: of client {header.spec.client!r}, not of {client!r}")
    if header.method != package.method:
        raise LineageError(f"{source}: of method {header.method!r}, the package is of {package.method!r}")
    if header.round >= package.round:
        raise LineageError(
            f"{source}: of round {header.round}, the package is of round {package.round}",
            hint="the state that an earlier round left",
        )
