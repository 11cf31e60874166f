"""Simulated rounds of one setting, and what the owner and somebody with all proxies have at their end."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from torch import Tensor

from fedlpp_cli.adapters.owners_adapter import owners_adapter, owners_lora
from fedlpp_cli.adapters.proxy_tensors import read_adapter
from fedlpp_cli.artifact.folder import BASE
from fedlpp_cli.artifact.run_folder import RoundPaths
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_of, write_tensors
from fedlpp_cli.engines.client_data import Cut, known_names
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.simulate import simulate
from fedlpp_cli.leakage.averaging import compress, mean_factors, mean_products
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.progress import Progress, silent
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.specs import LoraSpec
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.steps.quantize import quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the rounds of all settings have in common.

    `folder`: private, of the owner. `master`: where the first round starts; None for `init`'s, which is of round 0.
    """

    folder: Path
    clients: Mapping[str, RefLike] | Cut
    n_rounds: int
    master: Path | None = None
    first_round: int = 0
    columns: Mapping[str, str]
    split: str | None
    device: str
    compute: ComputeSpec
    on_progress: Progress = silent


@dataclass(frozen=True, slots=True)
class Played:
    """What there is after the last round.

    `lora`, `central`: the owner's adapter. `newest`: what the proxy says that would go out now; `mean`: the mean of the
    newer half of all proxies, that one among them; with masks those of the first client.
    """

    lora: LoraSpec
    central: dict[str, Tensor]
    newest: dict[str, Tensor]
    mean: dict[str, Tensor]


def play(stage: Stage, federation: FederationSpec, name: str) -> Played:
    """Play the rounds in a folder of that name, which is gone afterwards.

    Raises:
        FedlppError: as `simulate`.
    """
    run = stage.folder / name
    try:
        if stage.master is not None:
            start = RoundPaths(run, stage.first_round).master
            start.parent.mkdir(parents=True)
            _copy(stage.master, start, federation.method)
        last = stage.first_round + stage.n_rounds
        simulate(
            federation,
            stage.clients,
            out=run,
            n_rounds=last,
            keep_updates=False,
            keep_state=federation.train.control_variates,
            columns=stage.columns,
            split=stage.split,
            device=stage.device,
            compute=stage.compute,
            on_progress=lambda text, done, total: stage.on_progress(f"{name}: {text}", done, total),
        )
        names = known_names(stage.clients) if federation.mask.client else None
        return _read(run, federation, stage.first_round, last, names[0] if names else None)
    finally:
        shutil.rmtree(run, ignore_errors=True)


def _copy(master: Path, start: Path, method: str) -> None:
    """The master where the rounds start; one of another method is made that of the rounds'."""
    with TensorFile(master, MasterHeader) as source:
        if source.header.method == method:
            shutil.copyfile(master, start)
            return
        with write_tensors(start, replace(source.header, method=method), layout_of(source.tensors)) as writer:
            for name in source.tensors:
                writer.write(name, source.read(name))


def _read(run: Path, federation: FederationSpec, first: int, last: int, client: str | None) -> Played:
    """`client`: whose proxies are looked at, where masks give each others."""
    quantize(
        RoundPaths(run, last).master,
        out=RoundPaths(run, last).proxy_for(client),
        spec=federation.quantize,
        rank=federation.proxy_rank,
        mask=federation.mask,
        client=client,
        base=federation.base,
        base_out=run / BASE,
        base_spec=federation.base_quantize,
    )
    with TensorFile(RoundPaths(run, last).master, MasterHeader) as master:
        lora, whole, central = master.header.spec.model.lora, owners_lora(master.header.spec), owners_adapter(master)
    size = max(2, -(-(last - first + 1) // 2))
    proxies = [_proxy(RoundPaths(run, number).proxy_for(client)) for number in range(last - size + 1, last + 1)]
    weights = [1 / size] * size
    # Where factors are new ones each round, their mean means nothing.
    if federation.aggregate.combine in {"svd", "stack"} or method_named(federation.method).finish is not None:
        mean = compress(mean_products(proxies, weights), lora.rank)
    else:
        mean = mean_factors(proxies, weights)
    return Played(whole, central, proxies[-1], mean)


def _proxy(path: Path) -> dict[str, Tensor]:
    with TensorFile(path, ProxyHeader) as proxy:
        return read_adapter(proxy)
