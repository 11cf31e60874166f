"""Write one small artifact of each kind in the current format: `python tests/golden/make.py`.

The folder of a released format is never written again; a new format gets a new folder.
"""

import json
import sys
from pathlib import Path

import torch
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from fedlpp_cli.adapters.proxy_tensors import proxy_layout, read_component, tensor_name
from fedlpp_cli.artifact.folder import write_folder
from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.report_file import write_report
from fedlpp_cli.artifact.tensor_file import TensorFile, write_tensors
from fedlpp_cli.quantization.tensors import quantize_tensor
from fedlpp_cli.records.audits import AttackRow, AuditReport
from fedlpp_cli.records.headers import (
    FORMAT,
    AggregateReport,
    BaseArtifactSpec,
    BaseHeader,
    ClientContribution,
    EvaluateReport,
    EvaluateRow,
    MasterHeader,
    MasterSpec,
    PackageHeader,
    PackageSpec,
    ProxyHeader,
    ProxySpec,
    ReportHeader,
    StateHeader,
    StateSpec,
    TranscriptHeader,
    UpdateHeader,
    UpdateSpec,
)
from fedlpp_cli.records.reports import Interval
from fedlpp_cli.records.specs import (
    AggregateSpec,
    BaseQuantSpec,
    BaseSpec,
    LoraSpec,
    ModelSpec,
    QuantSpec,
    TaskSpec,
    TrainMetrics,
    TrainSpec,
)
from fedlpp_cli.records.transcripts import InputsSpec, TranscriptSpec
from fedlpp_cli.tasks.soft_labels import SoftLabels
from fedlpp_cli.tasks.transcripts import write_transcript

GOLDEN = Path(__file__).parent
PRODUCER = "fedlpp 0.1.0"
FEDERATION, MASTER = "ab" * 32, "cd" * 32
SHAPES = {"encoder.lora_A": (2, 9), "encoder.lora_B": (5, 2), "head.bias": (3,)}
MODEL = ModelSpec(
    base=BaseSpec(model_type="bert", private=False, hub=None, files={"config.json": "01" * 32}),
    task=TaskSpec(kind="seq-cls", max_length=16, labels=("no", "yes", "ü")),
    lora=LoraSpec(rank=2, target_modules=("encoder",), modules_to_save=("head",)),
)
PROXIES = {
    "proxy-3": QuantSpec(bits="3", block=4, scale="fp16"),
    "proxy-ternary": QuantSpec(bits="ternary", block=16, scale="fp32"),
    "proxy-4-double": QuantSpec(bits="4", block=2, scale="double"),
    "proxy-full": QuantSpec(bits="full"),
    "proxy-2-stochastic": QuantSpec(
        bits="2", block=8, rounding="stochastic", rounding_seed="first", scale_rounding="up"
    ),
    "proxy-2-fit": QuantSpec(bits="2", block=8, scale_rounding="fit"),
    "proxy-mixed": QuantSpec(bits="3", block=4, groups={"lora_B": "5"}),
}
METRICS = TrainMetrics(n_examples=12, n_steps=3, n_tokens=345, loss_first=1.25, loss_last=0.75, update_norm=0.0123)


def values() -> dict[str, torch.Tensor]:
    """Numbers that look like weights and come from no generator."""
    result = {}
    for number, (name, shape) in enumerate(SHAPES.items(), start=1):
        count = torch.tensor(shape).prod()
        result[name] = (torch.arange(count) * 0.37 * number).sin().reshape(shape)
    return result


def build(folder: Path) -> None:
    """Write every artifact into `folder`."""
    _write(folder / "master.safetensors", _master(0, None, {}), values())
    after = {"master": (FEDERATION,), "package": ("ef" * 32,), "update": ("12" * 32, "34" * 32)}
    _write(folder / "master-1.safetensors", _master(1, AggregateSpec(update_rule=4, n_rounds=5), after), values())
    for name, spec in PROXIES.items():
        _write_proxy(folder / f"{name}.safetensors", spec)
    update = UpdateHeader(
        federation=FEDERATION, round=2, parents={"package": ("ef" * 32,), "proxy": ("99" * 32,)}, producer=PRODUCER,
        spec=UpdateSpec(client="north-1", metrics=METRICS),
    )  # fmt: skip
    _write(folder / "update.safetensors", update, values())
    rounded = replace(update, spec=replace(update.spec, quantize=QuantSpec(bits="4", block=4)))
    _write_rounded(folder / "update-4.safetensors", rounded, rounded.spec.quantize)
    state = StateHeader(
        federation=FEDERATION, round=2, parents={"update": ("56" * 32,)}, producer=PRODUCER,
        spec=StateSpec(client="north-1"),
    )  # fmt: skip
    _write(folder / "state.safetensors", state, {f"{name}.residual": value for name, value in values().items()})
    _write_package(folder / "package", folder / "proxy-3.safetensors")
    _write_base(folder / "base", BaseQuantSpec(), {})
    _write_base(folder / "base-3", BaseQuantSpec(format="nf3", keep=()), {"encoder.weight": (5, 9)})
    _write_reports(folder)
    _write_transcript(folder / "transcript.safetensors")


def summarize(path: Path) -> dict:
    """What an artifact says: header, and of every tensor or component its numbers."""
    artifact = open_any(path)
    found = {"kind": artifact.header.kind, "sha256": artifact.sha256, "header": json.loads(artifact.raw_header)}
    if isinstance(artifact, TensorFile):
        with artifact:
            found["tensors"] = {name: artifact.read(name).tolist() for name in artifact.tensors}
            if isinstance(artifact.header, ProxyHeader):
                proxy = artifact.narrow(ProxyHeader)
                found["values"] = {name: read_component(proxy, name).tolist() for name in proxy.header.spec.shapes}
    return found


def _master(number, aggregate, parents):
    return MasterHeader(
        federation=FEDERATION if number else None, round=number, parents=parents, producer=PRODUCER,
        spec=MasterSpec(
            model=MODEL, seed=7, quantize=PROXIES["proxy-3"] if number else None, aggregate=aggregate,
            base_weights={"encoder.weight": "linear", "words.weight": "embedding"},
        ),
    )  # fmt: skip


def _write(path, header, tensors):
    layout = {name: ("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    with write_tensors(path, header, layout) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


def _write_proxy(path, spec):
    header = ProxyHeader(
        federation=FEDERATION, round=2, parents={"master": (MASTER,)}, producer=PRODUCER,
        spec=ProxySpec(model=MODEL, quantize=spec, shapes=SHAPES),
    )  # fmt: skip
    _write_rounded(path, header, spec)


def _write_rounded(path, header, spec):
    with write_tensors(path, header, proxy_layout(SHAPES, spec)) as writer:
        for name, tensor in values().items():
            for part, content in quantize_tensor(tensor, spec, name=name).items():
                writer.write(tensor_name(name, part), content)


def _write_package(folder, proxy):
    train = TrainSpec(steps=10, schedule="cosine", warmup=0.1)
    with TensorFile(proxy, ProxyHeader) as file:
        parents = {"proxy": (file.sha256,)}

    def manifest(files):
        return PackageHeader(
            federation=FEDERATION, round=2, parents=parents, producer=PRODUCER,
            spec=PackageSpec(client="north-1", train=train), files=files,
        )  # fmt: skip

    write_folder(folder, {"proxy.safetensors": proxy, "README.md": b"# A package\n"}, manifest)


def _write_base(folder, spec, shapes):
    def manifest(files):
        return BaseHeader(
            federation=FEDERATION, round=0, parents={"master": (FEDERATION,)}, producer=PRODUCER,
            spec=BaseArtifactSpec(
                quantize=spec, model_type="bert", unquantized={"norm.weight": "BF16"}, shapes=shapes
            ),
            files=files,
        )  # fmt: skip

    write_folder(folder, {"config.json": b'{"model_type": "bert"}'}, manifest)


def _write_reports(folder):
    part = ClientContribution(
        client="north-1", update="12" * 32, n_examples=12, weight=1.0, update_norm=0.0123, cosine=1.0, loss_first=1.25,
        loss_last=0.75,
    )  # fmt: skip
    aggregate = AggregateReport(
        aggregate=AggregateSpec(), n_clients=1, n_tensors=3, n_parameters=31, mean_norm=0.0123, step_norm=0.0123,
        clients=(part,),
    )  # fmt: skip
    rows = (EvaluateRow(model="central", artifact=MASTER, detail="round 2", scores={"loss": 0.5, "accuracy": 0.75}),)
    evaluate = EvaluateReport(task=MODEL.task, data="56" * 32, n_examples=20, n_cut=1, generation={}, rows=rows)
    attack = AttackRow(attack="proxy", variant="newest", knows="the newest package", scores={"loss": 0.6}, rho=0.9)
    audit = AuditReport(
        task=MODEL.task, data="56" * 32, n_examples=20, n_rounds=3, headline="accuracy", base={"accuracy": 0.25},
        proxy={"accuracy": 0.7}, central={"accuracy": 0.75}, gain=0.5, gain_interval=Interval(low=0.4, high=0.6),
        bytes_down=1234, rows=(attack,), worst=0, max_rho=None, verdict="NOT PROTECTED", n_compared=20,
    )  # fmt: skip
    for name, spec in (("aggregate", aggregate), ("evaluate", evaluate), ("audit", audit)):
        header = ReportHeader(
            federation=FEDERATION, round=2, parents={"master": (MASTER,)}, producer=PRODUCER, spec=spec
        )
        write_report(folder / f"{name}.json", header)


def _write_transcript(path):
    header = TranscriptHeader(
        federation=None, round=0, parents={"teacher": (MASTER,)}, producer=PRODUCER,
        spec=TranscriptSpec(
            teacher="north-1", task=MODEL.task, vocabulary=None, n_outcomes=3, top_k=2, n_inputs=2,
            inputs=InputsSpec(source="random", seed=7),
        ),
    )  # fmt: skip
    told = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]]).log()
    answers = SoftLabels(told, torch.tensor([[0, 1], [1, 2]]), "log-probs")
    write_transcript(path, header, ["a block", "ünder"], answers, force=False)


if __name__ == "__main__":
    target = GOLDEN / f"v{FORMAT}"
    if target.exists():
        raise SystemExit(f"{target} exists, and what was released is never written again")
    build(target)
    for artifact in sorted(target.iterdir()):
        text = json.dumps(summarize(artifact), indent=1, sort_keys=True)
        (GOLDEN / f"v{FORMAT}.{artifact.name}.expected").write_text(text + "\n")
