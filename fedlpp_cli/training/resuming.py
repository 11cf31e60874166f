"""A training between two steps as tensors and plain values: all that is needed to go on as if it had never stopped.

adapter.<component>            F32
optimizer.<component>.<slot>   as torch keeps it: exp_avg, exp_avg_sq and step of AdamW, momentum_buffer of SGD
generator.cpu, generator.cuda  U8, torch's global generators: dropout draws from them
<part>.<name>                  what `Training.gradient`, `.sampler` and `.gate` hold, if they are `Resumable`
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fedlpp_cli.adapters.checkpoint_tensors import ADAPTER, GENERATOR, OPTIMIZER
from fedlpp_cli.errors import ArtifactError, GateError
from fedlpp_cli.records.checkpoints import Scalar
from fedlpp_cli.records.specs import TrainSpec
from fedlpp_cli.training.held import Held, Resumable
from fedlpp_cli.training.loop import TrainedRun, Training


def held_by(training: Training) -> Held:
    """All of a training, which stands between two steps.

    Raises:
        GateError: an adapter that is not finite: no training goes on from there.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Scalar] = {}
    for component, parameter in training.adapted.parameters.items():
        if not bool(torch.isfinite(parameter).all()):
            raise GateError(f"{component}: not finite after step {training.done.n_steps}; nothing was written")
        tensors[f"{ADAPTER}.{component}"] = parameter
        for slot, value in training.optimizer.state.get(parameter, {}).items():
            if value is not None:  # SGD's momentum of 0
                tensors[f"{OPTIMIZER}.{component}.{slot}"] = value
    tensors |= {f"{GENERATOR}.{name}": state for name, state in _generators(training).items()}
    for name, part in _parts(training):
        held = part.held()
        tensors |= {f"{name}.{key}": tensor for key, tensor in held.tensors.items()}
        values |= {f"{name}.{key}": value for key, value in held.values.items()}
    return Held(tensors, values)


def put_back(training: Training, held: Held, done: TrainedRun, *, source: str) -> None:
    """Make a new training stand where another of the same arguments stood.

    Args:
        training: has not made a step.
        held: what `held_by` gave.
        done: how far that one was.
        source: what to call it in an error.

    Raises:
        ArtifactError: tensors or values that are not those of such a training.
    """
    tensors, values = dict(held.tensors), dict(held.values)
    _put_adapter(training, _take(tensors, ADAPTER), source)
    _put_optimizer(training, _take(tensors, OPTIMIZER), source)
    _put_generators(training, _take(tensors, GENERATOR), source)
    for name, part in _parts(training):
        part.put_back(Held(_take(tensors, name), _take(values, name)))
    for left in (*tensors, *values):
        raise ArtifactError(f"{source}: {left!r} is no part of this training")
    training.done = done


def _take(held: dict[str, Any], part: str) -> dict[str, Any]:
    """What is of that part, by the names that the part gave it; taken out."""
    names = [name for name in held if name.startswith(f"{part}.")]
    return {name.removeprefix(f"{part}."): held.pop(name) for name in names}


def _parts(training: Training) -> Iterator[tuple[str, Resumable]]:
    parts = {"gradient": training.gradient, "sampler": training.sampler, "gate": training.gate}
    yield from ((name, part) for name, part in parts.items() if isinstance(part, Resumable))


def _put_adapter(training: Training, found: Mapping[str, Tensor], source: str) -> None:
    expected = {component: tuple(value.shape) for component, value in training.adapted.parameters.items()}
    _check_layout({name: ("float32", shape) for name, shape in expected.items()}, found, source)
    for component, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise ArtifactError(f"{source}: {component}: not finite")
    training.adapted.load(found)


def _put_optimizer(training: Training, found: Mapping[str, Tensor], source: str) -> None:
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for index, (component, parameter) in enumerate(training.adapted.parameters.items()):
        names = {slot: f"{component}.{slot}" for slot in _slots(training.spec)}
        if not any(name in found for name in names.values()):
            continue  # no gradient has reached it
        for slot, name in names.items():
            expected[name] = ("float32", () if slot == "step" else tuple(parameter.shape))
        state[index] = {slot: found[name] for slot, name in names.items() if name in found}
    _check_layout(expected, found, source)
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": state})


def _slots(spec: TrainSpec) -> tuple[str, ...]:
    """What torch's optimizers keep of each tensor."""
    match spec.optimizer:
        case "adamw":
            return ("step", "exp_avg", "exp_avg_sq")
        case "sgd":
            return ("momentum_buffer",) if spec.momentum else ()


def _generators(training: Training) -> dict[str, Tensor]:
    device = training.adapted.model.device
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _put_generators(training: Training, found: Mapping[str, Tensor], source: str) -> None:
    expected = {name: ("uint8", tuple(state.shape)) for name, state in _generators(training).items()}
    _check_layout(expected, found, source)
    try:
        torch.set_rng_state(found["cpu"])
        if "cuda" in found:
            torch.cuda.set_rng_state(found["cuda"], training.adapted.model.device)
    except RuntimeError as problem:
        raise ArtifactError(f"{source}: no state of a generator ({problem})") from None


def _check_layout(
    expected: Mapping[str, tuple[str, tuple[int, ...]]], found: Mapping[str, Tensor], source: str
) -> None:
    """Refuse tensors that are not exactly these, by name, dtype and shape."""
    layout = {name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in found.items()}
    for name in sorted({*expected, *layout}):
        if layout.get(name) != expected.get(name):
            raise ArtifactError(
                f"{source}: tensor {name!r} is {layout.get(name, 'missing')}, "
                f"this training has {expected.get(name, 'none')}"
            )
