"""A private base in several files: rounded a shard at a time, taken up again, and refused when it is not sound."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.parties import Federation

from fedlpp_cli import inspect, quantize
from fedlpp_cli.artifact import whole
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.errors import GateError, ModelError, OutputError, SecrecyError
from fedlpp_cli.models import base_shards
from fedlpp_cli.models.base_plan import plan_base
from fedlpp_cli.models.base_tensors import INDEX, base_tensors
from fedlpp_cli.models.foreign_base import check_foreign_base
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.headers import BaseHeader
from fedlpp_cli.records.specs import BaseQuantSpec

SHARDS = 3


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, llama):
    """The tiny model in three files with an index."""
    folder = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(llama / "model.safetensors")
    names, where = sorted(tensors), {}
    for number in range(SHARDS):
        shard = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = names[number::SHARDS]
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.fixture
def owner(tmp_path, sharded):
    """A federation on a copy of the sharded model, which a test may spoil."""
    federation = Federation(tmp_path / "run", shutil.copytree(sharded, tmp_path / "model"), private_base=True)
    federation.init()
    return federation


def round_base(owner, name="base", **fields):
    out = owner.folder / name
    spec = BaseQuantSpec(**fields)
    quantize(owner.master(0), out=owner.folder / f"{name}.p", base=owner.base, base_out=out, base_spec=spec, force=True)
    return out


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["nf4", "nf3"])
def test_shards_stay_shards_and_open_again(owner, llama, tmp_path, name):
    base = round_base(owner, format=name)
    stem = "model" if name == "nf4" else "packed"
    assert sorted(path.name for path in base.glob("*.safetensors")) == [
        f"{stem}-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    check_foreign_base(open_folder(base, BaseHeader))
    whole_federation = Federation(tmp_path / "whole", llama, private_base=True)
    whole_federation.init()
    other = round_base(whole_federation, format=name)
    ours, theirs = (open_model(folder, owner.task).model.state_dict() for folder in (base, other))
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs)


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), OutputError)],
)
def test_what_was_finished_is_kept_and_the_end_is_the_same(owner, monkeypatch, trouble, error):
    expected = files_of(round_base(owner, "undisturbed", mask=0.25))
    write, calls = base_shards.write_all, []

    def failing(descriptor, data, offset):
        calls.append(offset)
        if len(calls) == 60:  # in the second shard
            raise trouble
        write(descriptor, data, offset)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(base_shards, "write_all", failing)
    with pytest.raises(error, match="No space left on device" if error is OutputError else ""):
        round_base(owner, mask=0.25)
    part = next(owner.folder.glob(".base.*.part"))
    kept = {path.name: path.stat().st_ino for path in part.iterdir()}
    assert list(kept) == ["model-00001-of-00003.safetensors"]
    assert not (owner.folder / "base").exists()
    monkeypatch.setattr(base_shards, "write_all", write)
    base = round_base(owner, mask=0.25)
    assert files_of(base) == expected
    assert (base / "model-00001-of-00003.safetensors").stat().st_ino == next(iter(kept.values()))
    assert not list(owner.folder.glob(".base.*"))


def test_a_shard_that_is_not_the_agreed_one_gets_no_name(owner):
    """The shards before it stay for the next run, each format's for itself."""
    path = owner.base / "model-00003-of-00003.safetensors"
    whole_shard = load_file(path)
    save_file({name: 2 * value for name, value in whole_shard.items()}, path, metadata={"format": "pt"})
    for name, stem in (("nf3", "packed"), ("nf4", "model")):
        with pytest.raises(ModelError, match=r"model-00003-of-00003.safetensors: sha256 is"):
            round_base(owner, format=name)
        finished = [f"{stem}-{number:05d}-of-00003.safetensors" for number in (1, 2)]
        assert finished in [sorted(at.name for at in part.iterdir()) for part in owner.folder.glob(".base.*.part")]
    assert not (owner.folder / "base").exists()
    save_file(whole_shard, path, metadata={"format": "pt"})
    round_base(owner, format="nf4")
    assert not list(owner.folder.glob(".base.*"))  # nor what the other format had begun


def test_two_processes_do_not_write_one_base(owner):
    with (
        whole.resumed_folder(owner.folder / "base", "ab" * 32),
        pytest.raises(OutputError, match="another process"),
        whole.resumed_folder(owner.folder / "base", "ab" * 32),
    ):
        pass


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def forget_a_shard(folder):
    edit_index(folder, lambda m: [m.pop(name) for name in list(m) if m[name].startswith("model-00002")])


def list_twice(folder):
    text = (folder / INDEX).read_text()
    name = "model.embed_tokens.weight"
    text = text.replace(f'"{name}":', f'"{name}": "model-00003-of-00003.safetensors", "{name}":')
    (folder / INDEX).write_text(text)


def move(folder):
    edit_index(folder, lambda m: m.update({"lm_head.weight": "model-00003-of-00003.safetensors"}))


@pytest.mark.parametrize(
    ("spoil_it", "message"),
    [
        (forget_a_shard, r"shard model-00002-of-00003.safetensors is not in it, model-00001-of-00003"),
        (lambda f: (f / "model-00002-of-00003.safetensors").unlink(), r"model-00002-of-00003.safetensors is missing"),
        (list_twice, r"'model.embed_tokens.weight' is listed twice"),
        (move, r"'lm_head.weight' does not lie in model-00003-of-00003"),
        (lambda f: edit_index(f, lambda m: m.pop("lm_head.weight")), r"tensor 'lm_head.weight' is missing"),
        (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), "names no shard"),
        (lambda f: (f / INDEX).write_text("{"), "not a shard index"),
        (lambda f: edit_index(f, lambda m: m.update(x="../x.safetensors")), "not a safetensors file beside the index"),
    ],
)
def test_files_and_index_have_to_agree(sharded, tmp_path, spoil_it, message):
    folder = shutil.copytree(sharded, tmp_path / "model")
    spoil_it(folder)
    with pytest.raises(ModelError, match=message):
        base_tensors(folder)


def model_with(tmp_path, llama, **changes):
    """A federation on the tiny model with other tensors in it."""
    folder = shutil.copytree(llama, tmp_path / "model")
    tensors = load_file(llama / "model.safetensors")
    save_file({**tensors, **changes}, folder / "model.safetensors", metadata={"format": "pt"})
    federation = Federation(tmp_path / "run", folder, private_base=True)
    federation.init()
    return federation


def test_a_value_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, llama):
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(llama / "model.safetensors")[name]
    weight[3, 5] = float("nan")
    owner = model_with(tmp_path, llama, **{name: weight})
    with pytest.raises(GateError, match=r"layers.1.mlp.up_proj.weight: element \[3, 5\] is nan, finite values"):
        round_base(owner)
    assert not (owner.folder / "base").exists()
    assert not (owner.folder / "base.p").exists()


def test_a_type_that_cannot_be_rounded_is_named(tmp_path, llama):
    name = "model.layers.0.mlp.up_proj.weight"
    weight = load_file(llama / "model.safetensors")[name]
    owner = model_with(tmp_path, llama, **{name: weight.double()})
    with pytest.raises(ModelError, match=r"layers.0.mlp.up_proj.weight is F64, which cannot be quantized"):
        round_base(owner)


def test_a_block_larger_than_every_tensor_is_refused(owner):
    with pytest.raises(ModelError, match="a block of 4096 is larger than every tensor, of 512 at most"):
        round_base(owner, block=4096)


@pytest.mark.parametrize("extra", ["model.layers.0.mixer.conv.weight"])
def test_what_a_format_cannot_round_leaves_only_if_it_is_named(llama, extra):
    """No tiny model has such a tensor; a plan needs only names, shapes and roles."""
    tensors = base_tensors(llama)
    roles = dict.fromkeys([name for name in tensors if "proj" in name], "linear")
    roles |= {"model.embed_tokens.weight": "embedding", "lm_head.weight": "output"}
    odd = tensors | {extra: tensors["model.embed_tokens.weight"]}
    with pytest.raises(SecrecyError, match=r"mixer.conv.weight \[64, 16\] would leave in 16 bits"):
        plan_base(odd, roles, BaseQuantSpec(), source="here")
    named = plan_base(odd, roles, BaseQuantSpec(keep=("embeddings", "output", "mixer.conv")), source="here")
    assert extra in named.unquantized
    packed = plan_base(odd, roles, BaseQuantSpec(format="nf3"), source="here")
    assert extra not in packed.unquantized
    assert extra not in plan_base(odd, roles | {extra: "unused"}, BaseQuantSpec(), source="here").unquantized


def test_what_is_named_is_kept(owner):
    listed = inspect(round_base(owner, format="nf3", keep=("down_proj", "layers.0.self_attn.q_proj"))).unquantized
    matrices = {name for name in listed if "norm" not in name}
    assert matrices == {
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    }


def test_equal_inputs_give_equal_bytes_on_any_number_of_threads(owner, monkeypatch):
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(files_of(round_base(owner, f"base{threads}", format="nf3", mask=0.25)))
    assert found[0] == found[1] == found[2]
