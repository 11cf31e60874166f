"""Masks: rows of the factors B that a client does not get (FedQSN, arXiv 2508.18911). Loads no torch.

A row of `<module>.lora_B` `(out_features, rank)` is what the adapter adds to one output feature of a layer: without it
that feature is the base's. A is never masked, and neither is what is trained whole: of a classifier's head every row is
a class.

Of n rows the server's mask hides floor(p1 n), the same from everybody, and a client's floor(p2 n') of the n' that are
left. Which ones is drawn by name: the server's from the seed, which stands in masters and nowhere else, and the module,
so that a mask on a private base hides the same features (`models/base_mask.py`); a client's also from the federation's
name and the client, with `fresh` the round too. Numbers come from SHAKE-256, so that from masks that clients see nobody
finds another one faster than by trying all seeds.

A proxy with masks holds for each factor B a tensor `<module>.lora_B.visible`, a bit for each row, U8
`(ceil(out_features / 8),)`, the first row the highest bit: a client is to know what it does not have, and could tell it
from the zeros. With `scaling` what a proxy says of the m rows that are left counts n / m times: each row is there with
probability m / n, so the mean over all masks is what it is without. Rounded numbers stay those of the whole,
unmasked adapter: the proxies of all clients together tell what one without masks would, and no more.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedlpp_cli.adapters.components import factor_b, factor_modules
from fedlpp_cli.artifact.tensor_file import Layout, TensorFile
from fedlpp_cli.errors import ArtifactError, LineageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader, UpdateHeader
from fedlpp_cli.records.masks import MaskSpec

VISIBLE: Final = "visible"
# A seed below it can be found by trying: a guess is checked with the masks that a client sees.
GUESSABLE_SEED: Final = 2**40
# 0.29 x 100 is 28.999…96 in floats.
_ROOM: Final = 1e-6

Rows = NDArray[np.bool_]


def visible_name(component: str) -> str:
    """Name in the file."""
    return f"{component}.{VISIBLE}"


def masked_components(shapes: Mapping[str, Shape]) -> list[str]:
    """The factors B, sorted. What another party calls so and is no matrix is none."""
    names = map(factor_b, factor_modules(shapes))
    return [name for name in names if len(shapes.get(name, ())) == 2]


def mask_layout(shapes: Mapping[str, Shape], spec: MaskSpec | None) -> Layout:
    """Name to (dtype, shape) of what a proxy holds beside its components; nothing without masks."""
    names = [] if spec is None else masked_components(shapes)
    return {visible_name(name): ("U8", (-(-shapes[name][0] // 8),)) for name in names}


def draw_masks(
    shapes: Mapping[str, Shape], spec: MaskSpec, *, seed: int, federation: str, client: str | None, round_number: int
) -> dict[str, Rows]:
    """Factor B to which of its rows the client gets, bool `(out_features,)`, at least one of them.

    Args:
        shapes: component to shape.
        spec: the shares.
        seed: the master's, the owner's secret.
        federation: its name.
        client: whose masks; None where nothing is hidden from single clients.
        round_number: of the master; masks that are not fresh do not depend on it.
    """
    masks = {}
    own = (client, round_number) if spec.fresh else (client,)
    for name in masked_components(shapes):
        n_rows = shapes[name][0]
        rows = np.ones(n_rows, np.bool_)
        rows[server_rows(name, n_rows, spec.server, seed=seed)] = False
        left = np.flatnonzero(rows)
        hidden = _count(spec.client, len(left))
        if hidden:
            rows[left[_order(len(left), seed, federation, "client", name, *own)[:hidden]]] = False
        masks[name] = rows
    return masks


def server_rows(component: str, n_rows: int, share: float, *, seed: int) -> NDArray[np.intp]:
    """The rows of a factor B that nobody gets. Those of a smaller share are among those of a larger one."""
    return _order(n_rows, seed, "server", component)[: _count(share, n_rows)]


def pack_rows(rows: Rows) -> NDArray[np.uint8]:
    """As they lie in the file."""
    return np.packbits(rows)


def read_rows(proxy: TensorFile[ProxyHeader], component: str) -> Rows | None:
    """Which rows of a factor B the proxy holds, bool `(out_features,)`; None where nothing of a component is masked.

    Raises:
        ArtifactError: no row, or bits behind the last one.
    """
    if visible_name(component) not in proxy.tensors:
        return None
    n_rows = proxy.header.spec.shapes[component][0]
    bits = np.unpackbits(proxy.read(visible_name(component)).numpy()).astype(np.bool_)
    if bits[n_rows:].any() or not bits.any():
        raise ArtifactError(f"{proxy.path}: tensor {visible_name(component)!r} is no mask of {n_rows} rows")
    return bits[:n_rows]


def row_factors(file: TensorFile[ProxyHeader] | TensorFile[UpdateHeader], component: str) -> NDArray[Any] | None:
    """What each row of a component in the file is multiplied with, float64 `(out_features,)`: 0 where it is masked.

    None for a component without a mask, and for updates: what they say is not scaled.

    Raises:
        ArtifactError: as `read_rows`.
    """
    header = file.header
    if not isinstance(header, ProxyHeader) or header.spec.mask is None:
        return None
    rows = read_rows(file.narrow(ProxyHeader), component)
    if rows is None:
        return None
    return rows * (len(rows) / int(rows.sum()) if header.spec.mask.scaling else 1.0)


def check_masks(proxy: TensorFile[ProxyHeader], master: TensorFile[MasterHeader], *, source: str) -> None:
    """Refuse masks that are not those that this federation draws for that client.

    Raises:
        LineageError: naming the first that differs.
        ArtifactError: as `read_rows`.
    """
    spec, federation = proxy.header.spec, master.header.federation or master.sha256
    if spec.mask is None:
        return
    expected = draw_masks(
        spec.shapes,
        spec.mask,
        seed=master.header.spec.seed,
        federation=federation,
        client=spec.client,
        round_number=master.header.round,
    )
    for name, rows in expected.items():
        found = read_rows(proxy, name)
        if found is None or not np.array_equal(found, rows):
            whose = f"client {spec.client!r}" if spec.client else "all clients"
            raise LineageError(
                f"{source}: masks of another federation; that of {name!r} is not the one drawn here for {whose}"
            )


def visible_share(shapes: Mapping[str, Shape], masks: Mapping[str, Rows]) -> float:
    """Share of the numbers in factors B that masks leave."""
    kept = sum(int(rows.sum()) * shapes[name][1] for name, rows in masks.items())
    return kept / sum(math.prod(shapes[name]) for name in masks)


def _count(share: float, n_rows: int) -> int:
    return min(math.floor(share * n_rows + _ROOM), n_rows - 1)


def _order(n_rows: int, *labels: object) -> NDArray[np.intp]:
    """The row numbers in an order of that name; equal names give equal orders with every version of every library."""
    text = "\0".join(["mask of rows", *map(str, labels)])
    numbers = np.frombuffer(hashlib.shake_256(text.encode()).digest(8 * n_rows), "<u8")
    return np.argsort(numbers, kind="stable")
