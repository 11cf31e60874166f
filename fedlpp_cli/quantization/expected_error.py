"""What rounding costs before any weight is seen: the relative error on normally distributed weights. Loads no torch.

||Q(x) - x|| / ||x||, by rounding a fixed sample. Trained weights are close to normal within a block, and what they are
exactly is measured by `fedlpp quantize --dry-run`.
"""

from functools import cache
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.quantization.layout import Table, fitted_shares, table_of
from fedlpp_cli.quantization.levels import Levels, fp4_values, level_values, midpoint_values
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec, ScaleRounding

_Kind = Table | Literal["int8", "fp4"]
_SAMPLE: Final = 2**16
# Of bfloat16: its numbers lie 2^-7 apart, relative to the lower end of their octave.
SIXTEEN_BIT_ERROR: Final = 0.0017


def expected_error(spec: QuantSpec, n_values: int) -> float:
    """Of a tensor of that many values; 0 where nothing is rounded. Two digits mean something."""
    if spec.bits == "full":
        return 0.0
    block = min(spec.block, max(1, n_values))
    return _error(table_of(spec), block, spec.scale_rounding, spec.rounding == "stochastic")


def expected_base_error(spec: BaseQuantSpec, n_values: int, n_columns: int) -> float:
    """As `expected_error`, of a private base's weight with rows of `n_columns`."""
    if spec.format == "int8":
        return _error("int8", n_columns, "nearest", False)
    block = min(spec.block, max(1, n_values))
    return _error("fp4" if spec.format == "fp4" else spec.bits or "4", block, "nearest", False)


@cache
def _error(levels: _Kind, block: int, scale_rounding: ScaleRounding, stochastic: bool) -> float:
    random = np.random.default_rng(0)
    rows = random.standard_normal((max(1, _SAMPLE // block), block))
    scales = np.abs(rows).max(axis=1, keepdims=True)
    table = _table(levels)
    if scale_rounding == "up":
        mantissa, exponent = np.frexp(scales)
        scales = np.ldexp(np.ceil(mantissa * 16) / 16, exponent)
    if scale_rounding == "fit":
        tried = [scales * share for share in fitted_shares(cast("Table", levels))]
        errors = [np.square(_nearest(rows, some, table) - rows).sum(axis=1) for some in tried]
        scales = np.stack(tried)[np.argmin(errors, axis=0), np.arange(len(rows))]
    z = rows / scales
    if stochastic:
        low = np.clip(np.searchsorted(table, z, side="right") - 1, 0, len(table) - 2)
        share = (z - table[low]) / (table[low + 1] - table[low])
        rounded = table[low + (random.random(z.shape) < share)] * scales
    else:
        rounded = _nearest(rows, scales, table)
    return float(np.linalg.norm(rounded - rows) / np.linalg.norm(rows))


def _nearest(rows: NDArray[Any], scales: NDArray[Any], table: Levels) -> NDArray[Any]:
    rounded: NDArray[Any] = table[np.searchsorted(midpoint_values(table), rows / scales)] * scales
    return rounded


def _table(levels: _Kind) -> Levels:
    if levels == "int8":
        return (np.arange(-127, 128) / 127).astype(np.float32)
    if levels == "fp4":
        return np.unique(fp4_values())
    return level_values(levels)
