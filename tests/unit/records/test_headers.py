"""Headers: what is written reads back, and nothing out of bounds is read."""

import copy
import json

import pytest

from fedlpp_cli import canonical
from fedlpp_cli.errors import ArtifactError, FormatVersionError, LineageError
from fedlpp_cli.records.checkpoints import CheckpointSpec, TrainingIdentity
from fedlpp_cli.records.headers import (
    HEADERS,
    MAX_HEADER_BYTES,
    AggregateReport,
    BaseArtifactSpec,
    BaseHeader,
    CheckpointHeader,
    ClientContribution,
    EvaluateReport,
    EvaluateRow,
    FileEntry,
    Header,
    MasterHeader,
    PackageHeader,
    PackageSpec,
    ProxyHeader,
    ProxySpec,
    ReportHeader,
    StateHeader,
    StateSpec,
    TranscriptHeader,
    UpdateHeader,
    UpdateSpec,
    check_kind,
    decode_header,
    encode_header,
)
from fedlpp_cli.records.masters import MasterSpec
from fedlpp_cli.records.specs import (
    AggregateSpec,
    BaseQuantSpec,
    BaseSpec,
    LoraSpec,
    ModelSpec,
    QuantSpec,
    TaskSpec,
    TrainMetrics,
    TrainSpec,
)
from fedlpp_cli.records.transcripts import InputsSpec, TranscriptSpec

DIGEST, OTHER = "0123456789abcdef" * 4, "f" * 64
LINEAGE = {"federation": DIGEST, "round": 3, "parents": {"master": (OTHER,)}}
MODEL = ModelSpec(
    base=BaseSpec(model_type="llama", private=False, hub="hf://a/b@main", files={"config.json": DIGEST}),
    task=TaskSpec(),
    lora=LoraSpec(target_modules=("model.layers.0.q_proj",), modules_to_save=("score",)),
)
CLASSIFIER = ModelSpec(
    base=BaseSpec(model_type="bert", private=True, hub=None, files={}),
    task=TaskSpec(kind="seq-cls", labels=("yes", "nö")),
    lora=LoraSpec(rank=1024, alpha=0.5, dropout=0.25, use_rslora=True),
)
FILES = (FileEntry(name="proxy.safetensors", size=10, sha256=DIGEST), FileEntry(name="base/a", size=0, sha256=OTHER))
METRICS = TrainMetrics(n_examples=7, n_steps=3, n_tokens=0, loss_first=1.5, loss_last=-0.25, update_norm=1e-7)
CONTRIBUTION = ClientContribution(
    client="a", update=OTHER, n_examples=7, weight=1.0, update_norm=0.5, cosine=None, loss_first=1.0, loss_last=0.5
)

SAMPLES = {
    "first master": MasterHeader(
        federation=None,
        round=0,
        parents={},
        spec=MasterSpec(model=MODEL, seed=2**53, quantize=None, aggregate=None),
    ),
    "later master": MasterHeader(
        **LINEAGE,
        spec=MasterSpec(
            model=CLASSIFIER, seed=0, quantize=QuantSpec(), aggregate=AggregateSpec(update_rule=4, n_rounds=5)
        ),
    ),
    "proxy": ProxyHeader(
        **LINEAGE,
        spec=ProxySpec(model=MODEL, quantize=QuantSpec(bits="ternary", scale="double"), shapes={"a.lora_A": (8, 16)}),
    ),
    "base": BaseHeader(
        **LINEAGE,
        spec=BaseArtifactSpec(quantize=BaseQuantSpec(), model_type="llama", unquantized={"norm.weight": "BF16"}),
        files=FILES,
    ),
    "package": PackageHeader(
        **LINEAGE, spec=PackageSpec(client=None, train=TrainSpec(steps=1, max_update_norm=2.0)), files=FILES
    ),
    "package for one": PackageHeader(
        **LINEAGE, spec=PackageSpec(client="a", train=TrainSpec(epochs=0.5, optimizer="sgd", momentum=0.9)), files=()
    ),
    "update": UpdateHeader(**LINEAGE, spec=UpdateSpec(client="a_b-9", metrics=METRICS)),
    "state": StateHeader(**LINEAGE, spec=StateSpec(client="a_b-9")),
    "checkpoint": CheckpointHeader(
        **LINEAGE,
        spec=CheckpointSpec(
            training=TrainingIdentity(
                client="a_b-9", data=DIGEST, train=TrainSpec(steps=9), setup={"torch": "2.13.0+cpu"}
            ),
            n_steps=4,
            n_tokens=100,
            loss_first=1.5,
            loss_last=0.1,
            values={"gate.n_high": 0, "gate.loss_first": 1.5, "a.b_c": None, "a.d": True, "a.e-F": "0f"},
        ),
    ),
    "transcript": TranscriptHeader(
        federation=None,
        round=0,
        parents={},
        spec=TranscriptSpec(
            teacher="north",
            task=TaskSpec(),
            vocabulary=DIGEST,
            n_outcomes=2**24,
            top_k=8,
            n_inputs=10,
            inputs=InputsSpec(source="templates", seed=1, templates=OTHER),
        ),
    ),
    "transcript of a master": TranscriptHeader(
        **LINEAGE,
        spec=TranscriptSpec(
            teacher="north",
            task=TaskSpec(kind="seq-cls", labels=("yes", "nö")),
            vocabulary=None,
            n_outcomes=2,
            targets="scores",
            top_k=2,
            n_inputs=10,
            inputs=InputsSpec(source="random"),
        ),
    ),
    "aggregate report": ReportHeader(
        **LINEAGE,
        spec=AggregateReport(
            aggregate=AggregateSpec(),
            n_clients=1,
            n_tensors=2,
            n_parameters=3,
            mean_norm=0.5,
            step_norm=0.25,
            clients=(CONTRIBUTION,),
        ),
    ),
    "evaluate report": ReportHeader(
        federation=None,
        round=0,
        parents={},
        spec=EvaluateReport(
            task=TaskSpec(),
            data=DIGEST,
            n_examples=5,
            n_cut=0,
            generation={"num_beams": 1},
            rows=(EvaluateRow(model="base", artifact=None, detail="", scores={"loss": 0.5}),),
        ),
    ),
}

PLAIN = {name: json.loads(encode_header(header)) for name, header in SAMPLES.items()}


def decode(plain):
    return decode_header(canonical.encode(plain), source="somewhere")


def place_of(plain, path):
    """Where a path like "spec/files/0/name" ends: the object or list, and the last key."""
    *folders, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    for part in folders:
        plain = plain[part]
    return plain, last


def changed(sample, path, value):
    """The sample's JSON with one value set."""
    plain = copy.deepcopy(PLAIN[sample])
    place, key = place_of(plain, path)
    place[key] = value
    return plain


def without(sample, path):
    plain = copy.deepcopy(PLAIN[sample])
    place, key = place_of(plain, path)
    del place[key]
    return plain


def test_every_kind_has_a_sample():
    assert {header.kind for header in SAMPLES.values()} == set(HEADERS)
    assert set(HEADERS.values()) == set(Header.__subclasses__())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_header_reads_back_as_it_was_written(name):
    header = SAMPLES[name]
    raw = encode_header(header)
    found = decode_header(raw, source="somewhere")
    assert type(found) is type(header)
    assert found == header
    assert encode_header(found) == raw


@pytest.mark.parametrize("name", SAMPLES)
def test_a_header_says_its_kind_and_nothing_of_where_or_when_it_was_made(name):
    header = SAMPLES[name]
    assert HEADERS[PLAIN[name]["kind"]] is type(header)
    assert set(PLAIN[name]) - {"files"} == {
        "kind", "format", "federation", "round", "method", "parents", "producer", "spec",
    }  # fmt: skip


BOUNDS = [
    # sample, path, the last good value, the first bad one
    ("update", "round", 2**53, 2**53 + 1),
    ("update", "round", 0, -1),
    ("update", "method", "a" * 32, "a" * 33),
    ("update", "method", "a-0", ""),
    ("update", "method", "a", "A"),
    ("update", "producer", "x" * 64, "x" * 65),
    ("update", "federation", DIGEST, DIGEST[:-1]),
    ("update", "federation", DIGEST, DIGEST + "0"),
    ("update", "federation", DIGEST, DIGEST.upper()),
    ("update", "parents", {"master": [DIGEST]}, {"master": [DIGEST[:-1]]}),
    ("update", "spec/client", "a" * 63, "a" * 64),
    ("update", "spec/client", "0-_", "-0"),
    ("update", "spec/client", "a", ""),
    ("update", "spec/client", "a", "A"),
    ("update", "spec/client", "a", "a/b"),
    ("update", "spec/client", "a", "ä"),
    ("update", "spec/metrics/n_examples", 1, 0),
    ("update", "spec/metrics/n_steps", 1, 0),
    ("update", "spec/metrics/n_tokens", 0, -1),
    ("update", "spec/metrics/update_norm", 5e-324, 0.0),
    ("first master", "spec/seed", 2**53, 2**53 + 1),
    ("first master", "spec/model/base/model_type", "a" * 64, "a" * 65),
    ("first master", "spec/model/base/model_type", "gpt_2-x", "GPT"),
    ("first master", "spec/model/base/files", {"a/b": DIGEST}, {"a/b/c": DIGEST}),
    ("first master", "spec/model/base/files", {"a..b": DIGEST}, {"../a": DIGEST}),
    ("first master", "spec/model/task/max_length", 2, 1),
    ("first master", "spec/model/task/max_length", 2**20, 2**20 + 1),
    ("first master", "spec/model/task/kind", "causal-lm", "causal_lm"),
    ("first master", "spec/model/lora/rank", 1, 0),
    ("first master", "spec/model/lora/rank", 1024, 1025),
    ("first master", "spec/model/lora/alpha", 1e-9, 0.0),
    ("first master", "spec/model/lora/dropout", 0.0, -0.1),
    ("first master", "spec/model/lora/dropout", 0.999, 1.0),
    ("first master", "spec/model/lora/target_modules", ["a.0.b-c_d"], ["a.*"]),
    ("first master", "spec/model/lora/target_modules", ["a" * 256], ["a" * 257]),
    ("first master", "spec/model/lora/target_modules", ["a.b"], ["a..b"]),
    ("first master", "spec/model/lora/modules_to_save", ["a.b"], [".a"]),
    ("later master", "spec/quantize/block", 1, 0),
    ("later master", "spec/quantize/block", 2**20, 2**20 + 1),
    ("later master", "spec/quantize/bits", "full", "7"),
    ("later master", "spec/quantize/scale", "fp32", "fp64"),
    ("later master", "spec/quantize/rounding", "nearest", "up"),
    ("later master", "spec/aggregate/server_learning_rate", 1e-9, 0.0),
    ("later master", "spec/aggregate/max_examples", 1, 0),
    ("later master", "spec/aggregate/update_rule", 1, 5),
    ("later master", "spec/aggregate/weighting", "equal", "none"),
    ("proxy", "spec/shapes/a.lora_A", [2**40 - 1], [2**40]),
    ("proxy", "spec/shapes/a.lora_A", [0], [-1]),
    ("proxy", "spec/shapes", {"a": [2**40 - 1] * 8}, {"a": [1] * 9}),
    ("base", "spec/quantize/format", "fp4", "int4"),
    ("base", "files/0/size", 0, -1),
    ("base", "files/0/size", 2**53, 2**53 + 1),
    ("base", "files/0/sha256", DIGEST, "0" * 63),
    ("base", "files/0/name", "a" * 128, "a" * 129),
    ("base", "files/0/name", "a/" + "b" * 128, "a/" + "b" * 129),
    ("package", "spec/train/steps", 1, 0),
    ("package for one", "spec/train/epochs", 1e-9, 0.0),
    ("package", "spec/train/batch_size", 1, 0),
    ("package", "spec/train/gradient_accumulation", 1, 0),
    ("package", "spec/train/learning_rate", 1e-9, 0.0),
    ("package", "spec/train/weight_decay", 0.0, -1e-9),
    ("package for one", "spec/train/momentum", 0.99, 1.0),
    ("package", "spec/train/warmup", 1.0, 1.001),
    ("package", "spec/train/warmup", 0.0, -0.001),
    ("package", "spec/train/max_grad_norm", 0.0, -1.0),
    ("package", "spec/train/max_update_norm", 1e-9, 0.0),
    ("package", "spec/train/optimizer", "adamw", "adam"),
    ("package", "spec/train/schedule", "cosine", "poly"),
    ("package", "spec/train/compute", "bf16", "fp16"),
    ("checkpoint", "spec/n_steps", 1, 0),
    ("checkpoint", "spec/n_tokens", 0, -1),
    ("checkpoint", "spec/training/client", "a", "A"),
    ("checkpoint", "spec/training/data", DIGEST, DIGEST[:-1]),
    ("checkpoint", "spec/training/setup", {"torch": "x" * 256}, {"torch": "x" * 257}),
    ("checkpoint", "spec/training/setup", {"a.B-0_c": ""}, {"A": ""}),
    ("checkpoint", "spec/values", {"a" * 256: 0}, {"a" * 257: 0}),
    ("checkpoint", "spec/values", {"a.b": "text"}, {"a..b": "text"}),
    ("checkpoint", "spec/values", {"a": 0.5}, {"a": [0.5]}),
    ("transcript", "spec/n_inputs", 2**24, 2**24 + 1),
    ("transcript", "spec/n_inputs", 1, 0),
    ("transcript", "spec/n_outcomes", 8, 1),
    ("transcript", "spec/n_outcomes", 2**24, 2**24 + 1),
    ("transcript", "spec/top_k", 1, 0),
    ("transcript", "spec/teacher", "a", "A"),
    ("transcript", "spec/vocabulary", DIGEST, DIGEST[:-1]),
    ("transcript", "spec/inputs/seed", 0, -1),
    ("transcript", "spec/inputs/templates", DIGEST, "x"),
    ("transcript", "spec/targets", "log-probs", "logits"),
    ("aggregate report", "spec/n_clients", 0, -1),
    ("aggregate report", "spec/clients/0/client", "a", " a"),
    ("aggregate report", "spec/clients/0/update", DIGEST, "x"),
    ("evaluate report", "spec/data", DIGEST, ""),
    ("evaluate report", "spec/n_cut", 0, -1),
]


@pytest.mark.parametrize(("sample", "path", "good", "bad"), BOUNDS)
def test_a_bound_lies_where_it_is_written_and_names_its_field(sample, path, good, bad):
    decode(changed(sample, path, good))
    with pytest.raises(ArtifactError) as caught:
        decode(changed(sample, path, bad))
    field = next(part for part in reversed(path.split("/")) if part.isidentifier())
    assert str(caught.value).startswith("somewhere: spec." if path.startswith("spec/") else "somewhere: ")
    assert field in str(caught.value).partition(": ")[2].partition(":")[0]


@pytest.mark.parametrize(
    ("sample", "path", "value"),
    [
        ("update", "round", True),
        ("update", "round", 1.0),
        ("update", "round", "1"),
        ("update", "round", None),
        ("update", "federation", 1),
        ("update", "federation", [DIGEST]),
        ("update", "parents", []),
        ("update", "parents/master", DIGEST),
        ("update", "spec", None),
        ("update", "spec", []),
        ("update", "spec/client", None),
        ("update", "spec/metrics/loss_first", "1.0"),
        ("update", "spec/metrics/loss_first", True),
        ("first master", "spec/model/base/private", 1),
        ("first master", "spec/model/lora/target_modules", "all-linear"),
        ("proxy", "spec/shapes/a.lora_A", [1.0]),
        ("proxy", "spec/shapes/a.lora_A", [True]),
        ("proxy", "spec/shapes/a.lora_A", 1),
        ("aggregate report", "spec/about", "evaluate"),
        ("aggregate report", "spec/about", "nothing"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(sample, path, value):
    with pytest.raises(ArtifactError, match="somewhere: "):
        decode(changed(sample, path, value))


@pytest.mark.parametrize(
    ("sample", "path", "value"),
    [
        ("update", "federation", DIGEST),
        ("update", "parents/master", [DIGEST]),
        ("update", "method", "fedlpp"),
        ("update", "spec/client", "a"),
        ("first master", "spec/model/base/model_type", "llama"),
        ("first master", "spec/model/lora/target_modules", ["a.b"]),
        ("base", "files/0/name", "a.json"),
        ("base", "files/0/name", "base/a.json"),
        ("base", "files/0/sha256", DIGEST),
    ],
)
def test_a_newline_at_the_end_of_a_name_is_not_overlooked(sample, path, value):
    decode(changed(sample, path, value))
    with_newline = [value[0] + "\n"] if isinstance(value, list) else value + "\n"
    with pytest.raises(ArtifactError, match=r"somewhere: "):
        decode(changed(sample, path, with_newline))


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../a", "a/..", "a/../b", "/a", "/etc/passwd", "a//b", "a/", ".hidden", "a/.hidden", "a\\b",
        "C:a", "a:b", "a b", "a\0", "a\x1b[31m", "ä", "-a", "a/b/c", "~", "a*",
    ],
)  # fmt: skip
def test_a_file_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ArtifactError, match=r"files\[0\]\.name"):
        decode(changed("package", "files/0/name", name))


@pytest.mark.parametrize(
    ("sample", "path"),
    [
        ("update", "surprise"),
        ("update", "files"),
        ("update", "spec/surprise"),
        ("update", "spec/metrics/surprise"),
        ("package", "files/0/surprise"),
        ("package", "files/1/surprise"),
        ("aggregate report", "spec/clients/0/surprise"),
        ("evaluate report", "spec/rows/0/surprise"),
        ("first master", "spec/model/base/surprise"),
        ("later master", "spec/quantize/surprise"),
        ("update", "spec/a.b"),
        ("update", "a.b.c"),
        ("update", "a[0]"),
        ("update", "a[b].c"),
        ("package", "files/0/a.b"),
        ("update", ""),
    ],
)
def test_an_unknown_field_is_refused_in_this_version_and_passed_over_in_a_newer_one(sample, path):
    plain = changed(sample, path, 1)
    with pytest.raises(ArtifactError, match="unknown field") as caught:
        decode(plain)
    assert repr(path.rpartition("/")[2])[1:-1] in str(caught.value)
    assert decode({**plain, "format": "1.2"}) == decode({**PLAIN[sample], "format": "1.2"})


def test_an_unknown_field_is_refused_with_the_names_that_are_known_there():
    with pytest.raises(ArtifactError, match=r"'files\[1\].surprise'; known here: name, sha256, size$"):
        decode(changed("package", "files/1/surprise", 1))


def test_a_newer_minor_version_is_still_checked():
    with pytest.raises(ArtifactError, match=r"spec\.client"):
        decode({**changed("update", "spec/client", "A"), "format": "1.2"})


@pytest.mark.parametrize("version", ["0.9", "2.0", "9999.0"])
def test_another_major_version_is_refused_by_both_versions(version):
    with pytest.raises(FormatVersionError, match=rf"format {version}, .* reads 1\.x") as caught:
        decode({"format": version, "kind": "what a later version may call so"})
    assert (caught.value.hint is None) == version.startswith("0")


@pytest.mark.parametrize(
    "version",
    [None, 1, 1.0, True, "", "1", "1.", ".1", "1.0.0", "1.00", "01.0", "1.-1", "+1.0", "1.0 ", "1.0\n", "1.1\n", "1.x",
     "1.99999", "1.1\u0660", "\u0661.0", "1.\u00b2", ["1.0"]],
)  # fmt: skip
def test_what_is_no_version_is_refused(version):
    with pytest.raises(ArtifactError, match="format is ") as caught:
        decode({**PLAIN["update"], "format": version})
    assert not isinstance(caught.value, FormatVersionError)


@pytest.mark.parametrize("kind", ["masters", "", "Master", None, 1, ["master"], "header"])
def test_another_kind_is_refused_with_the_kinds_that_there_are(kind):
    with pytest.raises(
        ArtifactError, match="master, proxy, base, package, update, state, checkpoint, transcript, report"
    ):
        decode({**PLAIN["update"], "kind": kind})


@pytest.mark.parametrize("path", ["federation", "round", "parents", "spec", "spec/client", "spec/metrics/n_steps"])
def test_a_missing_field_is_refused_by_name(path):
    with pytest.raises(ArtifactError, match=path.rpartition("/")[2]):
        decode(without("update", path))


@pytest.mark.parametrize(
    ("path", "value"),
    [("spec/metrics/loss_first", 2), ("producer", None), ("method", None)],
    ids=["a float without its point", "a default left out", "another default left out"],
)
def test_a_header_has_one_spelling(path, value):
    """Else the same round could come with two digests. A newer version may leave out what it likes."""
    plain = without("update", path) if value is None else changed("update", path, value)
    with pytest.raises(ArtifactError, match="not written as format"):
        decode(plain)
    assert decode({**plain, "format": "1.9"}).kind == "update"


@pytest.mark.parametrize("field", ["format", "kind"])
def test_a_header_without_format_or_kind_is_refused(field):
    with pytest.raises(ArtifactError, match=f"{field} is None"):
        decode(without("update", field))


def test_only_the_first_master_transcripts_and_reports_have_no_federation():
    for name in SAMPLES:
        plain = {**PLAIN[name], "federation": None}
        if name == "first master" or "report" in name or "transcript" in name:
            assert decode(plain).federation is None
        else:
            with pytest.raises(ArtifactError, match="federation: the first master's sha256 is needed"):
                decode(plain)


def test_the_first_master_cannot_name_itself():
    with pytest.raises(ArtifactError, match="federation: the first master has null"):
        decode({**PLAIN["first master"], "federation": DIGEST})
    with pytest.raises(ValueError, match="federation"):
        MasterHeader(federation=DIGEST, round=0, parents={}, spec=SAMPLES["first master"].spec)


def test_a_parent_is_found_where_there_is_exactly_one_of_that_role():
    header = UpdateHeader(
        federation=DIGEST, round=0, parents={"package": (OTHER,), "many": (OTHER, DIGEST)}, spec=SAMPLES["update"].spec
    )
    assert (header.parent("package"), header.parent("many"), header.parent("none")) == (OTHER, None, None)


def test_a_header_of_another_kind_does_not_belong_here():
    header = SAMPLES["update"]
    assert check_kind(header, UpdateHeader, source="somewhere") is header
    assert check_kind(header, Header, source="somewhere") is header
    with pytest.raises(LineageError, match="somewhere is an update, not a master"):
        check_kind(header, MasterHeader, source="somewhere")


def test_a_header_of_the_largest_size_is_read_and_one_byte_more_is_not():
    plain = {**PLAIN["base"]}
    plain["spec"] = {**plain["spec"], "model_type": ""}
    room = MAX_HEADER_BYTES - len(canonical.encode(plain))
    plain["spec"]["model_type"] = "a" * room
    assert decode(plain).kind == "base"
    plain["spec"]["model_type"] += "a"
    with pytest.raises(ArtifactError, match="bytes of JSON"):
        decode(plain)


NOISE = "\x1b[31m" * 100_000


@pytest.mark.parametrize(
    ("sample", "path", "value"),
    [
        ("update", "kind", NOISE),
        ("update", "format", NOISE),
        ("update", "method", NOISE),
        ("update", "spec/client", NOISE),
        ("update", f"spec/{NOISE}", 1),
        ("update", "parents", {NOISE: 1}),
        ("later master", "spec/quantize/bits", NOISE),
        ("evaluate report", "spec/about", NOISE),
        ("evaluate report", "spec/rows/0/scores", {NOISE: "x"}),
    ],
    ids=["kind", "format", "method", "client", "unknown field", "role", "choice", "tag", "score"],
)
def test_a_refusal_is_short_and_printable_whatever_a_stranger_wrote(sample, path, value):
    with pytest.raises(ArtifactError) as caught:
        decode(changed(sample, path, value))
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "header",
    [
        UpdateHeader(federation="x", round=0, parents={}, spec=SAMPLES["update"].spec),
        UpdateHeader(federation=DIGEST, round=-1, parents={}, spec=SAMPLES["update"].spec),
        UpdateHeader(federation=DIGEST, round=0, parents={}, spec=UpdateSpec(client="../a", metrics=METRICS)),
        PackageHeader(**LINEAGE, spec=SAMPLES["package"].spec, files=(FileEntry(name="../a", size=1, sha256=DIGEST),)),
        BaseHeader(
            **LINEAGE,
            spec=BaseArtifactSpec(quantize=BaseQuantSpec(), model_type="a" * MAX_HEADER_BYTES, unquantized={}),
            files=(),
        ),
    ],
    ids=["federation", "round", "client", "file name", "size"],
)
def test_what_would_not_be_read_is_not_written(header):
    with pytest.raises(ArtifactError):
        encode_header(header)


@pytest.mark.parametrize("depth", [100, 500, 900, 950, 990])
def test_a_newer_version_may_nest_what_we_do_not_know_and_cannot_crash_us(depth):
    plain = canonical.encode({**PLAIN["update"], "format": "1.2", "surprise": "here"})
    raw = plain.replace(b'"here"', b'{"a":' * depth + b"0" + b"}" * depth)
    try:
        assert decode_header(raw, source="somewhere").kind == "update"
    except ArtifactError:
        assert depth > 500


@pytest.mark.parametrize(("sample", "place"), [("package", "spec/update"), ("update", "spec/quantize")])
@pytest.mark.parametrize(
    "fields", [{"rounding": "stochastic", "rounding_seed": "s"}, {"scale_rounding": "up"}], ids=["stochastic", "up"]
)
def test_updates_are_rounded_to_the_nearest_level_only(sample, place, fields):
    spec = {**PLAIN[sample]["spec"][place.partition("/")[2]], "bits": "4"}
    assert decode(changed(sample, place, spec)).kind == sample
    with pytest.raises(
        ArtifactError, match="rounding, scale_rounding: of updates the first is nearest, the second nearest or fit"
    ):
        decode(changed(sample, place, {**spec, **fields}))
