"""A private base of which clients do not get all output features."""

import json
import shutil

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from support.parties import Federation

from fedlpp_cli import evaluate, inspect, pack, quantize, verify
from fedlpp_cli.artifact.folder import open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import ArtifactError, LineageError, ModelError, SecondReleaseError, UsageError
from fedlpp_cli.models.foreign_base import check_foreign_base
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.quantized_base import plan_quantized_base
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import BaseHeader, MasterHeader, encode_header
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec

LIBRARY_FORMATS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


def owner_of(folder, base):
    federation = Federation(folder, base, private_base=True)
    federation.init()
    return federation


@pytest.fixture(scope="module")
def owners(tmp_path_factory, llama, gpt2):
    """By architecture, a federation that has begun on a base in 16 bits."""
    made = tmp_path_factory.mktemp("owners")
    bases = {kind: in_bfloat16(at, made / f"{kind}-base") for kind, at in (("llama", llama), ("gpt2", gpt2))}
    return {kind: owner_of(made / kind, base) for kind, base in bases.items()}


def in_bfloat16(folder, target):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, target / name)
    return target


def copy_of(owner, out, spec, **options):
    quantize(owner.master(0), out=out / "proxy", base=owner.base, base_out=out / "base", base_spec=spec, force=True,
             **options)  # fmt: skip
    return open_folder(out / "base", BaseHeader)


def masks_of(owner, spec):
    """Tensor name, as in the files, to its mask."""
    with TensorFile(owner.master(0), MasterHeader) as master:
        plan, _ = plan_quantized_base(owner.base, master.header.spec, spec)
    return {tensor.name: tensor for tensor in plan.tensors() if tensor.mask is not None}


def zeroed(owner, spec, target):
    """The owner's base with zeros for what is hidden."""
    shutil.copytree(owner.base, target)
    tensors = load_file(target / "model.safetensors")
    for name, tensor in masks_of(owner, spec).items():
        is_turned = tensor.mask.axis == 1 or tensor.treatment == "turn"
        (tensors[name].T if is_turned else tensors[name])[tensor.mask.hidden] = 0
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def not_equal(one, other):
    return not torch.equal(one, other) if isinstance(one, torch.Tensor) else one != other


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", LIBRARY_FORMATS)
def test_plain_transformers_opens_what_it_would_make_of_a_base_with_zeros(owners, tmp_path, kind, name):
    """Bit for bit without scaling; with it, but for the scales."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    owner, spec = owners[kind], BaseQuantSpec(format=name, mask=0.25, mask_scaling=False)
    base = copy_of(owner, tmp_path, spec)
    check_foreign_base(base)
    ours = AutoModelForCausalLM.from_pretrained(base.path, device_map={"": "cpu"})
    theirs = AutoModelForCausalLM.from_pretrained(
        zeroed(owner, spec, tmp_path / "zeroed"), quantization_config=BitsAndBytesConfig(**LIBRARY_FORMATS[name]),
        dtype="auto", device_map={"": "cpu"},
    )  # fmt: skip
    found, expected = ours.state_dict(), theirs.state_dict()
    assert set(found) == set(expected)
    assert not {tensor for tensor in found if not_equal(found[tensor], expected[tensor])}
    assert base.header.spec.masked


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["nf3", "ternary", "nf4", "int8"])
def test_clients_compute_with_zeros_and_with_the_rest_times_a_factor(owners, tmp_path, kind, name):
    owner, spec = owners[kind], BaseQuantSpec(format=name, mask=0.25)
    scaled = copy_of(owner, tmp_path / "a", spec)
    plain = copy_of(owner, tmp_path / "b", replace(spec, mask_scaling=False))
    whole = copy_of(owner, tmp_path / "c", replace(spec, mask=0.0))
    found, unscaled, all_of = (open_model(at.path, owner.task).model for at in (scaled, plain, whole))
    masks = {name.removeprefix("transformer."): tensor.mask for name, tensor in masks_of(owner, spec).items()}
    assert len(masks) == sum(".lora_B" in name for name in shapes_of(owner))
    for tensor, value in found.named_parameters():
        mask = masks.get(tensor.removeprefix("transformer."))
        if mask is None:  # embeddings, output, norms, biases
            assert torch.equal(value, all_of.get_parameter(tensor))
            continue
        by_feature = value.T if mask.axis else value
        is_hidden = torch.zeros(len(by_feature), dtype=torch.bool)
        is_hidden[mask.hidden] = True
        assert torch.equal(is_hidden, (by_feature == 0).all(dim=1)) or name == "ternary"
        assert (by_feature[is_hidden] == 0).all()
        # bitsandbytes makes 4 bits dense in bfloat16
        assert torch.allclose(value, unscaled.get_parameter(tensor) * mask.factor, rtol=0.01, atol=1e-6)


def shapes_of(owner):
    with TensorFile(owner.master(0), MasterHeader) as master:
        return master.tensors


def test_a_packed_matrix_that_lies_the_other_way_has_hidden_columns(owners, tmp_path):
    """A block then has weights of all features, and its scale is that of those which are there."""
    spec = BaseQuantSpec(format="nf5", block=32, double=False, mask=0.25)
    owner = owners["gpt2"]
    model = open_model(copy_of(owner, tmp_path, spec).path, owner.task).model
    values = load_file(zeroed(owner, spec, tmp_path / "zeroed") / "model.safetensors")
    masks = masks_of(owner, spec)
    assert {tensor.mask.axis for tensor in masks.values()} == {1}
    for name, tensor in masks.items():
        expected = round_tensor(values[name].float(), QuantSpec(bits="5", block=32, scale="fp32"), name=name)
        found = model.get_parameter(name if name.startswith("transformer.") else f"transformer.{name}")
        assert torch.allclose(found, expected * tensor.mask.factor, rtol=1e-6, atol=0)


def test_only_linear_layers_that_are_rounded_are_masked(owners, tmp_path):
    spec = BaseQuantSpec(format="nf3", mask=0.25, keep=("down_proj",))
    base = copy_of(owners["llama"], tmp_path, spec)
    masked = set(base.header.spec.masked)
    assert masked == {name for name in base.header.spec.shapes if "_proj" in name}
    assert {name.split(".")[-2] for name in set(base.header.spec.shapes) - masked} == {"embed_tokens", "lm_head"}


def test_what_is_said_of_it(owners, tmp_path):
    """Before, afterwards, and to clients: shares, and neither seed nor features."""
    owner, spec = owners["llama"], BaseQuantSpec(format="nf3", mask=0.25)
    planned = quantize(owner.master(0), out=tmp_path / "p", base=owner.base, base_out=tmp_path / "base",
                       base_spec=spec, dry_run=True)  # fmt: skip
    base = copy_of(owner, tmp_path, spec)
    listed = inspect(base.path)
    of_base = [group for group in planned.groups if group.part == "base"]
    assert [(group.group, group.n_hidden) for group in of_base] == [(g.group, g.n_hidden) for g in listed.groups]
    assert all(group.n_hidden == group.n_parameters // 4 for group in of_base if "_proj" in group.group)
    assert sum(base.header.spec.masked.values()) == sum(group.n_hidden for group in of_base)
    assert planned.base_quantize == base.header.spec.quantize == spec
    header = json.loads(base.raw_header)
    assert "seed" not in json.dumps(header)
    assert set(header["spec"]["masked"].values()) <= {4 * 16, 8 * 16, 4 * 32}


def test_a_federation_with_one_mask_on_base_and_adapter(llama, tmp_path):
    """It is told from the master and nothing else, whoever makes the copy."""
    spec = BaseQuantSpec(format="nf3", mask=0.25)
    federation = Federation(tmp_path / "run", llama, private_base=True, base_quantize=spec)
    federation.init()
    mask = MaskSpec(server=0.25)
    base = copy_of(federation, federation.folder, spec, mask=mask)
    shutil.copy(federation.folder / "proxy", federation.proxy(0))
    pack(federation.proxy(0), out=federation.package(0), train=federation.train, base_artifact=base.path,
         ledger=federation.folder / "releases.jsonl")  # fmt: skip
    for client in federation.clients:
        federation.train_client(0, client)
    federation.fold(0)
    verify([federation.package(0), federation.master(1)])
    data = federation.data("a")
    given = evaluate([federation.master(1)], data=data, base=llama, base_artifact=base.path, device="cpu")
    made = evaluate([federation.master(1)], data=data, base=llama, base_quantize=spec, device="cpu")
    assert [row.scores for row in given.rows] == [row.scores for row in made.rows]
    with TensorFile(federation.master(1), MasterHeader) as master:
        for name, tensor in masks_of(federation, spec).items():
            trained = master.read(f"{name.removesuffix('.weight')}.lora_B")
            untouched = set((trained == 0).all(dim=1).nonzero().flatten().tolist())
            assert untouched >= set(tensor.mask.hidden.tolist())
            # Others have partners: where the gate is hidden, up_proj learns nothing either.
            assert len(untouched) == len(tensor.mask.hidden) or not name.endswith(("o_proj.weight", "down_proj.weight"))


def test_a_second_mask_is_a_second_copy(owners, tmp_path):
    owner, spec = owners["llama"], BaseQuantSpec(mask=0.25)
    base = copy_of(owner, tmp_path, spec)
    for other in (replace(spec, mask=0.5), replace(spec, mask=0.0), replace(spec, mask_scaling=False)):
        with pytest.raises(LineageError, match="quantized to"):
            copy_of(owner, tmp_path, other)
    ledger = tmp_path / "ledger"
    pack(tmp_path / "proxy", out=tmp_path / "package", base_artifact=base.path, ledger=ledger)
    second = copy_of(owner, tmp_path / "second", replace(spec, mask=0.5))
    with pytest.raises(SecondReleaseError):
        pack(tmp_path / "second" / "proxy", out=tmp_path / "again", base_artifact=second.path, ledger=ledger)


def test_other_seeds_hide_other_features_and_formats_the_same(owners, llama, tmp_path):
    masks = masks_of(owners["llama"], BaseQuantSpec(mask=0.25))
    packed = masks_of(owners["llama"], BaseQuantSpec(format="nf3", mask=0.25))
    assert all((masks[name].mask.hidden == packed[name].mask.hidden).all() for name in masks)
    owner = owners["llama"]
    with TensorFile(owner.master(0), MasterHeader) as master:
        spec = replace(master.header.spec, seed=8)
    other, _ = plan_quantized_base(owner.base, spec, BaseQuantSpec(mask=0.25))
    differing = [
        one.name for one in other.tensors() if one.mask and (one.mask.hidden != masks[one.name].mask.hidden).any()
    ]
    assert len(differing) == len(masks)


def test_a_mask_that_hides_nothing_is_refused(owners, llama, tmp_path):
    with pytest.raises(ModelError, match=r"a mask of 0.01 hides nothing"):
        copy_of(owners["llama"], tmp_path, BaseQuantSpec(mask=0.01))
    spec = BaseQuantSpec(format="nf3", mask=0.5, keep=("self_attn", "mlp"))
    with pytest.raises(ModelError, match="hides nothing"):
        copy_of(owners["llama"], tmp_path, spec)
    assert not (tmp_path / "base").exists()
    public = Federation(tmp_path / "public", llama)
    public.init()
    with pytest.raises(UsageError, match=r"--base-mask 0.5: the base is public"):
        quantize(public.master(0), out=tmp_path / "p", base_spec=BaseQuantSpec(mask=0.5))


@pytest.mark.parametrize("change", [{"model.norm.weight": 1}, {"model.layers.0.mlp.up_proj.weight": 512}])
def test_a_manifest_that_hides_what_cannot_be_is_refused(owners, tmp_path, change):
    base = copy_of(owners["llama"], tmp_path, BaseQuantSpec(mask=0.25))
    spec = replace(base.header.spec, masked={**base.header.spec.masked, **change})
    (base.path / "manifest.json").write_bytes(encode_header(replace(base.header, spec=spec)))
    with pytest.raises(ArtifactError, match=r"cannot have .* hidden weights"):
        check_foreign_base(open_folder(base.path, BaseHeader))
