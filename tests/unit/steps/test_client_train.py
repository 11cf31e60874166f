"""What a client sends back, what it never sends, and what it refuses to train on."""

import getpass
import platform
import shutil
from pathlib import Path

import pytest
import torch
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from support.tiny import write_jsonl

from fedlpp_cli import client_train, pack
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.folder import write_folder
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import (
    ArtifactError,
    DataError,
    DigestError,
    GateError,
    LineageError,
    ModelError,
    OutputExistsError,
    UsageError,
)
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.headers import MasterHeader, PackageHeader, ProxyHeader
from fedlpp_cli.records.specs import TrainSpec


def train(federation, out, **options):
    arguments = {"client": "a", "data": federation.data("a"), "base": federation.base, "device": "cpu", **options}
    return client_train(arguments.pop("package", federation.package(0)), out=out, **arguments)


def test_an_update_is_the_trained_adapter_minus_the_proxy(played):
    update = read_all(played.update(0, "a"))
    with TensorFile(played.proxy(0), ProxyHeader) as proxy:
        start = {name: read_component(proxy, name) for name in update}
    assert any(value.abs().max() > 0 for value in update.values())
    lora = header_of(played.master(0)).spec.model.lora
    model = AdaptedModel(open_model(played.base, played.task).model, lora)
    model.load({name: start[name] + update[name] for name in update})
    # B starts at zero and has moved: the model is another one now.
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    with torch.no_grad():
        trained = model.logits(batch)
        model.load(start)
        assert not torch.equal(trained, model.logits(batch))


def test_the_same_client_data_and_round_give_the_same_bytes(played, tmp_path):
    train(played, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == played.update(0, "a").read_bytes()


def test_another_clients_name_gives_another_order_of_examples(played, tmp_path):
    train(played, tmp_path / "z.safetensors", client="z")
    assert sha256_of(tmp_path / "z.safetensors") != sha256_of(played.update(0, "a"))
    assert not torch.equal(
        next(iter(read_all(tmp_path / "z.safetensors").values())), next(iter(read_all(played.update(0, "a")).values()))
    )


def test_an_update_tells_nothing_of_the_machine_the_user_or_the_rows(played, tmp_path):
    secret = "op mn kl op mn kl"
    data = write_jsonl(tmp_path / "clinic-ledger.jsonl", [{"prompt": "ab ", "completion": secret}] * 5)
    train(played, tmp_path / "out.safetensors", data=data)
    content = (tmp_path / "out.safetensors").read_bytes()
    for word in (
        str(tmp_path), "clinic-ledger", secret, platform.node(), str(Path.home()), str(played.folder),
        f"/{getpass.getuser()}/", torch.__version__, platform.python_version(),
    ):  # fmt: skip
        assert word.encode() not in content, word


def test_an_update_counts_examples_and_tells_how_it_went(played):
    metrics = header_of(played.update(0, "b")).spec.metrics
    assert (metrics.n_examples, metrics.n_steps) == (16, 3)
    assert metrics.loss_first > 0
    assert metrics.update_norm > 0
    assert header_of(played.update(0, "b")).parents == {
        "package": (played_package_digest(played),),
        "proxy": (sha256_of(played.proxy(0)),),
    }


def played_package_digest(played):
    from fedlpp_cli.artifact.folder import open_folder

    return open_folder(played.package(0), PackageHeader).sha256


def test_a_dry_run_reads_everything_and_trains_nothing(played, tmp_path):
    result = train(played, tmp_path / "out.safetensors", dry_run=True)
    assert (result.sha256, result.metrics, result.n_examples, result.n_steps) == (None, None, 12, 3)
    assert list(tmp_path.iterdir()) == []


def test_columns_of_other_names(played, tmp_path):
    rows = [{"q": "ab ", "a": "cd ef"}] * 4
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = train(played, tmp_path / "o.safetensors", data=data, columns={"prompt": "q", "completion": "a"})
    assert result.n_examples == 4
    with pytest.raises(DataError, match="no field 'question'; fields are text, prompt"):
        train(played, tmp_path / "p.safetensors", data=data, columns={"question": "q"})


def test_bad_rows_are_told_and_nothing_is_written(played, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "ab ", "completion": "cd"}, {"prompt": "ab "}])
    with pytest.raises(DataError, match=r"rows.jsonl, line 2: no field 'completion'"):
        train(played, tmp_path / "out.safetensors", data=data)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        train(played, tmp_path / "out.safetensors", data=tmp_path / "empty.jsonl")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_training_that_goes_wrong_writes_nothing(llama, tmp_path):
    federation = Federation(
        tmp_path / "run", llama,
        train=TrainSpec(steps=4, batch_size=4, optimizer="sgd", learning_rate=1e30, max_grad_norm=0.0),
    )  # fmt: skip
    federation.init()
    federation.send(0)
    with pytest.raises(GateError, match="nothing was written"):
        federation.train_client(0, "a")
    assert not federation.update(0, "a").exists()
    assert list(federation.update(0, "a").parent.glob(".*")) == []


def test_a_training_that_changes_nothing_writes_nothing(llama, tmp_path):
    federation = Federation(
        tmp_path / "run", llama, train=TrainSpec(steps=1, optimizer="sgd", learning_rate=1e-60, weight_decay=0.0)
    )
    federation.init()
    federation.send(0)
    with pytest.raises(GateError, match="changed no weight"):
        federation.train_client(0, "a")


def test_the_packages_limit_on_the_norm_is_kept_by_the_client(llama, tmp_path):
    federation = Federation(tmp_path / "run", llama, train=TrainSpec(steps=2, max_update_norm=1e-6))
    federation.init()
    federation.send(0)
    with pytest.raises(GateError, match="the package allows 1e-06"):
        federation.train_client(0, "a")


def test_another_base_than_the_agreed_one_is_refused(played, gpt2, tmp_path):
    with pytest.raises(ModelError, match="the agreed base model"):
        train(played, tmp_path / "out.safetensors", base=gpt2)


def test_a_base_without_address_must_be_given(played, tmp_path):
    with pytest.raises(UsageError, match="--base is missing"):
        train(played, tmp_path / "out.safetensors", base=None)


def test_a_changed_package_is_refused(played, tmp_path):
    package = shutil.copytree(played.package(0), tmp_path / "package")
    content = bytearray((package / "proxy.safetensors").read_bytes())
    content[-1] ^= 1
    (package / "proxy.safetensors").write_bytes(content)
    with pytest.raises(DigestError, match=r"proxy.safetensors: sha256 is"):
        train(played, tmp_path / "out.safetensors", package=package)


def repack(played, folder, proxy, **fields):
    """A package with right digests around a forged proxy."""
    header = header_of(proxy)

    def manifest(files):
        from fedlpp_cli.records.headers import PackageSpec

        return PackageHeader(
            **{
                "federation": header.federation, "round": header.round, "parents": {"proxy": (sha256_of(proxy),)},
                "spec": PackageSpec(client=None, train=played.train), "files": files, **fields,
            }
        )  # fmt: skip

    write_folder(folder, {"proxy.safetensors": proxy, "README.md": b"hello"}, manifest)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"round": 4}, "another federation, round or method"),
        ({"federation": "0" * 64}, "another federation, round or method"),
        ({"parents": {"proxy": ("0" * 64,)}}, "its proxy is 0000"),
    ],
)
def test_a_package_around_a_proxy_of_elsewhere_is_refused(played, tmp_path, fields, message):
    package = repack(played, tmp_path / "package", played.proxy(0), **fields)
    with pytest.raises(LineageError, match=message):
        train(played, tmp_path / "out.safetensors", package=package)


def test_a_proxy_with_other_tensors_than_it_announces_is_refused(played, tmp_path):
    def without_one(tensors):
        return dict(list(tensors.items())[1:])

    proxy = reforge(played.proxy(0), tmp_path / "proxy.safetensors", kind=ProxyHeader, change=without_one)
    with pytest.raises(ArtifactError, match="the header announces"):
        train(played, tmp_path / "out.safetensors", package=repack(played, tmp_path / "package", proxy))


def test_a_proxy_with_scales_that_are_not_finite_is_refused(played, tmp_path):
    def broken(tensors):
        name = next(name for name in tensors if name.endswith(".scales"))
        tensors[name].fill_(float("inf"))
        return tensors

    proxy = reforge(played.proxy(0), tmp_path / "proxy.safetensors", kind=ProxyHeader, change=broken)
    with pytest.raises(ArtifactError, match="a scale is not finite"):
        train(played, tmp_path / "out.safetensors", package=repack(played, tmp_path / "package", proxy))


def test_a_master_in_the_place_of_a_proxy_is_refused(played, tmp_path):
    with pytest.raises(LineageError, match="is a master, not a proxy"):
        train(played, tmp_path / "o", package=repack(played, tmp_path / "p", played.master(0), federation="0" * 64))


def test_an_output_that_exists_is_found_before_any_work(played, tmp_path):
    (tmp_path / "out.safetensors").write_text("precious")
    with pytest.raises(OutputExistsError):
        train(played, tmp_path / "out.safetensors", data=tmp_path / "gone.jsonl")


def test_adapters_for_layers_that_the_base_has_not_are_refused(played, gpt2, tmp_path):
    from msgspec.structs import replace

    from fedlpp_cli.models.base_folder import identify_base

    spec = header_of(played.proxy(0)).spec
    model = replace(spec.model, base=identify_base(gpt2, private=False, hub=None))
    proxy = reforge(played.proxy(0), tmp_path / "proxy.safetensors", kind=ProxyHeader, spec=replace(spec, model=model))
    with pytest.raises(ModelError, match="the base model has no layer"):
        train(played, tmp_path / "o", package=repack(played, tmp_path / "p", proxy), base=gpt2)


def test_pack_refuses_a_master_and_says_what_to_do(played, tmp_path):
    from fedlpp_cli.errors import SecrecyError

    with pytest.raises(SecrecyError, match="is a master: it never leaves its owner") as caught:
        pack(played.master(0), out=tmp_path / "package")
    assert caught.value.hint.startswith("fedlpp quantize ")
    with TensorFile(played.master(0), MasterHeader) as master:
        assert master.header.kind == "master"
