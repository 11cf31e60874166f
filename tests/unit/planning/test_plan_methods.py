"""Plans under methods that train one factor of a module: what travels, what is measured, what is refused at once."""

import dataclasses

import pytest
import torch
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli import inspect, plan, quantize, simulate
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import UsageError
from fedlpp_cli.planning.candidates import Grid
from fedlpp_cli.planning.planner import Effort
from fedlpp_cli.planning.probe import proxy_values
from fedlpp_cli.records.methods import MethodSpec
from fedlpp_cli.records.specs import LoraSpec, QuantSpec, TaskSpec, TrainSpec

ADAPTER = LoraSpec(rank=2, target_modules=("q_proj", "up_proj"))  # factors of different sizes
GRID = Grid(bits=("4", "2"), blocks=(16,), group_by="factor")
EFFORT = Effort(n_rounds=2, n_finalists=1)
METHODS = ("ffa-lora", "rolora", "fedsvd")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    for number, name in enumerate(("a", "b")):
        write_jsonl(folder / f"{name}.jsonl", prompt_rows(16, seed=number))
    write_jsonl(folder / "calibration.jsonl", prompt_rows(12, seed=0) + prompt_rows(12, seed=1))
    return folder


def told(llama, method, **fields):
    recipe = TrainSpec(steps=4, batch_size=8, learning_rate=2e-2)
    given = {"quantize": QuantSpec(bits="4", block=16), "seed": 5, "train": recipe, **fields}
    return FederationSpec(base=llama, method=method, task=TaskSpec(max_length=32), lora=ADAPTER, **given)


def clients_of(place):
    return {name: place / f"{name}.jsonl" for name in ("a", "b")}


def planned(place, federation, **options):
    given = {"grid": GRID, "effort": EFFORT, "clients": clients_of(place), "device": "cpu", **options}
    return plan(federation, data=place / "calibration.jsonl", **given).plan


@pytest.fixture(scope="module", params=METHODS)
def done(request, place, llama):
    return request.param, planned(place, told(llama, request.param))


def test_bytes_are_those_of_the_artifacts(done, place, llama, tmp_path):
    method, found = done
    row = next(row for row in found.rows if row.quantize.bits == "4" and not row.quantize.groups)
    simulate(told(llama, method), clients_of(place), out=tmp_path / "run", n_rounds=2, device="cpu")
    sizes = []
    for number in range(2):
        update = tmp_path / "run" / f"round-{number:04d}" / "updates" / "a.safetensors"
        sizes.append(sum(one.n_bytes for one in inspect(update).tensors))
    assert row.bytes_up == max(sizes)
    assert (sizes[0] == sizes[1]) == (method != "rolora")
    made = quantize(tmp_path / "run" / "round-0002" / "master.safetensors", out=tmp_path / "p", spec=row.quantize)
    assert row.bytes_down == made.n_bytes
    dry = simulate(
        told(llama, method), clients_of(place), out=tmp_path / "never", n_rounds=2, device="cpu", dry_run=True
    )
    assert (dry.plan.bytes_down, dry.plan.bytes_up) == (row.bytes_down, sizes[0])


def test_what_clients_draw_has_no_width_and_costs_no_bytes(done, place, llama, tmp_path):
    method, found = done
    assert {row.group for row in found.groups} == ({"lora_B"} if method == "ffa-lora" else {"lora_A", "lora_B"})
    assert all("lora_A" not in row.quantize.groups for row in found.rows if method == "ffa-lora")


def test_settings_are_measured_and_the_best_is_played(done):
    _, found = done
    assert found.plain["loss"] < found.base["loss"]
    assert all(row.skipped is None or row.proxy for row in found.rows)
    uniform = {row.quantize.bits: row for row in found.rows if not row.quantize.groups}
    assert uniform["2"].gradient_change > uniform["4"].gradient_change > 0
    assert sum(row.rho is not None for row in found.rows) == 1


def test_an_update_of_as_lora_holds_one_factor_of_each_module(place, llama):
    federation = told(llama, "as-lora", method_options=MethodSpec(warmup_rounds=2))
    row = planned(place, federation, dry_run=True).rows[0]
    dry = simulate(federation, clients_of(place), out=place / "never", n_rounds=2, device="cpu", dry_run=True)
    both = planned(place, told(llama, "fedlpp"), dry_run=True).rows[0]
    assert dry.plan.bytes_up <= row.bytes_up < both.bytes_up
    assert row.bytes_down == both.bytes_down


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("fedavg", {}, "in full precision"),
        ("ffa-lora", {"grid": dataclasses.replace(GRID, ranks=(1,))}, "mean of products already"),
        ("fedsvd", {"update": QuantSpec(bits="4", block=16)}, "cannot be rounded"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_a_method_cannot_have_is_refused_before_any_work(place, llama, method, options, reason, dry_run):
    said = []
    update = {"update": options["update"]} if "update" in options else {}
    grid = {"grid": options["grid"]} if "grid" in options else {}
    with pytest.raises(UsageError, match=f"method {method}: .*{reason}"):
        planned(
            place, told(llama, method, **update), **grid, dry_run=dry_run,
            on_progress=lambda text, done, total: said.append(text),
        )  # fmt: skip
    assert not any("without-rounding" in text for text in said)


def test_what_is_drawn_is_measured_as_clients_have_it():
    values = {"q.lora_A": torch.randn(2, 8), "q.lora_B": torch.randn(8, 2)}
    spec = QuantSpec(bits="2", block=16)
    seen = proxy_values(values, spec, 2, {"q.lora_A"})
    assert torch.equal(seen["q.lora_A"], values["q.lora_A"])
    assert torch.equal(seen["q.lora_B"], proxy_values(values, spec, 2)["q.lora_B"])
    assert torch.equal(proxy_values(values, spec, 1, {"q.lora_A"})["q.lora_A"], values["q.lora_A"][:1])
