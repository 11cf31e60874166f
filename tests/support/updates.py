"""Updates out of arrays, by way of the real writer, and the rules on arrays as they are defined."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fedlpp_cli.adapters.proxy_tensors import proxy_layout, tensor_name
from fedlpp_cli.aggregation.measures import Folding, StackMeasures
from fedlpp_cli.aggregation.norms import update_norm
from fedlpp_cli.aggregation.rules import check_numbers, check_options, clip_factors, make_plan
from fedlpp_cli.aggregation.stack import Stack
from fedlpp_cli.aggregation.weights import client_weights
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.specs import FULL_PRECISION, AggregateSpec, QuantSpec, TrainMetrics

Arrays = Mapping[str, np.ndarray]


def write_update(
    path: Path,
    values: Arrays,
    *,
    client: str,
    n_examples: int = 1,
    quantize: QuantSpec = FULL_PRECISION,
    **fields: object,
) -> Path:
    """An update of those float32 values; `fields` of the header that place it in a round."""
    metrics = TrainMetrics(n_examples=n_examples, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
    spec = UpdateSpec(client=client, metrics=metrics, quantize=quantize)
    header = UpdateHeader(**{"federation": "0" * 64, "round": 0, "parents": {}, "spec": spec, **fields})
    layout = proxy_layout({name: value.shape for name, value in values.items()}, quantize)
    with write_tensors(path, header, layout) as writer:
        for name, value in values.items():
            for part, tensor in quantize_tensor(torch.from_numpy(value), quantize, name=name).items():
                writer.write(tensor_name(name, part), tensor)
    return path


def write_rows(folder: Path, rows: np.ndarray, **options) -> list[TensorFile[UpdateHeader]]:
    """One open update for each row `(n,)`: two components, a matrix and what is left."""
    opened = []
    for number, row in enumerate(np.asarray(rows, np.float32)):
        half = len(row) // 2 - len(row) // 2 % 2
        values = {"a.lora_A": row[:half].reshape(2, -1), "head.bias": row[half:]} if half else {"head.bias": row}
        path = write_update(folder / f"{number}.safetensors", values, client=f"c{number}", **options)
        opened.append(TensorFile(path, UpdateHeader))
    return opened


def run_rule(
    updates: Sequence[TensorFile[UpdateHeader]],
    spec: AggregateSpec,
    *,
    reference: TensorFile[UpdateHeader] | None = None,
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> np.ndarray:
    """What the rule makes of the updates, float64 `(n,)`: all that `Fold` does before the update rule.

    `shapes` of components are needed where updates are rounded.
    """
    shapes = shapes or {name: info.shape for name, info in updates[0].tensors.items()}
    check_options(spec, has_reference=reference is not None)
    check_numbers(spec, len(updates))
    norms = [update_norm(update, shapes, None) for update in updates]
    factors = clip_factors(spec, norms)
    weights = client_weights(
        [update.header.spec.metrics.n_examples for update in updates],
        weighting=spec.weighting, max_examples=spec.max_examples, max_share=spec.max_share,
    )  # fmt: skip
    measures = StackMeasures(Stack(updates, shapes, threads=threads), factors, norms)
    if reference is not None:
        stack = Stack([*updates, reference], shapes, threads=threads)
        measures = StackMeasures(stack, [*factors, 1.0], [*norms, update_norm(reference, shapes, None)])
    clipped = [norm * factor for norm, factor in zip(norms, factors, strict=True)]
    plan = make_plan(spec, weights, clipped, measures)
    folding = Folding(Stack(updates, shapes, threads=threads), factors, plan)
    return np.concatenate([value.reshape(-1) for _, value in folding.results(shapes)])


def defined(rows: np.ndarray, spec: AggregateSpec, weights: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    """The same in plain numpy, all in memory, written from the definitions."""
    x, f = np.asarray(rows, np.float64), spec.n_malicious
    norms = np.linalg.norm(x, axis=1)
    limit = np.median(norms) if spec.clip_to_median else spec.clip_norm
    if limit is not None and (spec.clip_to_median or spec.rule != "centered-clipping"):
        x = x * np.minimum(1, limit / norms)[:, None]
    return DEFINITIONS[spec.rule](x, f, weights, spec.clip_norm, reference)


def _ranked(x: np.ndarray, f: int) -> np.ndarray:
    """The updates, the best by Krum's score first."""
    n = len(x)
    squared = np.linalg.norm(x[:, None] - x[None], axis=2) ** 2
    scores = [np.sort(np.delete(row, k))[: n - f - 2].sum() for k, row in enumerate(squared)]
    return x[np.argsort(scores, kind="stable")]


def _trimmed(x: np.ndarray, f: int) -> np.ndarray:
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def _geometric_median(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    z = np.zeros(x.shape[1])
    floor = 1e-5 * np.median(np.linalg.norm(x, axis=1))
    for _ in range(8):
        b = weights / np.maximum(floor, np.linalg.norm(x - z, axis=1))
        z = b @ x / b.sum()
    return z


def _centered_clipping(x: np.ndarray, weights: np.ndarray, radius: float | None) -> np.ndarray:
    z = np.zeros(x.shape[1])
    for _ in range(5):
        d = np.linalg.norm(x - z, axis=1)
        r = np.median(d) if radius is None else radius
        z = z + (weights * np.minimum(1, r / np.maximum(d, 1e-300))) @ (x - z)
    return z


def _fltrust(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1)
    trust = np.maximum(0, x @ g / norms / np.linalg.norm(g))
    with np.errstate(invalid="ignore"):
        return (trust * np.linalg.norm(g) / norms) @ x / trust.sum()


DEFINITIONS = {
    "mean": lambda x, f, w, r, g: w @ x,
    "median": lambda x, f, w, r, g: np.median(x, axis=0),
    "trimmed-mean": lambda x, f, w, r, g: _trimmed(x, f),
    "krum": lambda x, f, w, r, g: _ranked(x, f)[0],
    "multi-krum": lambda x, f, w, r, g: _ranked(x, f)[: len(x) - f].mean(axis=0),
    "bulyan": lambda x, f, w, r, g: _trimmed(_ranked(x, f)[: len(x) - 2 * f], f),
    "geometric-median": lambda x, f, w, r, g: _geometric_median(x, w),
    "centered-clipping": lambda x, f, w, r, g: _centered_clipping(x, w, r),
    "fltrust": lambda x, f, w, r, g: _fltrust(x, g.astype(np.float64)),
}
