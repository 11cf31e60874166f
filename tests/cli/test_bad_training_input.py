"""What can be wrong with what a client trains on: an exit code, a code, one line, and everything left as it was."""

import json
import shutil

import pytest
from msgspec.structs import replace
from support.forge import header_of, reforge, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import pack
from fedlpp_cli.artifact.folder import open_folder, write_folder
from fedlpp_cli.cli.app import app
from fedlpp_cli.models.base_folder import identify_base
from fedlpp_cli.records.headers import CheckpointHeader, PackageHeader, ProxyHeader
from fedlpp_cli.records.specs import TaskSpec, TrainSpec

SPEC = TrainSpec(steps=3, batch_size=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def parties(tmp_path_factory, llama, bert):
    """A language model with a public base, one with a private base, and a classifier; sent, and read only."""
    folder = tmp_path_factory.mktemp("parties")
    found = {
        "public": Federation(folder / "public", llama, train=SPEC),
        "private": Federation(folder / "private", llama, train=SPEC, private_base=True),
        "classes": Federation(
            folder / "classes", bert, train=SPEC, task=TaskSpec(kind="seq-cls", max_length=32, labels=LABELS)
        ),
    }
    for federation in found.values():
        federation.init()
        federation.send(0)
    return found


@pytest.fixture(scope="module")
def checkpoint(parties, tmp_path_factory):
    """The checkpoint of the public federation's client, at its last step."""
    folder = tmp_path_factory.mktemp("checkpoint")
    from fedlpp_cli.steps import checkpoints, client_train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "remove", lambda self: None)
        federation = parties["public"]
        client_train.client_train(
            federation.package(0), client="a", data=federation.data("a"), base=federation.base, device="cpu",
            out=folder / "u", checkpoint=checkpoints.Checkpointing(path=folder / "c"),
        )  # fmt: skip
    return folder / "c"


def rows(*lines):
    def make(parties, folder):
        (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return {"--data": folder / "rows.jsonl"}

    return make


def labelled(label):
    def make(parties, folder):
        return {"--data": write_jsonl(folder / "rows.jsonl", [*label_rows(3, seed=0), {"text": "ab", "label": label}])}

    return make


def table(text):
    def make(parties, folder):
        (folder / "rows.csv").write_text(text)
        return {"--data": folder / "rows.csv"}

    return make


def changed_base(name, content):
    """The agreed model with one file of its tokenizer changed, or one more."""

    def make(parties, folder):
        base = shutil.copytree(parties["public"].base, folder / "base")
        text = (base / name).read_text() if (base / name).exists() else ""
        (base / name).write_text(content(text))
        return {"--base": base}

    return make


def changed_private_tokenizer(parties, folder):
    package = shutil.copytree(parties["private"].package(0), folder / "package")
    tokenizer = package / "base" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    return {"package": package}


def around(proxy, folder):
    """A package with right digests around a forged proxy."""
    header = header_of(proxy)
    parents = {"proxy": (sha256_of(proxy),)}

    def manifest(files):
        old = open_folder(folder / "old", PackageHeader).header
        return replace(old, parents=parents, federation=header.federation, round=header.round, files=files)

    write_folder(folder / "package", {"proxy.safetensors": proxy, "README.md": b"hello"}, manifest)
    return folder / "package"


def too_long(parties, folder):
    """A package whose texts are longer than the model: `init` refuses it, somebody else's tool may not."""
    shutil.copytree(parties["public"].package(0), folder / "old")
    spec = header_of(parties["public"].proxy(0)).spec
    task = replace(spec.model.task, max_length=65)
    proxy = reforge(
        parties["public"].proxy(0), folder / "proxy", kind=ProxyHeader,
        spec=replace(spec, model=replace(spec.model, task=task)),
    )  # fmt: skip
    return {"package": around(proxy, folder)}


def unknown_tokens(parties, folder):
    """An agreed tokenizer that is that of a larger model."""
    shutil.copytree(parties["public"].package(0), folder / "old")
    base = shutil.copytree(parties["public"].base, folder / "base")
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"].values()) + 100
    tokenizer["added_tokens"].append({
        "id": last, "content": "zz", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": False,
    })  # fmt: skip
    tokenizer["model"]["vocab"]["zz"] = last
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    spec = header_of(parties["public"].proxy(0)).spec
    model = replace(spec.model, base=identify_base(base, private=False, hub=None))
    proxy = reforge(parties["public"].proxy(0), folder / "proxy", kind=ProxyHeader, spec=replace(spec, model=model))
    data = write_jsonl(folder / "rows.jsonl", [*prompt_rows(3, seed=0), {"prompt": "ab", "completion": "zz"}])
    return {"package": around(proxy, folder), "--base": base, "--data": data}


def kept(change):
    """A checkpoint that is there already."""

    def make(parties, folder, checkpoint):
        shutil.copy(checkpoint, folder / "kept")
        change(folder / "kept")
        return {"--checkpoint": folder / "kept"}

    return make


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def of_another_client(path):
    spec = header_of(path).spec
    reforge(path, path.with_name("forged"), kind=CheckpointHeader,
            spec=replace(spec, training=replace(spec.training, client="b")))  # fmt: skip
    path.with_name("forged").rename(path)


def of_another_recipe(parties, folder, checkpoint):
    shutil.copy(checkpoint, folder / "kept")
    pack(parties["public"].proxy(0), out=folder / "package", train=replace(SPEC, steps=4), ledger=folder / "ledger")
    return {"package": folder / "package", "--checkpoint": folder / "kept"}


ROW = '{"prompt": "ab ", "completion": "cd"}'
CASES = {
    "no rows": ("public", 3, "data", rows(), "no rows"),
    "nothing but empty lines": ("public", 3, "data", rows("", "  "), "no rows"),
    "a table without rows": ("public", 3, "data", table("prompt,completion\n"), "no rows"),
    "no file": ("public", 3, "input", lambda *_: {"--data": "gone.jsonl"}, "no such data file"),
    "a file of another kind": ("public", 3, "input", lambda *_: {"--data": __file__}, "cannot tell how to read '.py'"),
    "not JSON": ("public", 3, "data", rows(ROW, "{"), "line 2: not JSON"),
    "not UTF-8": ("public", 3, "data", lambda parties, folder: latin(folder), "line 1: not JSON"),
    "a field that is missing": ("public", 3, "data", rows(ROW, '{"prompt": "ab"}'), "line 2: no field 'completion'"),
    "a field that is null": ("public", 3, "data", rows('{"prompt": "ab", "completion": null}'), "completion' is null"),
    "an empty text": ("public", 3, "data", rows('{"text": ""}'), "'text' is empty"),
    "cells that are missing": ("public", 3, "data", table("prompt,completion\nab\n"), "another number of cells"),
    "a text without any token": (
        "classes", 3, "data",
        lambda _, folder: {"--data": write_jsonl(folder / "r.jsonl", [{"text": "ZZZ", "label": "first"}])},
        "line 1: the tokenizer knows nothing of what is in field 'text'",
    ),
    "a label of no class": ("classes", 3, "data", labelled("fourth"), "line 4: label 'fourth'; this federation has"),
    "a label's number out of range": ("classes", 3, "data", labelled(3), "line 4: label 3; this federation has"),
    "a negative label": ("classes", 3, "data", labelled(-1), "label -1"),
    "a label that is a truth": ("classes", 3, "data", labelled(True), "label True"),
    "a label that is null": ("classes", 3, "data", labelled(None), "label None"),
    "another tokenizer": (
        "public", 3, "model", changed_base("tokenizer.json", lambda text: text + " "), "the agreed base model has",
    ),
    "another end of texts": (
        "public", 3, "model", changed_base("tokenizer_config.json", lambda text: text.replace("</s>", "<s>")),
        "tokenizer_config.json: sha256 is",
    ),
    "one more file of the tokenizer": (
        "public", 3, "model", changed_base("special_tokens_map.json", lambda _: "{}"), "is not part of the agreed",
    ),
    "another tokenizer in the package": (
        "private", 4, "artifact-digest", changed_private_tokenizer, "tokenizer.json",
    ),
    "texts longer than the model": ("public", 3, "model", too_long, "max_length is 65, this llama model has 64"),
    "tokens that the model does not know": ("public", 3, "model", unknown_tokens, "the tokenizer gives token"),
    "a checkpoint that is cut short": ("public", 4, "artifact", kept(cut), "kept"),
    "a checkpoint that is none": ("public", 4, "artifact", kept(lambda path: path.write_text("hello")), "kept"),
    "a checkpoint of another client": ("public", 5, "lineage", kept(of_another_client), "client is b, here it is a"),
    "a checkpoint of another recipe": ("public", 5, "lineage", of_another_recipe, "package is"),
    "a folder for a checkpoint": ("public", 2, "usage", lambda _, folder: {"--checkpoint": folder}, "a file is needed"),
    "a checkpoint on the Hub": ("public", 7, "secrecy", lambda *_: {"--checkpoint": "hf://o/r/c"}, "not written to"),
    "no number of steps": (
        "public", 2, "usage", lambda *_: {"--checkpoint": "c", "--checkpoint-every": "0"}, "a number of steps such as",
    ),
    "an interval without a checkpoint": (
        "public", 2, "usage", lambda *_: {"--checkpoint-every": "5"}, "go with --checkpoint PATH",
    ),
    "a log of another kind": ("public", 2, "usage", lambda *_: {"--log": "losses.txt"}, r"ends in .jsonl"),
}  # fmt: skip


def latin(folder):
    (folder / "rows.jsonl").write_bytes('{"text": "é"}\n'.encode("latin-1"))
    return {"--data": folder / "rows.jsonl"}


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_an_exit_code_and_nothing_touched(case, parties, checkpoint, runner, tmp_path):
    name, exit_code, code, make, said = CASES[case]
    federation, work, out = parties[name], tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    (out / "update").write_text("the update of before")
    (out / "state").write_text("the state of before")
    needs_checkpoint = make.__code__.co_argcount == 3
    options = make(parties, work, checkpoint) if needs_checkpoint else make(parties, work)
    data = write_jsonl(tmp_path / "good.jsonl", label_rows(6, seed=1) if name == "classes" else prompt_rows(12, seed=0))
    if needs_checkpoint:
        data = federation.data("a")
    arguments = {
        "--client": "a", "--data": data, "--device": "cpu", "--out": out / "update", "--state-out": out / "state",
        **({} if name == "private" else {"--base": federation.base}), **options,
    }  # fmt: skip
    package = arguments.pop("package", federation.package(0))
    call = ["client-train", package, *(word for option in arguments.items() for word in option), "--force", "--json"]
    before = content(work), content(out)
    result = runner.invoke(app, [str(word) for word in call])
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (exit_code, code), error
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in result.stderr
    assert (content(work), content(out)) == before


def test_one_example_is_enough_and_is_worth_a_warning(parties, runner, tmp_path):
    federation = parties["public"]
    data = write_jsonl(tmp_path / "one.jsonl", prompt_rows(1, seed=0))
    call = ["client-train", federation.package(0), "--base", federation.base, "--client", "a", "--data", data,
            "--device", "cpu", "--out", tmp_path / "u"]  # fmt: skip
    shown = runner.invoke(app, [str(word) for word in call])
    assert shown.exit_code == 0
    assert "trained on one example: the update tells what is in it" in shown.stdout
