"""Clients of several ranks: proxies cut from one rounding, updates filled up, products averaged and withheld."""

import itertools
import json

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import aggregate, client_train, evaluate, export, init, inspect, pack, quantize, verify
from fedlpp_cli.adapters.components import factor_a, factor_b, factor_modules
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.engines.simulate import simulate
from fedlpp_cli.errors import ArtifactError, GateError, LayoutError, LineageError, SecondReleaseError, UsageError
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import MasterHeader, ProxyHeader
from fedlpp_cli.records.specs import AggregateSpec, LoraSpec, QuantSpec, TaskSpec, TrainSpec

RANKS = {"a": 2, "b": 2, "c": 4}
BRIEF = TrainSpec(steps=2, batch_size=4, learning_rate=2e-2)
COMBINES = ("factors", "svd", "stack", "residual")


class Mixed(Federation):
    """A federation with a proxy and a package for each rank."""

    def proxy_of(self, number, rank):
        return self.round(number) / f"proxy-{rank}.safetensors"

    def package_of(self, number, rank):
        return self.round(number) / f"package-{rank}"

    def packages(self, number):
        return [self.package_of(number, rank) for rank in sorted(set(RANKS.values()))]

    def send(self, number):
        for rank in sorted(set(RANKS.values())):
            quantize(self.master(number), out=self.proxy_of(number, rank), spec=self.quantize, rank=rank)
            pack(
                self.proxy_of(number, rank), out=self.package_of(number, rank), train=self.train,
                update=self.round_updates, ledger=self.folder / "releases.jsonl",
            )  # fmt: skip

    def train_client(self, number, client):
        return client_train(
            self.package_of(number, RANKS[client]), client=client, data=self.data(client),
            out=self.update(number, client), base=self.base, device="cpu",
        )  # fmt: skip

    def fold(self, number, out=None, **spec):
        return aggregate(
            self.master(number), self.updates(number), packages=self.packages(number),
            out=out or self.master(number + 1), spec=AggregateSpec(**spec) if spec else self.aggregate, force=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def classified(tmp_path_factory, bert):
    """A classifier, so with a head, in a rank-stabilized adapter, updates rounded; after `stack`. Read only."""
    run = Mixed(
        tmp_path_factory.mktemp("classified"), bert, clients=tuple(RANKS), train=BRIEF,
        task=TaskSpec(kind="seq-cls", max_length=16, labels=LABELS),
        lora=LoraSpec(rank=4, use_rslora=True, target_modules=("query", "intermediate.dense")),
        round_updates=QuantSpec(bits="8", block=32), aggregate=AggregateSpec(combine="stack", server_learning_rate=0.7),
    )  # fmt: skip
    for number, client in enumerate(RANKS):
        write_jsonl(run.data(client), label_rows(12, seed=number))
    run.play(1)
    run.send(1)
    for client in RANKS:
        run.train_client(1, client)
    return run


def dense(master):
    """Module to s (B A + withheld_B withheld_A), float64."""
    header, values = header_of(master), read_all(master)
    found = {}
    for module in factor_modules(values):
        product = values[factor_b(module)].double() @ values[factor_a(module)].double()
        if f"{module}.withheld_B" in values:
            product += values[f"{module}.withheld_B"].double() @ values[f"{module}.withheld_A"].double()
        found[module] = (header.spec.model.lora.scaling * product).numpy()
    return found


def proxy_values(path):
    with TensorFile(path, ProxyHeader) as file:
        return {name: read_component(file, name).double() for name in file.header.spec.shapes}


def update_values(run, number, client):
    """What an update says, by hand."""
    header, tensors = header_of(run.update(number, client)), read_all(run.update(number, client))
    shapes = header_of(run.proxy_of(number, RANKS[client])).spec.shapes
    if header.spec.quantize.bits == "full":
        return {name: tensor.double() for name, tensor in tensors.items()}
    from fedlpp_cli.quantization.tensors import dequantize_tensor

    return {
        name: dequantize_tensor(
            {part: tensors[f"{name}.{part}"] for part in ("codes", "scales")}, shape, header.spec.quantize
        ).double()
        for name, shape in shapes.items()
    }


def expected_products(run, number, weights, rate):
    """The exact products after the round."""
    lora = header_of(run.master(number)).spec.model.lora
    after = dense(run.master(number))
    for client, weight in weights.items():
        start, change = proxy_values(run.proxy_of(number, RANKS[client])), update_values(run, number, client)
        for module in after:
            a, b = factor_a(module), factor_b(module)
            moved = (start[b] + change[b]) @ (start[a] + change[a]) - start[b] @ start[a]
            after[module] += rate * weight * lora.scaling * moved.numpy()
    return after


EQUAL = dict.fromkeys(RANKS, 1 / 3)


def assert_close(found, expected):
    for module, value in expected.items():
        np.testing.assert_allclose(found[module], value, rtol=0, atol=1e-5 * np.linalg.norm(value))


def test_a_proxy_of_a_lower_rank_is_the_first_terms_of_one_rounding(classified):
    """What both show of a weight comes from one rounding of it; heads are the same to the byte."""
    master, spec = read_all(classified.master(1)), classified.quantize
    whole, low = (header_of(classified.proxy_of(1, rank)).spec for rank in (4, 2))
    assert (whole.model, low.quantize) == (header_of(classified.master(1)).spec.model, whole.quantize)
    assert (low.model.lora.rank, low.model.lora.scaling) == (2, pytest.approx(whole.model.lora.scaling, rel=1e-15))
    found = proxy_values(classified.proxy_of(1, 2))
    for name, value in proxy_values(classified.proxy_of(1, 4)).items():
        cut = tuple(slice(size) for size in low.shapes[name])
        assert torch.equal(value.float(), round_tensor(master[name], spec, name=name))
        if name.startswith("classifier"):
            assert torch.equal(found[name], value)
        else:
            again = round_tensor(value.float()[cut].contiguous(), spec, name=name)
            assert torch.equal(found[name].float(), again)


def test_the_masters_rank_gives_the_proxy_without_the_option(classified, tmp_path):
    quantize(classified.master(1), out=tmp_path / "p", spec=classified.quantize)
    assert sha256_of(tmp_path / "p") == sha256_of(classified.proxy_of(1, 4))
    planned = quantize(classified.master(1), out=tmp_path / "q", rank=2, dry_run=True)
    made = quantize(classified.master(1), out=tmp_path / "r", rank=2)
    assert (planned.rank, planned.n_bytes, planned.n_parameters) == (2, made.n_bytes, made.n_parameters)
    assert all(group.measured_error < 1 for group in planned.groups)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("number", [0, 1])
def test_products_come_out_as_the_definition_says(classified, tmp_path, combine, number):
    """Round 1 starts with something withheld; updates are rounded, layers are no squares, the scaling is rsLoRA's."""
    result = classified.fold(number, tmp_path / "next", combine=combine, server_learning_rate=0.7)
    exact = expected_products(classified, number, EQUAL, 0.7)
    found, header = dense(tmp_path / "next"), header_of(tmp_path / "next")
    assert [one.rank for one in sorted(result.clients, key=lambda one: one.client)] == [2, 2, 4]
    if combine in {"stack", "residual"}:
        assert_close(found, exact)
        assert header.spec.withheld
        assert result.withheld_norm > 0
    elif combine == "svd":
        for module, value in exact.items():
            left, values, right = np.linalg.svd(value, full_matrices=False)
            best = (left[:, :4] * values[:4]) @ right[:4]
            np.testing.assert_allclose(found[module], best, rtol=0, atol=1e-5 * values[0])
        assert (header.spec.withheld, result.withheld_norm) == ({}, None)
    else:
        assert header.spec.withheld == header_of(classified.master(number)).spec.withheld
        kept = {name: value for name, value in read_all(classified.master(number)).items() if "withheld" in name}
        assert all(torch.equal(read_all(tmp_path / "next")[name], value) for name, value in kept.items())
        assert (result.withheld_norm is None) == (not kept)
    means = filled_means(classified, number, EQUAL, 0.7)
    made = read_all(tmp_path / "next")
    for name, value in means.items():
        if combine in {"factors", "residual"} or name.startswith("classifier"):
            np.testing.assert_allclose(made[name], value, rtol=1e-6, atol=1e-7)


def filled_means(run, number, weights, rate):
    after = {name: value.double() for name, value in read_all(run.master(number)).items() if "withheld" not in name}
    for client, weight in weights.items():
        for name, change in update_values(run, number, client).items():
            after[name][tuple(slice(size) for size in change.shape)] += rate * weight * change
    return after


@pytest.mark.parametrize("combine", COMBINES)
def test_neither_threads_nor_order_nor_names_change_a_byte(classified, tmp_path, combine):
    digests, spec = set(), AggregateSpec(combine=combine, weighting="product-norm")
    before = torch.get_num_threads()
    try:
        for number, updates in enumerate(itertools.islice(itertools.permutations(classified.updates(1)), 3)):
            torch.set_num_threads(1 + number)
            packages = classified.packages(1)[:: 1 - 2 * (number % 2)]
            out = tmp_path / f"{number}"
            aggregate(classified.master(1), updates, packages=packages, out=out, spec=spec)
            assert torch.get_num_threads() == 1 + number
            digests.add((sha256_of(out), (tmp_path / f"{number}.report.json").read_bytes()))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


@pytest.mark.parametrize("combine", COMBINES)
def test_a_round_computed_again_is_the_same(classified, tmp_path, combine):
    classified.fold(1, tmp_path / "next.safetensors", combine=combine)
    inputs = [classified.master(1), *classified.packages(1), *classified.updates(1)]
    first, again = verify([tmp_path / "next.safetensors", *inputs], rerun=True).reruns
    assert (first.outcome, again.outcome) == ("inputs-missing", "equal")


def test_weights_by_product_norms_are_those_of_the_trained_adapters(classified, tmp_path):
    def sizes(limit):
        found = {}
        for client, rank in RANKS.items():
            start, change = proxy_values(classified.proxy_of(1, rank)), update_values(classified, 1, client)
            norm = torch.cat([value.reshape(-1) for value in change.values()]).norm()
            factor = min(1.0, limit / norm)
            trained = {name: value + factor * change[name] for name, value in start.items()}
            squares = [(trained[factor_b(m)] @ trained[factor_a(m)]).square().sum() for m in factor_modules(trained)]
            found[client] = float(torch.stack(squares).sum().sqrt())
        return found

    for options, limit in (({}, np.inf), ({"clip_norm": 0.05}, 0.05)):
        result = classified.fold(1, tmp_path / "next", weighting="product-norm", **options)
        expected = sizes(limit)
        for one in result.clients:
            assert one.weight == pytest.approx(expected[one.client] / sum(expected.values()), rel=1e-5)
    shared = classified.fold(1, tmp_path / "next", weighting="product-norm", max_share=0.34)
    assert max(one.weight for one in shared.clients) <= 0.34


# A number that training does not come upon, in what is withheld.
SECRET = 0.12345678806304932
PATTERN = np.float32(SECRET).tobytes() * 2


@pytest.mark.parametrize("bits", ["3", "8", "full"])
def test_nothing_withheld_reaches_a_proxy_a_package_an_update_or_a_report(classified, tmp_path, bits):
    run = Mixed(
        tmp_path / "run", classified.base, clients=("a", "c"), train=BRIEF, task=classified.task,
        quantize=QuantSpec(bits=bits), aggregate=AggregateSpec(combine="residual"),
    )  # fmt: skip
    for client in run.clients:
        write_jsonl(run.data(client), label_rows(8, seed=1))
    run.round(1).mkdir(parents=True)

    def plant(tensors):
        return {n: torch.full_like(t, SECRET) if "withheld" in n else t for n, t in tensors.items()}

    reforge(classified.master(1), run.master(1), kind=MasterHeader, change=plant)
    assert PATTERN in run.master(1).read_bytes()
    run.send(1)
    for client in run.clients:
        run.train_client(1, client)
    run.fold(1)
    sent = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "master.safetensors"]
    assert len(sent) > 8
    for path in sent:
        content = path.read_bytes()
        assert PATTERN not in content, path
        assert b".withheld_" not in content, path
    if bits == "3":  # what is withheld decides nothing of what clients see
        for rank in (2, 4):
            mine, theirs = read_all(run.proxy_of(1, rank)), read_all(classified.proxy_of(1, rank))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_an_export_says_what_the_owners_model_says(classified, tmp_path):
    """Plain PEFT, the merged model and `evaluate` agree: W + s (B A + withheld)."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    master, base = classified.master(1), classified.base
    assert len(set(header_of(master).spec.withheld.values())) >= 1
    export(master, out=tmp_path / "peft", base=base)
    export(master, out=tmp_path / "merged", format="merged", base=base)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert len(config["rank_pattern"]) == len(header_of(master).spec.withheld)
    batch = {"input_ids": torch.tensor([[1, 5, 9, 7, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.int64)}
    plain = open_model(base, classified.task).model
    adapted = PeftModel.from_pretrained(open_model(base, classified.task).model, str(tmp_path / "peft")).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    for module, change in dense(master).items():  # by hand
        plain.get_submodule(module).weight.data += torch.from_numpy(change).float()
    for name, value in read_all(master).items():
        if name.startswith("classifier."):
            plain.get_parameter(name).data = value
    with torch.no_grad():
        wanted, *found = [model.eval()(**batch).logits for model in (plain, adapted, merged)]
    for logits in found:
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    rows = write_jsonl(tmp_path / "rows.jsonl", label_rows(20, seed=5))
    scores = {
        path: evaluate([path], base=base, data=rows, device="cpu").rows[-1].scores["loss"]
        for path in (master, with_more_withheld(master, tmp_path / "more.safetensors"))
    }
    losses = []
    for row in label_rows(20, seed=5):
        from transformers import AutoTokenizer

        encoded = AutoTokenizer.from_pretrained(base)(row["text"], return_tensors="pt")
        with torch.no_grad():
            logits = plain(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([LABELS.index(row["label"])])).item())
    assert scores[master] == pytest.approx(np.mean(losses), abs=2e-5)
    assert scores[master] != scores[tmp_path / "more.safetensors"]


def with_more_withheld(master, path):
    def change(tensors):
        return {name: 1e4 * value if name.endswith("withheld_B") else value for name, value in tensors.items()}

    return reforge(master, path, kind=MasterHeader, change=change)


def test_an_export_of_transposed_layers_has_what_is_withheld_of_some(gpt2, tmp_path):
    """GPT-2 keeps weights `(in, out)`; layers without anything withheld have the adapter's own rank."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first = tmp_path / "first.safetensors"
    init(gpt2, out=first, task=TaskSpec(max_length=32), lora=LoraSpec(rank=2, target_modules=("c_attn", "c_fc")))
    spec, numbers = header_of(first).spec, torch.Generator().manual_seed(0)
    ranks = {"transformer.h.0.attn.c_attn": 3, "transformer.h.1.mlp.c_fc": 1}

    def draw(*shape):
        return torch.randn(*shape, generator=numbers) / 4

    def plant(tensors):
        found = {name: draw(*tensor.shape) for name, tensor in tensors.items()}
        for module, rank in ranks.items():
            found[f"{module}.withheld_A"] = draw(rank, tensors[factor_a(module)].shape[1])
            found[f"{module}.withheld_B"] = draw(tensors[factor_b(module)].shape[0], rank)
        return found

    master = reforge(first, tmp_path / "m", kind=MasterHeader, change=plant, spec=replace(spec, withheld=ranks))
    export(master, out=tmp_path / "peft", base=gpt2)
    export(master, out=tmp_path / "merged", format="merged", base=gpt2)
    batch = {"input_ids": torch.tensor([[5, 9, 7, 11]])}
    plain = open_model(gpt2, spec.model.task).model
    adapted = PeftModel.from_pretrained(open_model(gpt2, spec.model.task).model, str(tmp_path / "peft"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for module, change in dense(master).items():
        plain.get_submodule(module).weight.data += torch.from_numpy(change).float().T
    with torch.no_grad():
        wanted, *found = [model.eval()(**batch).logits for model in (plain, adapted, merged)]
    for logits in found:
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)


def test_what_is_withheld_is_no_component_and_must_be_announced(classified, tmp_path):
    master = classified.master(1)
    spec, values = header_of(master).spec, read_all(master)
    n_values = sum(value.numel() for name, value in values.items() if "withheld" not in name)
    assert inspect(master).n_parameters == n_values
    module = min(spec.withheld)
    for lie in ({}, {**spec.withheld, module: 9}, {**spec.withheld, "classifier": 1}):
        odd = reforge(master, tmp_path / "odd.safetensors", kind=MasterHeader, spec=replace(spec, withheld=lie))
        for call in (lambda odd=odd: quantize(odd, out=tmp_path / "p"), lambda odd=odd: verify([odd])):
            with pytest.raises(ArtifactError, match=r"the header (announces|withholds)"):
                call()
        odd.unlink()
    assert list(tmp_path.iterdir()) == []


def test_an_update_is_held_against_its_own_package(classified, tmp_path):
    update = classified.update(1, "c")  # of rank 4, forged to be of the package of rank 2
    parents = {**header_of(update).parents, "package": header_of(classified.update(1, "a")).parents["package"]}
    forged = reforge(update, tmp_path / "c.safetensors", parents=parents)
    given = {"packages": classified.packages(1), "out": tmp_path / "next"}
    with pytest.raises(LayoutError, match=r"lora_A.codes' is U8 \[64\], U8 \[32\] is needed"):
        aggregate(classified.master(1), [forged], **given)
    quantize(classified.master(1), out=tmp_path / "p", rank=3, spec=QuantSpec(bits="4"))
    pack(tmp_path / "p", out=tmp_path / "package", train=BRIEF, ledger=tmp_path / "ledger")
    packages = [*classified.packages(1), tmp_path / "package"]
    with pytest.raises(LineageError, match="hold different proxies of one master"):
        aggregate(classified.master(1), classified.updates(1), packages=packages, out=tmp_path / "next")
    with pytest.raises(SecondReleaseError):
        pack(tmp_path / "p", out=tmp_path / "again", train=BRIEF, ledger=classified.folder / "releases.jsonl")
    with pytest.raises(UsageError, match="--update-rule 2: it drops what the proxy has not"):
        classified.fold(1, tmp_path / "next", update_rule=2)
    assert not (tmp_path / "next").exists()


def test_weights_of_nothing_are_refused(classified, tmp_path):
    """Before the first step B is zero; a client who only moved its head has no product."""

    def flat(tensors):
        return {n: torch.zeros_like(t) if "lora" in n and "scales" in n else t for n, t in tensors.items()}

    only_head = reforge(classified.update(0, "a"), tmp_path / "a.safetensors", change=flat)
    with pytest.raises(GateError, match="B A is zero in every adapter"):
        aggregate(
            classified.master(0), [only_head], packages=classified.packages(0), out=tmp_path / "next",
            spec=AggregateSpec(weighting="product-norm"),
        )  # fmt: skip


@pytest.mark.parametrize("combine", ["svd", "stack"])
def test_states_of_old_factors_are_refused(tmp_path, combine):
    """What rounding took from an update is about factors that are no longer there."""
    federation = FederationSpec(aggregate=AggregateSpec(combine=combine))
    with pytest.raises(UsageError, match=f"--keep-state: combine '{combine}' makes new factors each round"):
        simulate(federation, {}, out=tmp_path / "run", keep_state=True)
    assert not (tmp_path / "run").exists()


def test_a_whole_federation_on_the_command_line(runner, llama, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    data = {client: write_jsonl(tmp_path / f"{client}.jsonl", prompt_rows(8, seed=n)) for n, client in enumerate(RANKS)}

    def fedlpp(*arguments, code=0):
        result = runner.invoke(app, [str(one) for one in arguments])
        assert result.exit_code == code, (arguments, result.output)
        return result

    ledger, master = ("--ledger", tmp_path / "ledger"), tmp_path / "0.safetensors"
    fedlpp("init", "--base", llama, "--max-length", 32, "--rank", 4, "--target-modules", "q_proj", "--target-modules",
           "down_proj", "--out", master)  # fmt: skip
    for number, combine in enumerate(("residual", "stack")):
        packages = []
        for rank in (2, 4):
            proxy, package = tmp_path / f"proxy-{number}-{rank}", tmp_path / f"package-{number}-{rank}"
            shown = fedlpp("quantize", master, "--rank", rank, "--out", proxy).stdout
            assert f"rank    {rank} " in shown
            fedlpp("pack", proxy, "--steps", 2, "--batch-size", 4, *ledger, "--out", package)
            packages += ["--package", package]
        updates = []
        for client, rank in RANKS.items():
            updates.append(tmp_path / f"update-{number}-{client}")
            fedlpp("client-train", tmp_path / f"package-{number}-{rank}", "--base", llama, "--client", client, "--data",
                   data[client], "--device", "cpu", "--out", updates[-1])  # fmt: skip
        call = ["aggregate", master, *updates, *packages]
        master = tmp_path / f"{number + 1}.safetensors"
        shown = fedlpp(*call, "--combine", combine, "--weighting", "product-norm", "--out", master).stdout
        assert "withheld; norm of what is withheld " in shown
    everything = [path for path in tmp_path.iterdir() if path.suffix != ".jsonl" and path.name != "ledger"]
    found = json.loads(fedlpp("verify", "--complete", "--rerun", "--json", *everything).stdout)["data"]
    assert [one["outcome"] for one in found["reruns"]] == ["equal", "equal"]
    assert "in 4 modules, of rank" in fedlpp("inspect", master).stdout
    rows = json.loads(fedlpp("evaluate", master, tmp_path / "package-1-2", "--base", llama, "--data", data["a"],
                             "--device", "cpu", "--json").stdout)["data"]["rows"]  # fmt: skip
    assert [row["model"] for row in rows] == ["base", "proxy", "central", "proxy"]  # the package is of the round before

    out = ["--out", tmp_path / "refused"]
    for arguments, code, message in (
        (["quantize", master, "--rank", 0], 2, "--rank 0: the master's is 4"),
        (["quantize", master, "--rank", 5], 2, "--rank 5: the master's is 4"),
        ([*call, "--combine", "svd", "--rule", "median"], 3, "combine: svd goes with rule mean, server optimizer sgd"),
        ([*call, "--combine", "svd", "--update-rule", 3], 3, "and update rule 1"),
        ([*call, "--rule", "median", "--weighting", "product-norm"], 2, "--rule median has no weights"),
        ([*call[:-2], "--combine", "stack"], 5, "trained on a package other than those of this round"),
    ):
        refused = fedlpp(*arguments, *out, code=code)
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "refused").exists()
