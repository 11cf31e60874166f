"""Updates of any size out of random numbers, and a round around them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from fedlpp_cli.adapters.proxy_tensors import proxy_layout, tensor_name
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.headers import MasterHeader, MasterSpec, UpdateHeader, UpdateSpec
from fedlpp_cli.records.specs import BaseSpec, LoraSpec, ModelSpec, QuantSpec, TaskSpec, TrainMetrics, TrainSpec

METRICS = TrainMetrics(n_examples=1, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
RANK, WIDTH = 16, 4096

# A process of its own, so that its peak is that of the command. The clients' files are written by another one.
CHILD = """
import json, subprocess, sys, time
from pathlib import Path
import updates
folder, n_clients, n_modules = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
code = "import sys, updates; from pathlib import Path; updates.write_round(Path(sys.argv[1]), *map(int, sys.argv[2:]))"
subprocess.run([sys.executable, "-c", code, *sys.argv[1:]], check=True)
import resource
from fedlpp_cli import aggregate
start = time.perf_counter()
aggregate(folder / "master", sorted((folder / "updates").iterdir()), packages=[folder / "package"], out=folder / "next")
seconds = time.perf_counter() - start
# Files are read and not mapped, but libraries are; their pages are not counted.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
peak = (int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])) * 1024
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


def shapes_of(n_modules: int) -> dict[str, tuple[int, ...]]:
    """Component to shape: 131,072 parameters a module."""
    names = [f"layers.{number}.proj" for number in range(n_modules)]
    return {f"{name}.lora_A": (RANK, WIDTH) for name in names} | {f"{name}.lora_B": (WIDTH, RANK) for name in names}


def write_updates(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], n_clients: int, quantize: QuantSpec, **fields: object
) -> list[Path]:
    """One file a client."""
    folder.mkdir(parents=True)
    paths = []
    for k in range(n_clients):
        random = torch.Generator().manual_seed(k)
        spec = UpdateSpec(client=f"c{k}", metrics=METRICS, quantize=quantize)
        header = UpdateHeader(**{"federation": "0" * 64, "round": 0, "parents": {}, "spec": spec, **fields})
        paths.append(folder / f"c{k:04}.safetensors")
        with write_tensors(paths[-1], header, proxy_layout(shapes, quantize)) as writer:
            for name, shape in shapes.items():
                value = torch.randn(shape, generator=random) * 1e-3
                for part, tensor in quantize_tensor(value, quantize, name=name).items():
                    writer.write(tensor_name(name, part), tensor)
    return paths


@contextmanager
def open_updates(paths: list[Path]) -> Iterator[list[TensorFile[UpdateHeader]]]:
    """All of them."""
    with ExitStack() as files:
        yield [files.enter_context(TensorFile(path, UpdateHeader)) for path in paths]


def write_round(folder: Path, n_clients: int, n_modules: int) -> None:
    """Master, proxy, package and updates that belong together."""
    from fedlpp_cli import pack, quantize
    from fedlpp_cli.artifact.digest import sha256_of_file

    folder.mkdir(parents=True)
    shapes = shapes_of(n_modules)
    model = ModelSpec(
        base=BaseSpec(model_type="llama", private=False, hub=None, files={"config.json": "0" * 64}),
        task=TaskSpec(),
        lora=LoraSpec(rank=RANK),
    )
    header = MasterHeader(
        federation=None, round=0, parents={}, spec=MasterSpec(model=model, seed=0, quantize=None, aggregate=None)
    )
    with write_tensors(folder / "master", header, {name: ("F32", shape) for name, shape in shapes.items()}) as writer:
        for name, shape in shapes.items():
            writer.write(name, torch.randn(shape) * 1e-2)
    quantize(folder / "master", out=folder / "proxy", spec=QuantSpec())
    pack(folder / "proxy", out=folder / "package", train=TrainSpec(steps=1), ledger=folder / "ledger")
    parents = {
        "package": (sha256_of_file(folder / "package" / "manifest.json"),),
        "proxy": (sha256_of_file(folder / "proxy"),),
    }
    federation = sha256_of_file(folder / "master")
    write_updates(folder / "updates", shapes, n_clients, QuantSpec(bits="full"), federation=federation, parents=parents)
