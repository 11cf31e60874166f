"""Rounds out of arrays: masters, packages and updates that belong together, and no model behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedlpp_cli import pack, quantize
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import FULL_PRECISION, BaseSpec, LoraSpec, ModelSpec, TaskSpec, TrainSpec
from support.updates import write_update

Arrays = Mapping[str, np.ndarray]


@dataclass
class Round:
    """The open round of a federation in a folder: its master and the package that goes out, in full precision."""

    folder: Path
    number: int
    master: Path
    federation: str

    @property
    def package(self) -> Path:
        return self.folder / f"package-{self.number}"

    def send(self) -> None:
        """`quantize`, without rounding, and `pack`."""
        proxy = self.folder / f"proxy-{self.number}"
        quantize(self.master, out=proxy, spec=FULL_PRECISION)
        pack(proxy, out=self.package, train=TrainSpec(steps=1), ledger=self.folder / "ledger")
        self.parents = {
            "package": (sha256_of_file(self.package / "manifest.json"),),
            "proxy": (sha256_of_file(proxy),),
        }

    def answer(self, updates: Sequence[Arrays], n_examples: Sequence[int]) -> list[Path]:
        """One file for each update, of clients c0, c1 and so on."""
        return [
            write_update(
                self.folder / f"update-{self.number}-{k}", values, client=f"c{k}", n_examples=n,
                federation=self.federation, round=self.number, parents=self.parents,
            )
            for k, (values, n) in enumerate(zip(updates, n_examples, strict=True))
        ]  # fmt: skip

    def next(self, master: Path) -> "Round":
        """The round that starts with that master."""
        return Round(self.folder, self.number + 1, master, self.federation)


def first_round(folder: Path, theta: Arrays) -> Round:
    """A round whose master holds those float32 components."""
    ranks = {value.shape[0] for name, value in theta.items() if name.endswith(".lora_A")}
    model = ModelSpec(
        base=BaseSpec(model_type="llama", private=False, hub=None, files={"config.json": "0" * 64}),
        task=TaskSpec(),
        lora=LoraSpec(rank=max(ranks, default=1)),
    )
    spec = MasterSpec(model=model, seed=0, quantize=None, aggregate=None)
    master = folder / "master-0"
    header = MasterHeader(federation=None, round=0, parents={}, spec=spec)
    with write_tensors(master, header, {name: ("F32", value.shape) for name, value in theta.items()}) as writer:
        for name, value in theta.items():
            writer.write(name, torch.from_numpy(value))
    return Round(folder, 0, master, sha256_of_file(master))
