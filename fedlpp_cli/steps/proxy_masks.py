"""The masks of one proxy: whether they can be, and which they are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlpp_cli.adapters.masks import GUESSABLE_SEED, Rows, draw_masks, masked_components
from fedlpp_cli.adapters.master_tensors import components_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import UsageError
from fedlpp_cli.quantization.layout import Shape
from fedlpp_cli.records.headers import MasterHeader, ProxySpec
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.steps.inputs import federation_of


def check_mask(master: TensorFile[MasterHeader], mask: MaskSpec | None, client: str | None) -> MaskSpec | None:
    """The mask, None where it hides nothing.

    Raises:
        UsageError: a mask without its client, or the other way round; with control variates; of what has no factors.
    """
    mask = mask if mask is not None and mask.hides else None
    if client is not None and (mask is None or not mask.client):
        raise UsageError(f"--client {client}: --mask-client hides nothing, one proxy is for all", hint="pack --client")
    if mask is None:
        return None
    if mask.client and client is None:
        raise UsageError(
            f"--client is missing: --mask-client {mask.client:g} hides other rows from each client",
            hint="--client NAME for each of them; MASKED=1 for make federate",
        )
    if master.header.spec.control_variates:
        raise UsageError("--mask-server, --mask-client: control variates would tell how hidden rows move")
    if not masked_components(components_of(master)):
        raise UsageError(
            "--mask-server, --mask-client: this adapter has no factors; what is trained whole is not masked"
        )
    return mask


def masks_of(master: TensorFile[MasterHeader], spec: ProxySpec) -> dict[str, Rows]:
    """Factor B to the rows that the client gets; nothing without masks."""
    return {} if spec.mask is None else drawn_masks(master, spec.shapes, spec.mask, spec.client)


def drawn_masks(
    master: TensorFile[MasterHeader], shapes: Mapping[str, Shape], mask: MaskSpec, client: str | None
) -> dict[str, Rows]:
    """Factor B to the rows that the client gets of that master; `shapes`: component to shape."""
    return draw_masks(
        shapes,
        mask,
        seed=master.header.spec.seed,
        federation=federation_of(master),
        client=client,
        round_number=master.header.round,
    )


def masked(values: Mapping[str, Tensor], masks: Mapping[str, Rows], *, scaling: bool) -> dict[str, Tensor]:
    """What is left of a proxy's values under the masks, as its reader has it; others are as they are."""
    found = dict(values)
    for name, rows in masks.items():
        factor = len(rows) / int(rows.sum()) if scaling else 1.0
        found[name] = torch.where(torch.from_numpy(rows).unsqueeze(1), values[name] * factor, 0.0)
    return found


def mask_warnings(master: TensorFile[MasterHeader], spec: ProxySpec) -> tuple[str, ...]:
    """What an owner should know of masks before they go out."""
    seed = master.header.spec.seed
    if spec.mask is None:
        return ()
    drawn = "masks are drawn from the federation's seed"
    if spec.drawn is not None:
        return (f"{drawn}, which {master.header.method} tells clients: they can find out who has which rows",)
    if seed >= GUESSABLE_SEED:
        return ()
    return (f"{drawn}, and {seed} can be guessed: init with one of 2^40 or more",)
