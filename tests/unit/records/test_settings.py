"""The federation file: options first, then the file, then defaults; errors say where and what instead."""

from pathlib import Path

import pytest

from fedlpp_cli.errors import SettingsError, UsageError
from fedlpp_cli.records.settings import SECTIONS, Settings, read_settings
from fedlpp_cli.records.specs import (
    DEFAULT_STEPS,
    FULL_PRECISION,
    AggregateSpec,
    LoraSpec,
    QuantSpec,
    TaskSpec,
    TrainSpec,
)
from fedlpp_cli.refs import HubRef


@pytest.fixture
def settings_of(tmp_path):
    """Write a federation file and read it."""

    def settings_of(text):
        path = tmp_path / "federation.toml"
        path.write_text(text, encoding="utf-8")
        return read_settings(path)

    return settings_of


def test_an_option_wins_over_the_file_and_the_file_over_the_default(settings_of):
    settings = settings_of("[lora]\nrank = 4\nalpha = 2.0\n")
    spec = settings.resolve(LoraSpec, rank=2, alpha=None, dropout=None)
    assert (spec.rank, spec.alpha, spec.dropout) == (2, 2.0, LoraSpec().dropout)


def test_without_a_file_there_are_options_and_defaults():
    settings = read_settings(None)
    assert settings == Settings()
    assert settings.resolve(LoraSpec) == LoraSpec()
    assert settings.resolve(QuantSpec, bits="4").bits == "4"
    assert settings.client_data("a") is None


def test_a_false_option_is_given_and_not_missing(settings_of):
    settings = settings_of("[lora]\nuse_rslora = true\ndropout = 0.5\n")
    spec = settings.resolve(LoraSpec, use_rslora=False, dropout=0.0)
    assert (spec.use_rslora, spec.dropout) == (False, 0.0)


def test_single_values_are_chosen_in_the_same_order(settings_of):
    settings = settings_of("seed = 7\nprivate_base = false\n")
    assert settings.choose(3, "seed", default=0) == 3
    assert settings.choose(0, "seed", default=1) == 0
    assert settings.choose(None, "seed", default=0) == 7
    assert settings.choose(None, "private_base", default=True) is False
    assert Settings().choose(None, "seed", default=5) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown field 'colour'; known here: .*base, .*clients, .*train"),
        ("[trian]\nsteps = 1", "unknown field 'trian'; known here: .*train"),
        ("[train]\nstep = 1", r"\[train\]: unknown field 'step'; known here: steps, epochs, "),
        ("[lora]\nr = 1", r"\[lora\]: unknown field 'r'; known here: rank, "),
        (
            "[base_quantize]\nbits = 4",
            r"\[base_quantize\]: unknown field 'bits'; known here: format, block, double, keep, mask, mask_scaling$",
        ),
        ('"a.b" = 1', r"unknown field 'a\.b'; known here: "),
        ('["a[0]"]', r"unknown field 'a\[0\]'; known here: "),
        ('[train]\n"a.b" = 1', r"\[train\]: unknown field 'a\.b'; known here: "),
    ],
)
def test_an_unknown_name_is_found_when_the_file_is_read(settings_of, text, message):
    with pytest.raises(SettingsError, match=message):
        settings_of(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("seed = -1", "seed"),
        ('seed = "1"', "seed"),
        ('private_base = "yes"', "private_base"),
        ("base = 1", "base"),
        ("train = 1", "train"),
        ('clients = ["a"]', "clients"),
        ('[clients]\n"../a" = "b"', "clients"),
        ("[clients]\na = 1", "clients"),
        ("[columns]\ntext = 1", "columns"),
        ("[lora]\nalpha = inf", "lora.alpha: a finite number is needed"),
        ("[train]\nlearning_rate = nan", "train.learning_rate: a finite number is needed"),
    ],
)
def test_a_bad_value_at_the_top_is_found_when_the_file_is_read(settings_of, text, field):
    with pytest.raises(SettingsError, match=rf"federation\.toml: {field}"):
        settings_of(text)


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("quantize", 'bits = "7"', "bits: .*; choose from ternary, 2, 3, 4, 5, 6, 8, full"),
        ("quantize", "bits = 3", "bits: .*; choose from ternary, 2, 3, 4, 5, 6, 8, full"),
        ("train", 'steps = 1\nschedule = "poly"', "schedule: .*; choose from constant, linear, cosine"),
        ("lora", "rank = 0", "rank: Expected `int` >= 1"),
        ("lora", "rank = 4.0", "rank: Expected `int`, got `float`"),
        ("train", "steps = 1\nepochs = 1", "steps, epochs: set one of them"),
        ("task", 'labels = ["a", "a"]\nkind = "seq-cls"', "labels: a name stands twice"),
    ],
)
def test_a_bad_value_in_a_section_names_file_section_and_field(settings_of, section, line, message):
    settings = settings_of(f"[{section}]\n{line}\n")
    with pytest.raises(SettingsError, match=rf"federation\.toml \[{section}\]: {message}"):
        settings.resolve(SECTIONS[section])


def test_a_bad_option_without_a_file_names_the_section_and_the_choices():
    with pytest.raises(SettingsError, match=r"^aggregate: weighting: .*; choose from examples, equal, product-norm$"):
        read_settings(None).resolve(AggregateSpec, weighting="size")


def test_a_lone_string_stands_for_a_list_of_one(settings_of):
    settings = settings_of('[lora]\ntarget_modules = "q_proj"\n[task]\nkind = "seq-cls"\nlabels = ["a", "b"]\n')
    assert settings.resolve(LoraSpec).target_modules == ("q_proj",)
    assert settings.resolve(LoraSpec, modules_to_save="score").modules_to_save == ("score",)
    assert settings.resolve(TaskSpec).labels == ("a", "b")


@pytest.mark.parametrize(("in_file", "option"), [("steps = 5", {"epochs": 2.0}), ("epochs = 5.0", {"steps": 2})])
def test_an_option_for_steps_or_epochs_takes_the_place_of_either_in_the_file(settings_of, in_file, option):
    settings = settings_of(f"[train]\n{in_file}\nbatch_size = 3\n")
    spec = settings.resolve(TrainSpec, **option)
    assert {"steps": spec.steps, "epochs": spec.epochs} == {"steps": None, "epochs": None, **option}
    assert spec.batch_size == 3


def test_without_steps_or_epochs_anywhere_there_is_a_number_of_steps(settings_of):
    for settings in (Settings(), settings_of("[train]\nbatch_size = 3\n")):
        assert settings.resolve(TrainSpec).steps == DEFAULT_STEPS
    assert settings_of("[train]\nepochs = 2\n").resolve(TrainSpec).steps is None


def test_both_options_at_once_are_refused(settings_of):
    for settings in (Settings(), settings_of("[train]\nsteps = 1\n")):
        with pytest.raises(SettingsError, match="steps, epochs: set one of them"):
            settings.resolve(TrainSpec, steps=1, epochs=1.0)


def test_paths_in_the_file_are_relative_to_the_file(settings_of, tmp_path):
    settings = settings_of('base = "models/a"\ntest_data = "/data/test.jsonl"\n[clients]\na = "../a.jsonl"\n')
    assert settings.ref(None, "base") == tmp_path / "models/a"
    assert settings.ref(None, "test_data") == Path("/data/test.jsonl")
    assert settings.client_data("a") == tmp_path / "../a.jsonl"
    assert settings.client_data("b") is None


def test_a_path_in_an_option_is_relative_to_where_the_command_runs(settings_of):
    assert settings_of('base = "models/a"\n').ref("models/b", "base") == Path("models/b")


def test_an_address_in_the_file_is_no_path(settings_of):
    settings = settings_of('base = "hf://a/b@v1"\n[clients]\na = "hf://datasets/a/b"\n')
    assert settings.ref(None, "base") == HubRef("model", "a/b", "v1", "")
    assert settings.client_data("a") == HubRef("dataset", "a/b", None, "")


def test_a_missing_reference_is_answered_with_the_option_and_the_line_to_write():
    settings = Settings()
    assert settings.ref(None, "base") is None
    with pytest.raises(UsageError, match=r"^--test-data is missing$") as caught:
        settings.needed_ref(None, "test_data")
    assert "test_data = " in caught.value.hint
    with pytest.raises(UsageError, match=r"^--data is missing$"):
        settings.needed_ref(None, "test_data", flag="--data")
    assert settings.needed_ref("a", "base") == Path("a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = ", "not a TOML file"),
        (b"seed = 1\nseed = 2\n", "not a TOML file"),
        (b"name = '\xff'", "not a TOML file"),
        (b"\0", "not a TOML file"),
        (b"a = " + b"[" * 50_000 + b"]" * 50_000, "not a TOML file"),
        (b"a = " + b"{b = " * 50_000 + b"1" + b"}" * 50_000, "not a TOML file"),
    ],
    ids=["half a line", "a name twice", "not UTF-8", "NUL", "deep lists", "deep tables"],
)
def test_what_is_no_toml_is_refused(tmp_path, content, message):
    path = tmp_path / "federation.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        read_settings(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(str(tmp_path))


def test_an_empty_file_says_nothing(settings_of, tmp_path):
    settings = settings_of("")
    assert settings.path == tmp_path / "federation.toml"
    assert settings.file == Settings().file
    for kind in (LoraSpec, QuantSpec, AggregateSpec):
        assert settings.resolve(kind) == kind()


STOCHASTIC = '[quantize]\nbits = "4"\nrounding = "stochastic"\nrounding_seed = "spring"\nscale_rounding = "up"\n'


def test_an_option_that_rounds_otherwise_leaves_out_what_the_file_says_of_rounding(settings_of):
    settings = settings_of(STOCHASTIC)
    file = {"bits": "4", "rounding": "stochastic", "rounding_seed": "spring", "scale_rounding": "up"}
    assert settings.resolve(QuantSpec) == QuantSpec(**file)
    assert settings.resolve(QuantSpec, rounding_seed="b") == QuantSpec(**file | {"rounding_seed": "b"})
    assert settings.resolve(QuantSpec, rounding="nearest") == QuantSpec(bits="4", scale_rounding="up")
    assert settings.resolve(QuantSpec, bits="full") == QuantSpec(bits="full")
    assert settings_of("").resolve(QuantSpec, rounding="nearest") == QuantSpec()


@pytest.mark.parametrize(
    "options",
    [
        {"rounding": "stochastic"},
        {"rounding_seed": "a"},
        {"rounding": "nearest", "rounding_seed": "a"},
        {"bits": "full", "scale_rounding": "up"},
        {"rounding": "stochastic", "rounding_seed": "no spaces"},
    ],
)
def test_options_of_rounding_that_do_not_go_together_are_refused(options):
    with pytest.raises(SettingsError, match=r"quantize: (rounding_seed|bits): "):
        Settings().resolve(QuantSpec, **options)


def test_a_section_of_a_class_that_two_have_is_named(settings_of):
    settings = settings_of('[quantize]\nbits = "2"\n[update]\nbits = "4"\nblock = 32\n')
    assert settings.resolve(QuantSpec) == QuantSpec(bits="2")
    assert settings.resolve(QuantSpec, "update") == QuantSpec(bits="4", block=32)
    assert settings.resolve(QuantSpec, "update", bits="3", scale=None) == QuantSpec(bits="3", block=32)


def test_updates_are_in_full_precision_where_nothing_else_is_said(settings_of):
    for settings in (Settings(), settings_of('[quantize]\nbits = "2"\n')):
        assert settings.resolve(QuantSpec, "update") == FULL_PRECISION
    with pytest.raises(SettingsError, match=r"federation\.toml \[update\]: bits: .*; choose from ternary"):
        settings_of('[update]\nbits = "7"\n').resolve(QuantSpec, "update")
    with pytest.raises(SettingsError, match=r"\[update\]: unknown field 'bit'; known here: bits, block"):
        settings_of('[update]\nbit = "4"\n')
