"""What a client keeps between rounds: read before a training, written with the update that it belongs to."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fedlpp_cli.adapters.proxy_tensors import check_same_layout
from fedlpp_cli.adapters.residuals import residual_layout, residual_name
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of, write_tensors
from fedlpp_cli.errors import LineageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.quantization.tensors import check_finite
from fedlpp_cli.records.headers import PackageHeader, StateHeader, StateSpec, UpdateHeader
from fedlpp_cli.steps.inputs import RefLike, open_tensors


def read_residual(
    ref: RefLike, package: PackageHeader, shapes: Mapping[str, Shape], *, client: str
) -> dict[str, Tensor]:
    """The residual of this client's last round, float32 by component.

    Args:
        ref: the state.
        package: of the round that is about to be trained.
        shapes: component to shape, as the package's proxy has them.
        client: who trains.

    Raises:
        LineageError: no state, or one of another federation, client or layout, or not of an earlier round.
        GateError: a value that is not finite.
    """
    with open_tensors(ref, StateHeader) as state:
        source = str(state.path)
        _check_belongs(state, package, client)
        check_same_layout(layout_of(state.tensors), residual_layout(shapes), source=source)
        residual = {component: state.read(residual_name(component)) for component in shapes}
    for component, value in residual.items():
        check_finite(value, name=f"{source}: {residual_name(component)}")
    return residual


def write_state(
    path: Path, update: UpdateHeader, update_sha256: str, residual: Mapping[str, Tensor], *, force: bool
) -> None:
    """Write the state that belongs to an update, for its client's eyes.

    Raises:
        OutputExistsError, OutputError: as `write_tensors`.
    """
    header = StateHeader(
        federation=update.federation,
        round=update.round,
        parents={"update": (update_sha256,)},
        spec=StateSpec(client=update.spec.client),
    )
    layout = residual_layout({component: tuple(value.shape) for component, value in residual.items()})
    with write_tensors(path, header, layout, private=True, force=force) as writer:
        for component, value in residual.items():
            writer.write(residual_name(component), value)


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
