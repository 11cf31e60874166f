"""The chosen setting as a federation file, and which setting is chosen."""

import dataclasses
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from fedlpp_cli.cli.settings_file import federation_of
from fedlpp_cli.errors import OutputExistsError
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.planning.candidates import Candidate
from fedlpp_cli.planning.choice import choice_text, write_choice
from fedlpp_cli.planning.finalists import finalists
from fedlpp_cli.planning.verdict import choose, verdict, way_out
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.plans import PlanRow, PlanTargets
from fedlpp_cli.records.settings import Settings, read_settings
from fedlpp_cli.records.specs import BaseQuantSpec, QuantSpec

FILE = """
seed = 3
base = "model"
private_base = true
test_data = "data/test é.jsonl"
[task]
kind = "seq-cls"
labels = ["a \\"b\\"", "tab\\there", "del\\u007f"]
[lora]
rank = 4
target_modules = ["query"]
[quantize]
bits = "3"
rounding = "stochastic"
rounding_seed = "spring"
[base_quantize]
keep = ["embeddings", "output"]
[train]
epochs = 1.5
[update]
bits = "4"
[aggregate]
server_learning_rate = 1.0
server_optimizer = "adam"
[evaluate]
batch_size = 4
[columns]
text = "body"
[clients]
north = "data/north.jsonl"
south = "hf://datasets/a/b/south.jsonl"
"""


@pytest.fixture
def given(tmp_path):
    file = tmp_path / "in" / "federation.toml"
    file.parent.mkdir()
    file.write_text(FILE, encoding="utf-8")
    return read_settings(file)


def candidate(**fields):
    spec = QuantSpec(bits="2", block=32, scale="double", rounding="stochastic", rounding_seed="spring",
                     groups={"lora_B": "4", "query.lora_A": "full"})  # fmt: skip
    return Candidate(**{
        "quantize": spec, "rank": 2, "combine": "factors", "base_quantize": BaseQuantSpec(format="nf3"), **fields,
    })  # fmt: skip


def test_commands_read_out_of_the_file_what_was_chosen(given, tmp_path):
    federation = candidate().federation(federation_of(given, base=None, seed=None))
    out = tmp_path / "elsewhere" / "planned.toml"
    write_choice(out, federation, given, ["made by a test", "rho 0.5"], force=False)
    assert out.read_text(encoding="utf-8").startswith("# made by a test\n# rho 0.5\nseed = 3\n")
    read = read_settings(out)
    found = federation_of(read, base=None, seed=None)
    assert Path(found.base).resolve() == Path(federation.base).resolve()
    assert os.path.relpath(given.path.parent / "model", out.parent) == read.file.base
    for name in ("private_base", "seed", "task", "lora", "quantize", "proxy_rank", "base_quantize", "train", "update",
                 "aggregate"):  # fmt: skip
        assert getattr(found, name) == getattr(federation, name), name
    assert read.file.evaluate == given.file.evaluate
    assert read.file.columns == given.file.columns
    assert read.client_data("north").resolve() == given.client_data("north").resolve()
    assert str(read.client_data("south")) == "hf://datasets/a/b/south.jsonl"
    assert read.ref(None, "test_data").resolve() == given.ref(None, "test_data").resolve()
    with pytest.raises(OutputExistsError):
        write_choice(out, federation, given, [], force=False)


@pytest.mark.parametrize("method", ["fedlpp", "fedqsn"])
@pytest.mark.parametrize("mask", [MaskSpec(), MaskSpec(server=0.1, client=0.25), MaskSpec(client=0.5, scaling=False)])
def test_masks_are_written_where_the_method_says_otherwise(given, tmp_path, method, mask):
    told = dataclasses.replace(federation_of(given, base=None, seed=None), method=method)
    out = tmp_path / "planned.toml"
    write_choice(out, candidate(mask=mask).federation(told), given, [], force=False)
    assert federation_of(read_settings(out), base=None, seed=None).mask == mask
    assert ("[mask]" in out.read_text()) == (mask != method_named(method).mask)


def test_the_same_choice_gives_the_same_bytes_and_no_path_of_the_machine(given, tmp_path):
    federation = candidate(base_quantize=None).federation(federation_of(given, base=None, seed=None))
    texts = [choice_text(tmp_path / "out.toml", federation, given, []) for _ in range(2)]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]
    assert "base_quantize" not in texts[0]
    assert "private_base" not in texts[0]


def test_without_a_file_the_defaults_are_not_spelled_out(tmp_path):
    federation = federation_of(Settings(), base="model", seed=None)
    text = choice_text(tmp_path / "out.toml", federation, Settings(), [])
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[quantize]"]


def row(label, **fields):
    made = PlanRow(label=label, quantize=QuantSpec(), rank=4, combine="factors", bytes_down=100, bytes_up=1)
    if "rho" in fields:
        fields.setdefault("central", {"loss": 1.0})
    return replace(made, **fields)


ROWS = [
    row("large", bytes_down=300, rho=0.3),
    row("small", bytes_down=100, rho=0.8),
    row("middle", bytes_down=200, rho=0.5),
    row("forgetful", bytes_down=50, rho=0.1, central={"loss": 2.0}),
    row("unknown", bytes_down=10),
    row("undefined", bytes_down=20, rho=None),
    row("open", bytes_down=5, rho=0.0, for_comparison=True),
]


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        ({}, "large"),
        ({"max_rho": 0.9}, "forgetful"),
        ({"max_rho": 0.9, "max_loss_increase": 0.1}, "small"),
        ({"max_rho": 0.6, "max_loss_increase": 0.1}, "middle"),
        ({"max_rho": 0.4, "max_loss_increase": 0.1}, "large"),
        ({"max_rho": 0.4, "max_loss_increase": 0.1, "max_bytes_down": 299}, None),
        ({"max_rho": 0.05}, None),
        ({"max_bytes_down": 30}, "undefined"),
    ],
)
def test_the_fewest_bytes_among_those_that_meet_every_target(targets, chosen):
    index = choose(ROWS, PlanTargets(**targets), 1.0, 5.0)
    assert (None if index is None else ROWS[index].label) == chosen
    said = verdict(ROWS, PlanTargets(**targets), index, gain_is_told=True)
    assert (chosen or "none of the 6 settings") in said
    assert chosen or "the smallest rho is 0.10" in said
    assert "not told from the base" in verdict(ROWS, PlanTargets(**targets), index, gain_is_told=False)


def test_what_gives_nearly_all_away_is_said_to():
    rows = [row("open", rho=0.97)]
    assert "nearly all" in verdict(rows, PlanTargets(), 0, gain_is_told=True)
    assert "nearly all" not in verdict([row("shut", rho=0.5)], PlanTargets(), 0, gain_is_told=True)


def test_what_to_try_is_said_by_what_was_in_the_way():
    told, untold, unplayed = row("told", rho=0.5), row("untold", rho=None), row("unplayed", central={})
    assert way_out([told, untold, unplayed]).endswith("a target that can be met")
    assert way_out([untold, unplayed]).startswith("more --rounds")
    assert way_out([unplayed]) == "a larger --budget"
    assert "no setting's rounds were played" in verdict([unplayed], PlanTargets(max_rho=0.5), None, gain_is_told=True)


def test_finalists_are_those_that_nothing_beats_and_they_span_what_there_is():
    def probed(label, n_bytes, increase, cosine, score, **fields):
        return row(label, bytes_down=n_bytes, loss_increase=increase, cosine=cosine, score=score, **fields)

    rows = [
        probed("wide", 400, 0.0, 0.99, 0.1),
        probed("beaten", 400, 0.0, 0.98, 0.2),
        probed("middle", 300, 0.6, 0.9, -0.5),
        probed("narrow", 200, 0.5, 0.6, 0.3),
        probed("worse than the base", 100, 5.0, 0.7, 0.4),
        row("failed", skipped="the loss is not finite"),
        probed("open", 10, 0.0, 1.0, 0.0, for_comparison=True),
        probed("open too", 10, 0.0, 1.0, -0.1, for_comparison=True),
    ]
    labels = [rows[index].label for index in finalists(rows, 1.0, 9)]
    assert labels == ["middle", "wide", "worse than the base", "open too"]
    rows[4] = replace(rows[4], loss_increase=0.4)  # nothing beats narrow now
    labels = [rows[index].label for index in finalists(rows, 1.0, 9)]
    assert labels == ["middle", "wide", "worse than the base", "narrow", "open too"]
    assert [rows[index].label for index in finalists(rows, 1.0, 2)] == ["middle", "wide", "open too"]
    assert [rows[index].label for index in finalists(rows, 1.0, 9, 250)] == [
        "narrow",
        "worse than the base",
        "open too",
    ]
    assert finalists(rows[5:6], 1.0, 9) == []


def test_without_a_target_a_model_that_forgot_comes_last():
    rows = [row("forgetful", rho=0.1, central={"loss": 1.6}), row("sound", rho=0.9, central={"loss": 1.4})]
    assert choose(rows, PlanTargets(), 1.0, 5.0) == 1
    assert choose(rows[:1], PlanTargets(), 1.0, 5.0) == 0
