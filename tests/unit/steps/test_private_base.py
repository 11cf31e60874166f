"""A base that clients only see as a rounded copy."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.forge import header_of
from support.parties import Federation
from support.tiny import label_rows, write_jsonl

from fedlpp_cli import evaluate, inspect, pack, quantize
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.artifact.tensor_header import read_infos
from fedlpp_cli.errors import ArtifactError, LineageError, SecrecyError, UsageError
from fedlpp_cli.models.foreign_base import check_foreign_base
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import BaseHeader
from fedlpp_cli.records.specs import BaseQuantSpec, LoraSpec, QuantSpec, TaskSpec


@pytest.fixture(scope="module")
def private(tmp_path_factory, llama):
    federation = Federation(tmp_path_factory.mktemp("private"), llama, private_base=True)
    federation.play(1)
    return federation


def test_a_round_runs_without_the_true_base_on_the_clients_side(private):
    assert header_of(private.master(1)).round == 1
    assert (private.package(0) / "base" / "model.safetensors").exists()


LIBRARY_FORMATS = {
    BaseQuantSpec(): {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    BaseQuantSpec(double=False): {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    BaseQuantSpec(format="fp4", double=False): {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    BaseQuantSpec(format="int8"): {"load_in_8bit": True},
}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("spec", LIBRARY_FORMATS, ids=lambda spec: f"{spec.format}{'-double' * spec.double}")
def test_plain_transformers_opens_it_as_if_it_had_quantized_the_base_itself(request, tmp_path, kind, spec):
    """Tensors and logits are equal, bit for bit."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    sixteen = in_bfloat16(request.getfixturevalue(kind), tmp_path / "base")
    federation = Federation(tmp_path / "run", sixteen, private_base=True, base_quantize=spec)
    federation.init()
    federation.send(0)
    ours = AutoModelForCausalLM.from_pretrained(federation.folder / "base", device_map={"": "cpu"})
    theirs = AutoModelForCausalLM.from_pretrained(
        sixteen, quantization_config=BitsAndBytesConfig(**LIBRARY_FORMATS[spec]), dtype="auto", device_map={"": "cpu"}
    )
    found, expected = ours.state_dict(), theirs.state_dict()
    assert set(found) == set(expected)
    differing = {name for name in found if not_equal(found[name], expected[name])}
    got, wanted = logits_of(ours), logits_of(theirs)
    assert not differing
    assert torch.equal(got, wanted)


def logits_of(model):
    """In training mode, since bitsandbytes' fused CPU code refuses layers as small as these."""
    with torch.no_grad():
        return model.train()(torch.tensor([[5, 6, 7, 8]])).logits.float()


def in_bfloat16(folder, target):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.config.update(dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0))
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, target / name)
    return target


def not_equal(one, other):
    return not torch.equal(one, other) if isinstance(one, torch.Tensor) else one != other


@pytest.mark.parametrize("name", ["nf2", "nf3", "nf5", "nf6", "ternary"])
def test_packed_widths_hold_what_the_reference_gives(private, tmp_path, name):
    spec = BaseQuantSpec(format=name, block=32, double=False, keep=("output",))
    quantize(private.master(0), out=tmp_path / "proxy", base=private.base, base_out=tmp_path / "base", base_spec=spec)
    base = open_folder(tmp_path / "base", BaseHeader)
    check_foreign_base(base)
    model = open_model(base.path, private.task).model
    bits = {"ternary": "ternary"}.get(name, name[2:])
    for tensor, value in load_file(private.base / "model.safetensors").items():
        expected = value.bfloat16().float()
        if value.ndim == 2 and tensor != "lm_head.weight":
            expected = round_tensor(value, QuantSpec(bits=bits, block=32, scale="fp32"), name=tensor)
        assert torch.equal(model.get_parameter(tensor), expected), tensor


def test_a_federation_on_a_three_bit_base(llama, tmp_path):
    spec = BaseQuantSpec(format="nf3", keep=())
    federation = Federation(tmp_path / "run", llama, private_base=True, base_quantize=spec)
    federation.play(2)
    listed = inspect(federation.package(1)).unquantized
    assert all("norm" in name for name in listed)
    rows = evaluate([federation.package(1)], data=federation.data("a"), device="cpu").rows
    owners = evaluate([federation.master(1)], data=federation.data("a"), base=llama, base_quantize=spec, device="cpu")
    assert [row.model for row in owners.rows] == ["base", "proxy", "central"]
    assert rows[1].scores == owners.rows[1].scores


def test_nothing_in_a_package_is_the_base_at_full_precision(private):
    """Every linear weight is 4-bit; what is not is listed, in bfloat16; no true value stands in the bytes."""
    infos = read_infos(private.package(0) / "base" / "model.safetensors")
    listed = inspect(private.package(0)).unquantized
    assert {infos[name].dtype for name in listed} == {"BF16"}
    assert not any("proj" in name for name in listed)
    content = b"".join(path.read_bytes() for path in private.package(0).rglob("*") if path.is_file())
    for name, weight in load_file(private.base / "model.safetensors").items():
        if name not in listed or "norm" not in name:  # norms are ones: nothing to hide
            assert weight.reshape(-1)[-8:].contiguous().numpy().tobytes() not in content, name


def test_clients_do_not_learn_which_model_it_is(private, llama):
    spec = header_of(private.proxy(0)).spec.model.base
    assert (spec.hub, spec.files) == (None, {})
    text = (private.folder / "base" / "config.json").read_text()
    assert str(llama) not in text
    assert "_name_or_path" not in text


def test_the_base_is_rounded_once_and_then_reused(private, tmp_path):
    before = {path.name: path.read_bytes() for path in (private.folder / "base").iterdir()}
    quantize(private.master(1), out=tmp_path / "proxy.safetensors", base_out=private.folder / "base")
    assert {path.name: path.read_bytes() for path in (private.folder / "base").iterdir()} == before
    with pytest.raises(LineageError, match="quantized to"):
        quantize(
            private.master(1),
            out=tmp_path / "p2",
            base_out=private.folder / "base",
            base_spec=BaseQuantSpec(format="fp4"),
        )


def test_what_is_missing_is_told(private, tmp_path):
    with pytest.raises(UsageError, match="--base-out is missing"):
        quantize(private.master(0), out=tmp_path / "proxy")
    with pytest.raises(UsageError, match="--base is missing"):
        quantize(private.master(0), out=tmp_path / "proxy", base_out=tmp_path / "base")
    with pytest.raises(UsageError, match="--base-artifact is missing"):
        pack(private.proxy(0), out=tmp_path / "package")


def test_the_base_of_another_federation_is_refused(private, llama, tmp_path):
    other = Federation(tmp_path / "other", llama, private_base=True, task=TaskSpec(max_length=16))
    other.init()
    with pytest.raises(LineageError, match="of another federation"):
        quantize(other.master(0), out=other.proxy(0), base_out=private.folder / "base")
    other.send(0)
    with pytest.raises(LineageError, match="its base is"):
        pack(other.proxy(0), out=tmp_path / "package", base_artifact=private.folder / "base")


def test_evaluate_scores_the_proxy_on_the_rounded_base(private):
    data = private.data("b")
    rounded = evaluate(
        [private.master(1)], data=data, base=private.base, base_artifact=private.folder / "base", device="cpu"
    )
    on_the_fly = evaluate([private.master(1)], data=data, base=private.base, device="cpu")
    packaged = evaluate([private.package(0)], data=data, device="cpu")
    assert [row.model for row in rounded.rows] == ["base", "proxy", "central"]
    assert [row.scores for row in rounded.rows] == [row.scores for row in on_the_fly.rows]
    assert [row.model for row in packaged.rows] == ["base", "proxy"]


def test_a_classifier_with_a_private_base(bert, tmp_path):
    labels = ("first", "second", "third")
    federation = Federation(
        tmp_path / "run", bert, private_base=True, task=TaskSpec(kind="seq-cls", max_length=16, labels=labels)
    )
    for number, client in enumerate(federation.clients):
        write_jsonl(federation.data(client), label_rows(12, seed=number))
    federation.play(1)
    assert header_of(federation.master(1)).spec.model.lora.modules_to_save == ("classifier",)
    listed = inspect(federation.folder / "base").unquantized
    assert not any(name.startswith("classifier") for name in listed)


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename_tensor(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def weight_state(tensors):
    return next(name for name in tensors if "quant_state" in name)


def change_state(path, **fields):
    def change(tensors):
        name = weight_state(tensors)
        state = json.loads(bytes(tensors[name].tolist()))
        tensors[name] = torch.tensor(list(json.dumps({**state, **fields}).encode()), dtype=torch.uint8)

    rename_tensor(path, change)


def cut(part):
    def change(tensors):
        name = weight_state(tensors).partition(".quant_state")[0] + part
        tensors[name] = tensors[name].reshape(-1)[:-1].contiguous()

    return change


ATTACKS = {
    "code of its own": lambda f: change_json(f / "config.json", lambda c: c.update(auto_map={"AutoModel": "x.Y"})),
    "code of its own, nested": lambda f: change_json(
        f / "config.json", lambda c: c.update(sub={"auto_map": {"AutoModel": "x.Y"}})
    ),
    "a private key": lambda f: change_json(
        f / "config.json", lambda c: c.update(_attn_implementation_internal="org/kernel")
    ),
    "trust": lambda f: change_json(f / "config.json", lambda c: c.update(trust_remote_code=True)),
    "another architecture": lambda f: change_json(f / "config.json", lambda c: c.update(model_type="gpt2")),
    "another quantizer": lambda f: change_json(
        f / "config.json", lambda c: c["quantization_config"].update(quant_method="gptq")
    ),
    "a tokenizer with code": lambda f: change_json(f / "tokenizer_config.json", lambda c: c.update(auto_map={})),
    "a shape beyond the weights": lambda f: change_state(f / "model.safetensors", shape=[1024, 1024]),
    "a shape of nonsense": lambda f: change_state(f / "model.safetensors", shape=[-1, 4]),
    "another block size": lambda f: change_state(f / "model.safetensors", blocksize=4096),
    "another dtype": lambda f: change_state(f / "model.safetensors", dtype="load"),
    "more fields": lambda f: change_state(f / "model.safetensors", hook="x"),
    "too few scales": lambda f: rename_tensor(f / "model.safetensors", cut(".absmax")),
    "too few weights": lambda f: rename_tensor(f / "model.safetensors", cut("")),
    "a tensor that nobody listed": lambda f: rename_tensor(
        f / "model.safetensors", lambda t: t.update(extra=torch.zeros(3))
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_base_is_refused_before_transformers_sees_it(private, tmp_path, attack):
    """The digests are made right again: this is what an owner with bad intentions could send."""
    from msgspec.structs import replace

    from fedlpp_cli.artifact.digest import sha256_of_file
    from fedlpp_cli.records.headers import encode_header

    folder = shutil.copytree(private.folder / "base", tmp_path / "base")
    header = open_folder(folder, BaseHeader).header
    ATTACKS[attack](folder)
    files = tuple(
        replace(entry, size=(folder / entry.name).stat().st_size, sha256=sha256_of_file(folder / entry.name))
        for entry in header.files
    )
    (folder / "manifest.json").write_bytes(encode_header(replace(header, files=files)))
    with pytest.raises(ArtifactError):
        check_foreign_base(open_folder(folder, BaseHeader))


@pytest.mark.parametrize("name", ["modeling.py", "pytorch_model.bin", "custom_generate"])
def test_files_that_do_not_belong_are_refused(private, tmp_path, name):
    from msgspec.structs import replace

    from fedlpp_cli.artifact.digest import sha256_of_bytes
    from fedlpp_cli.records.headers import FileEntry, encode_header

    folder = shutil.copytree(private.folder / "base", tmp_path / "base")
    (folder / name).write_bytes(b"x")
    header = open_folder(private.folder / "base", BaseHeader).header
    entry = FileEntry(name=name, size=1, sha256=sha256_of_bytes(b"x"))
    (folder / "manifest.json").write_bytes(encode_header(replace(header, files=(*header.files, entry))))
    with pytest.raises(ArtifactError, match="does not belong to a quantized base"):
        check_foreign_base(open_folder(folder, BaseHeader))


def made_right(folder, header):
    """The manifest of a changed folder, with the digests made right: what a dishonest owner could send."""
    from msgspec.structs import replace

    from fedlpp_cli.artifact.digest import sha256_of_file
    from fedlpp_cli.records.headers import FileEntry, encode_header

    files = tuple(
        FileEntry(name=path.name, size=path.stat().st_size, sha256=sha256_of_file(path))
        for path in sorted(folder.iterdir()) if path.name != "manifest.json"
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(encode_header(replace(header, files=files)))
    return open_folder(folder, BaseHeader)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


PROJ = "model.layers.0.mlp.up_proj"
ATTACKS_BY_FORMAT = {
    "int8": {
        "a scale too few": put(f"{PROJ}.SCB", torch.ones(3)),
        "no scales": drop(f"{PROJ}.SCB"),
        "weights of another type": put(f"{PROJ}.weight", torch.zeros(32, 16)),
        "weights of another rank": put(f"{PROJ}.weight", torch.zeros(32, dtype=torch.int8)),
        "no format": drop(f"{PROJ}.weight_format"),
        "one more": put("extra.SCB", torch.ones(3)),
    },
    "nf3": {
        "a scale too few": put(f"{PROJ}.weight.scale_codes", torch.zeros(3, dtype=torch.uint8)),
        "no scales": drop(f"{PROJ}.weight.scale_scales"),
        "codes of another length": put(f"{PROJ}.weight.codes", torch.zeros(3, dtype=torch.uint8)),
        "a norm in float32": put("model.norm.weight", torch.ones(16)),
        "no norm": drop("model.norm.weight"),
        "one more": put("extra.codes", torch.zeros(3, dtype=torch.uint8)),
    },
}


@pytest.mark.parametrize(
    ("name", "attack"), [(name, attack) for name, all_of in ATTACKS_BY_FORMAT.items() for attack in all_of]
)
def test_tensors_that_are_not_as_announced_are_refused(private, tmp_path, name, attack):
    spec = BaseQuantSpec(format=name)
    quantize(private.master(0), out=tmp_path / "proxy", base=private.base, base_out=tmp_path / "base", base_spec=spec)
    header = open_folder(tmp_path / "base", BaseHeader).header
    weights = next((tmp_path / "base").glob("*.safetensors"))
    rename_tensor(weights, ATTACKS_BY_FORMAT[name][attack])
    with pytest.raises(ArtifactError):
        check_foreign_base(made_right(tmp_path / "base", header))


@pytest.mark.parametrize("skipped", ["lm_head", ["(a+)+$"], [""], ["x" * 300], [3], None])
def test_modules_to_skip_are_names_and_no_patterns(private, tmp_path, skipped):
    folder = shutil.copytree(private.folder / "base", tmp_path / "base")
    header = open_folder(folder, BaseHeader).header
    change_json(folder / "config.json", lambda c: c["quantization_config"].update(llm_int8_skip_modules=skipped))
    with pytest.raises(ArtifactError, match="llm_int8_skip_modules is not a list of module names"):
        check_foreign_base(made_right(folder, header))


def test_a_packed_base_does_not_ask_transformers_to_quantize(private, tmp_path):
    spec = BaseQuantSpec(format="nf3")
    quantize(private.master(0), out=tmp_path / "proxy", base=private.base, base_out=tmp_path / "base", base_spec=spec)
    header = open_folder(tmp_path / "base", BaseHeader).header
    change_json(tmp_path / "base" / "config.json", lambda c: c.update(quantization_config={"quant_method": "gptq"}))
    with pytest.raises(ArtifactError, match="a packed base has no quantization_config"):
        check_foreign_base(made_right(tmp_path / "base", header))


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A model whose files have a matrix for each expert, which transformers makes one tensor of."""
    from support.tiny import make_tokenizer
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("mixtral")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    federation = Federation(
        tmp_path_factory.mktemp("run"), folder, private_base=True, lora=LoraSpec(rank=4, target_modules=("q_proj",))
    )
    federation.init()
    return federation


def test_experts_are_packed_or_named_and_never_slip_through(experts, tmp_path):
    def round_base(**fields):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        spec = BaseQuantSpec(**fields)
        quantize(experts.master(0), out=tmp_path / "p", base=experts.base, base_out=out, base_spec=spec, force=True)
        return open_folder(out, BaseHeader)

    packed = round_base(format="nf6")
    assert not any("experts" in name for name in packed.header.spec.unquantized)
    full, rounded = (open_model(at, experts.task).model.state_dict() for at in (experts.base, packed.path))
    name = next(name for name in full if "experts" in name and full[name].ndim == 3)
    assert 0 < ((rounded[name] - full[name]).norm() / full[name].norm()) < 0.03
    with pytest.raises(SecrecyError, match=r"experts.0.w1.weight \[32, 16\] would leave in 16 bits"):
        round_base()
    named = round_base(keep=("embeddings", "output", "experts", "gate"))
    check_foreign_base(named)
    assert any("experts" in name for name in named.header.spec.unquantized)
    open_model(named.path, experts.task)
