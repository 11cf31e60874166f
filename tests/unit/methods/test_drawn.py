"""FFA-LoRA's A: not in the proxy, the same at every client, and bounded before anything is drawn."""

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge
from support.parties import RECIPE, Federation
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli import client_train, evaluate, export, import_adapter, inspect, pack, quantize
from fedlpp_cli.adapters.proxy_tensors import check_proxy, read_adapter, read_component
from fedlpp_cli.adapters.trained import factor_of
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.specs import AggregateSpec, LoraSpec, QuantSpec, TaskSpec

ROUNDING = QuantSpec(bits="3", block=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama):
    """One round, with proxies of two ranks. Read only."""
    made = Federation(
        tmp_path_factory.mktemp("drawn"), llama, method="ffa-lora", train=RECIPE, quantize=ROUNDING,
        lora=LoraSpec(rank=4, target_modules=("q_proj", "v_proj")), aggregate=AggregateSpec(weighting="product-norm"),
    )  # fmt: skip
    made.play(1)
    quantize(made.master(0), out=made.folder / "rank-2", spec=ROUNDING, rank=2)
    return made


@pytest.mark.parametrize("rank", [4, 2])
def test_a_proxy_without_a_says_what_the_master_says_of_it(run, rank):
    path = run.proxy(0) if rank == 4 else run.folder / "rank-2"
    master = read_all(run.master(0))
    assert not any(".lora_A" in name for name in read_all(path))
    with TensorFile(path, ProxyHeader) as proxy:
        check_proxy(proxy)
        found = read_adapter(proxy)
        assert found.keys() == master.keys()
        for name, value in found.items():
            assert torch.equal(value, read_component(proxy, name))
            if factor_of(name) == "A":
                assert torch.equal(value, master[name][:rank])


def test_half_of_the_adapter_goes_down_and_half_comes_up(run):
    counted = quantize(run.master(0), out=run.folder / "nowhere", spec=ROUNDING, dry_run=True)
    assert {group.group for group in counted.groups} == {"q_proj.lora_B", "v_proj.lora_B"}
    assert inspect(run.proxy(0)).bits_per_parameter == counted.bits_per_parameter
    assert counted.n_bytes == sum(info.n_bytes for info in inspect(run.proxy(0)).tensors)


def test_evaluate_sees_the_proxy_that_clients_have(run, tmp_path):
    test = write_jsonl(tmp_path / "test.jsonl", prompt_rows(6, seed=9))
    quantize(run.master(1), out=tmp_path / "proxy", spec=ROUNDING)
    planned = evaluate([run.master(1)], data=test, base=run.base, device="cpu").rows
    made = evaluate([tmp_path / "proxy", run.master(1)], data=test, base=run.base, device="cpu").rows
    assert [row.scores for row in planned] == [row.scores for row in made]


def test_an_a_that_was_not_drawn_is_sent(run, tmp_path):
    export(run.master(1), out=tmp_path / "peft")
    task = TaskSpec(max_length=32)
    import_adapter(tmp_path / "peft", base=run.base, out=tmp_path / "m", task=task, seed=3, method="ffa-lora")
    quantize(tmp_path / "m", out=tmp_path / "p", spec=ROUNDING)
    assert header_of(tmp_path / "p").spec.drawn is None
    assert any(".lora_A" in name for name in read_all(tmp_path / "p"))
    import_adapter(tmp_path / "peft", base=run.base, out=tmp_path / "n", task=task, seed=7, method="ffa-lora")
    quantize(tmp_path / "n", out=tmp_path / "q", spec=ROUNDING)
    assert header_of(tmp_path / "q").spec.drawn == header_of(run.proxy(0)).spec.drawn


def forged(run, tmp_path, **fields):
    spec = header_of(run.proxy(0)).spec
    shapes = fields.pop("shapes", spec.shapes)
    made = replace(spec, shapes=shapes, drawn=replace(spec.drawn, **fields))
    return reforge(run.proxy(0), tmp_path / "forged", kind=ProxyHeader, spec=made)


def test_another_draw_than_the_owners_stops_the_client(run, tmp_path):
    path = forged(run, tmp_path, seed=8)
    pack(path, out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    with pytest.raises(ArtifactError, match="are not those of the owner"):
        client_train(
            tmp_path / "package", client="a", data=run.data("a"), base=run.base, out=tmp_path / "u", device="cpu"
        )
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 2**39), "values are to be drawn, 1073741824 at most"),
        ((2**39, 4), "is to be drawn with shape"),
        ((4,), "is to be drawn with shape"),
        ((4, 0), "is to be drawn with shape"),
    ],
)
def test_what_nobody_could_draw_is_refused_before_it_is_drawn(run, tmp_path, shape, message):
    known = header_of(run.proxy(0)).spec.shapes
    shapes = {name: shape if factor_of(name) == "A" else own for name, own in known.items()}
    forgery = TensorFile(forged(run, tmp_path, shapes=shapes), ProxyHeader)
    with forgery as proxy, pytest.raises(ArtifactError, match=message):
        check_proxy(proxy)


def test_a_rank_below_the_proxys_own_is_refused(run, tmp_path):
    with (
        TensorFile(forged(run, tmp_path, rank=2), ProxyHeader) as proxy,
        pytest.raises(ArtifactError, match="drawn with rank 2, its own is 4"),
    ):
        check_proxy(proxy)
