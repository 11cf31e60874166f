"""Recognizing a base model."""

import json
import shutil

import pytest

from fedlpp_cli.errors import ModelError
from fedlpp_cli.models.base_folder import check_base, files_of_base, identify_base


@pytest.fixture
def copy(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "model")


def shard(folder):
    """The same weights in two files and an index."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for name, part in parts.items():
        save_file({key: weights[key] for key in part}, folder / name, metadata={"format": "pt"})
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def test_a_model_is_its_configuration_weights_and_tokenizer(copy):
    (copy / "README.md").write_text("about")
    (copy / "generation_config.json").write_text("{}")
    assert files_of_base(copy) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_shards_are_found_through_the_index(copy):
    assert "model-00002-of-00002.safetensors" in files_of_base(shard(copy))


def test_a_copy_is_the_same_model(copy, llama):
    spec = identify_base(llama, private=False, hub=None)
    assert spec.model_type == "llama"
    check_base(copy, spec)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_one_changed_byte_makes_another_model(copy, llama, name):
    spec = identify_base(llama, private=False, hub=None)
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: sha256 is .*…, the agreed base model has"):
        check_base(copy, spec)


def test_a_missing_and_an_additional_file_make_another_model(copy, llama):
    spec = identify_base(llama, private=False, hub=None)
    (copy / "added_tokens.json").write_text("{}")
    with pytest.raises(ModelError, match=r"added_tokens.json is not part of the agreed"):
        check_base(copy, spec)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer.json is missing"):
        check_base(copy, spec)


def test_the_hint_says_where_to_get_the_right_one(copy, llama):
    spec = identify_base(llama, private=False, hub="hf://org/model@" + "a" * 40)
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        check_base(copy, spec)
    assert "hf://org/model@aaaa" in caught.value.hint


def test_weights_that_could_run_code_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model.safetensors; weights in other formats can run code") as caught:
        files_of_base(copy)
    assert "save_pretrained" in caught.value.hint


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"no config.json, so no transformers model lies there"):
        files_of_base(tmp_path)


@pytest.mark.parametrize(
    "shards", [{"a": "../weights.safetensors"}, {"a": "w.bin"}, {"a": 3}, {"a": "gone.safetensors"}]
)
def test_an_index_may_only_name_weights_beside_it(copy, shards):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"not a safetensors file beside the index|is missing|not a shard index"):
        files_of_base(copy)


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"model_type": 3}', '{"model_type": "x", "auto_map": {}}'])
def test_configurations_that_are_none_or_bring_code_are_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"not a model configuration|bring their own code"):
        identify_base(copy, private=False, hub=None)
