"""Teachers and students: from a model to a transcript, from transcripts to a model."""

import stat

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, make_model, make_tokenizer, write_jsonl

from fedlpp_cli import distill_publish, distill_train, evaluate, export, init, verify
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import DataError, InputError, LineageError, ModelError, SecrecyError, UsageError
from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.records.headers import MasterHeader, TranscriptHeader
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.records.transcripts import DistillSpec, PublishSpec
from fedlpp_cli.tasks.transcripts import read_transcript

CLASSIFIER = TaskSpec(kind="seq-cls", max_length=16, labels=LABELS)
TEMPLATES = "<choice ab|cd|ef> <choice gh|ij|kl|mn|op> <choice gh|ij|kl> <choice gh|op>\n"
RECIPE = TrainSpec(steps=80, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, bert):
    """A federation of one whose model has learned that the first word tells the label."""
    federation = Federation(
        tmp_path_factory.mktemp("classifier"), bert, task=CLASSIFIER, train=RECIPE, clients=("north",)
    )
    write_jsonl(federation.data("north"), label_rows(90, seed=1))
    write_jsonl(federation.folder / "test.jsonl", label_rows(60, seed=9))
    (federation.folder / "templates.txt").write_text(TEMPLATES)
    federation.play(1)
    return federation


@pytest.fixture(scope="module")
def transcript(classifier):
    out = classifier.folder / "north.safetensors"
    publish(classifier, out)
    return out


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, played):
    """A transcript of a language model."""
    out = tmp_path_factory.mktemp("tokens") / "t.safetensors"
    spec = PublishSpec(n_inputs=12, top_k=4)
    distill_publish(played.master(1), out=out, teacher="owner", base=played.base, spec=spec, device="cpu")
    return out


def publish(federation, out, **options):
    options.setdefault("spec", PublishSpec(n_inputs=90))
    options.setdefault("templates", federation.folder / "templates.txt")
    return distill_publish(
        federation.master(1), out=out, teacher="north", base=federation.base, device="cpu", **options
    )


def learn(student, transcripts, out, **options):
    options.setdefault("train_spec", RECIPE)
    return distill_train(student, transcripts, out=out, device="cpu", **options)


def read(path):
    with TensorFile(path, TranscriptHeader) as file:
        return read_transcript(file)


def accuracy(master, base, classifier):
    rows = evaluate([master], data=classifier.folder / "test.jsonl", base=base, device="cpu").rows
    return {row.model: row.scores["accuracy"] for row in rows}


def test_a_student_of_another_architecture_and_tokenizer_learns_what_its_teacher_knows(
    classifier, transcript, roberta, tmp_path
):
    result = learn(roberta, [transcript], tmp_path / "student.safetensors")
    assert accuracy(classifier.master(1), classifier.base, classifier)["central"] > 0.95
    found = accuracy(tmp_path / "student.safetensors", roberta, classifier)
    assert (found["base"] < 0.6, found["central"] > 0.95) == (True, True), found
    assert (result.loss, result.temperature, result.n_steps) == ("kl", 2.0, 80)
    assert result.loss_last < result.loss_first / 5
    assert [(one.teacher, one.n_inputs, one.n_answers) for one in result.transcripts] == [("north", 90, 90)]


def test_the_student_is_a_secret_first_master_that_names_what_it_learned_from(
    classifier, transcript, roberta, tmp_path
):
    out = tmp_path / "student.safetensors"
    one = replace(RECIPE, steps=1)
    result = learn(roberta, [transcript], out, lora=LoraSpec(rank=2), max_length=12, seed=5, train_spec=one)
    header = header_of(out)
    assert isinstance(header, MasterHeader)
    assert (header.round, header.federation, header.spec.seed, result.federation) == (0, None, 5, sha256_of(out))
    assert header.spec.model.task == replace(CLASSIFIER, max_length=12)
    assert header.spec.model.lora.rank == 2
    assert header.parents == {"transcript": (sha256_of(transcript),)}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert verify([out, transcript, classifier.master(1)]).missing == 3  # the teacher's own
    export(out, out=tmp_path / "peft")
    odd = reforge(out, tmp_path / "odd", kind=MasterHeader, parents={"student": (sha256_of(transcript),)})
    with pytest.raises(LineageError, match=r"its student is .* which is a transcript"):
        verify([odd, transcript])


def test_a_students_base_can_be_private_and_stays_so(transcript, roberta, tmp_path):
    one = replace(RECIPE, steps=1)
    learn(roberta, [transcript], tmp_path / "first", train_spec=one, private_base=True)
    learn(tmp_path / "first", [transcript], tmp_path / "second", train_spec=one, base=roberta)
    specs = [header_of(tmp_path / name).spec for name in ("first", "second")]
    assert [spec.model.base.private for spec in specs] == [True, True]
    assert specs[0].base_weights == specs[1].base_weights is not None


def test_equal_arguments_give_equal_bytes_in_any_order_of_teachers(classifier, transcript, roberta, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    publish(classifier, again)
    assert again.read_bytes() == transcript.read_bytes()
    publish(classifier, other, spec=PublishSpec(n_inputs=20, seed=1))
    recipe = replace(RECIPE, steps=3)
    made = [
        learn(roberta, given, tmp_path / f"{number}", train_spec=recipe).sha256
        for number, given in enumerate(([transcript, other], [other, transcript], [transcript]))
    ]
    assert made[0] == made[1] != made[2]


def test_a_transcript_holds_synthetic_inputs_and_the_teachers_own_answers(classifier, transcript):
    found = read(transcript)
    spec = found.header.spec
    assert (spec.teacher, spec.task, spec.vocabulary, spec.top_k, spec.n_outcomes) == ("north", CLASSIFIER, None, 3, 3)
    assert found.header.parents == {"master": (sha256_of(classifier.master(1)),)}
    assert found.header.federation == header_of(classifier.master(1)).federation
    assert {text.split()[0] for text in found.inputs} == {"ab", "cd", "ef"}
    assert set(read_all(transcript)) == {"offsets", "texts", "log_probs"}
    said = [LABELS[row.argmax()] for row in found.answers.values]
    right = sum(
        LABELS[("ab", "cd", "ef").index(text.split()[0])] == one for text, one in zip(found.inputs, said, strict=True)
    )
    assert right > 0.95 * len(said)


def test_a_language_models_answers_are_those_of_plain_transformers(played, tokens):
    """The model has room for 64 tokens, its tokenizer has 35: the others are no outcomes."""
    found = read(tokens)
    spec = header_of(played.master(1)).spec.model
    model = AdaptedModel(open_model(played.base, spec.task).model, spec.lora)
    model.load(read_all(played.master(1)))
    with torch.no_grad():
        expected = torch.cat(
            [model.logits({"input_ids": torch.tensor([ids])})[0, :-1, :35].log_softmax(-1) for ids in found.inputs]
        )
    answers = found.answers
    assert len(answers) == sum(len(ids) - 1 for ids in found.inputs)
    assert torch.allclose(answers.values[:, :4], expected.gather(-1, answers.indices), atol=5e-3)
    assert torch.allclose(answers.values.exp().sum(-1), torch.ones(len(answers)), atol=5e-3)
    assert torch.equal(answers.indices, expected.topk(4).indices.sort(-1).values)


def test_language_models_of_two_architectures_get_in_step(played, tokens, gpt2, tmp_path):
    """They share a tokenizer, and nothing else; the student's divergence from its teacher falls."""
    recipe = TrainSpec(steps=60, batch_size=12, learning_rate=2e-2)
    result = learn(gpt2, [tokens], tmp_path / "student", train_spec=recipe, distill=DistillSpec(temperature=1.0))
    assert result.loss_last < 0.5 * result.loss_first
    assert header_of(tmp_path / "student").spec.model.base.model_type == "gpt2"


def test_a_master_goes_on_from_where_it_is(played, tokens, gpt2, tmp_path):
    init(gpt2, out=tmp_path / "first", task=TaskSpec(max_length=32))
    recipe = TrainSpec(steps=20, batch_size=12, learning_rate=2e-2)
    one = learn(tmp_path / "first", [tokens], tmp_path / "second", base=gpt2, train_spec=recipe)
    two = learn(tmp_path / "second", [tokens], tmp_path / "third", base=gpt2, train_spec=recipe)
    assert two.loss_first == pytest.approx(one.loss_last, rel=0.1)
    assert header_of(tmp_path / "third").parents["student"] == (sha256_of(tmp_path / "second"),)
    assert verify([tmp_path / "third", tmp_path / "second", tmp_path / "first", tokens]).missing == 1


def test_scores_are_matched_by_their_mean_square(classifier, roberta, tmp_path):
    publish(classifier, tmp_path / "scores", spec=PublishSpec(n_inputs=60, targets="scores"))
    result = learn(roberta, [tmp_path / "scores"], tmp_path / "student")
    assert (result.loss, result.loss_last < result.loss_first / 5) == ("mse", True)
    found = accuracy(tmp_path / "student", roberta, classifier)
    assert found["central"] > 0.95
    kl = learn(roberta, [tmp_path / "scores"], tmp_path / "other", distill=DistillSpec(loss="kl"))
    assert (kl.loss, kl.loss_last < kl.loss_first / 5) == ("kl", True)


def test_labels_in_another_order_are_the_same_labels(classifier, transcript, roberta, tmp_path):
    turned = replace(CLASSIFIER, labels=LABELS[::-1])
    init(roberta, out=tmp_path / "first", task=turned)
    learn(tmp_path / "first", [transcript], tmp_path / "student", base=roberta)
    assert accuracy(tmp_path / "student", roberta, classifier)["central"] > 0.95


def test_a_peft_adapter_and_a_plain_folder_teach_what_their_master_teaches(classifier, transcript, tmp_path):
    export(classifier.master(1), out=tmp_path / "peft")
    export(classifier.master(1), out=tmp_path / "merged", format="merged", base=classifier.base)
    task = {"kind": "seq-cls", "max_length": 16}
    options = {"teacher": "north", "templates": classifier.folder / "templates.txt", "device": "cpu"}
    spec = PublishSpec(n_inputs=90)
    distill_publish(
        tmp_path / "peft",
        out=tmp_path / "a",
        base=classifier.base,
        task={**task, "labels": LABELS},
        spec=spec,
        **options,
    )
    distill_publish(tmp_path / "merged", out=tmp_path / "b", task=task, spec=spec, **options)
    expected = read(transcript)
    for name in ("a", "b"):
        found = read(tmp_path / name)
        assert found.header.parents == {}
        assert found.header.spec.task == CLASSIFIER
        assert found.inputs == expected.inputs
        assert torch.allclose(found.answers.values, expected.answers.values, atol=2e-2)


def test_a_plain_language_model_writes_inputs_and_random_ones_are_texts_too(classifier, llama, tmp_path):
    spec = PublishSpec(n_inputs=20)
    for name, options in (("sampled", {"sample": llama}), ("random", {})):
        publish(classifier, tmp_path / name, spec=spec, templates=None, **options)
        publish(classifier, tmp_path / f"{name} again", spec=spec, templates=None, **options)
        publish(classifier, tmp_path / f"{name} other", spec=replace(spec, seed=1), templates=None, **options)
        found = read(tmp_path / name)
        assert found.header.spec.inputs.source == name
        assert len(set(found.inputs)) > 15
        assert (tmp_path / name).read_bytes() == (tmp_path / f"{name} again").read_bytes()
        assert found.inputs != read(tmp_path / f"{name} other").inputs


def test_templates_without_slots_are_told_before_they_are_sent(classifier, tmp_path):
    (tmp_path / "t.txt").write_text("ab cd\nab <choice cd|ef>\n")
    result = publish(classifier, tmp_path / "t", templates=tmp_path / "t.txt", spec=PublishSpec(n_inputs=4))
    assert result.warnings == ("1 of 2 templates have no slot: they travel as they are",)


def test_what_does_not_fit_is_refused_and_nothing_is_written(classifier, transcript, tokens, played, llama, tmp_path):
    make_model(tmp_path / "other", "gpt2")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["zz"])
    tokenizer.save_pretrained(tmp_path / "other")
    init(llama, out=tmp_path / "lm", task=TaskSpec(max_length=32))
    init(classifier.base, out=tmp_path / "labels", task=replace(CLASSIFIER, labels=("first", "second", "fourth")))
    cases = [
        (LineageError, "its vocabulary is", lambda out: learn(tmp_path / "other", [tokens], out)),
        (
            LineageError,
            "is for seq-cls, the student for causal-lm",
            lambda out: learn(tmp_path / "lm", [transcript], out, base=llama),
        ),
        (
            LineageError,
            "its labels are first, second, third; the student's first, second, fourth",
            lambda out: learn(tmp_path / "labels", [transcript], out, base=classifier.base),
        ),
        (LineageError, "a master, not a transcript", lambda out: learn(llama, [played.master(0)], out)),
        (UsageError, "once more", lambda out: learn(llama, [tokens, tokens], out)),
        (UsageError, "at least one transcript", lambda out: learn(llama, [], out)),
        (
            UsageError,
            "--loss mse compares scores",
            lambda out: learn(llama, [tokens], out, distill=DistillSpec(loss="mse")),
        ),
        (
            UsageError,
            "options of a new one",
            lambda out: learn(played.master(1), [tokens], out, base=llama, lora=LoraSpec()),
        ),
        (UsageError, "--max-length", lambda out: learn(played.master(1), [tokens], out, base=llama, max_length=9)),
        (
            UsageError,
            "--base goes with a student that is a master",
            lambda out: learn(llama, [tokens], out, base=llama),
        ),
        (InputError, "no such master, and no model folder", lambda out: learn(tmp_path / "gone", [tokens], out)),
        (ModelError, "--max-length|positions", lambda out: learn(llama, [tokens], out, max_length=999)),
        (
            UsageError,
            "--top-k 65: there are 35 tokens in the vocabulary",
            lambda out: publish(played, out, templates=None, spec=PublishSpec(top_k=65)),
        ),
        (UsageError, "--top-k 4: there are 3 labels", lambda out: publish(classifier, out, spec=PublishSpec(top_k=4))),
        (
            UsageError,
            "scores are told of all",
            lambda out: publish(classifier, out, spec=PublishSpec(top_k=2, targets="scores")),
        ),
        (UsageError, "leave out --task", lambda out: publish(classifier, out, task={"kind": "seq-cls"})),
        (UsageError, "two ways", lambda out: publish(classifier, out, sample=llama)),
        (
            UsageError,
            "plain language model",
            lambda out: publish(classifier, out, templates=None, sample=played.master(0)),
        ),
        (
            ModelError,
            "it has learned no labels",
            lambda out: distill_publish(
                classifier.base, out=out, teacher="x", task={"kind": "seq-cls", "labels": LABELS}, device="cpu"
            ),
        ),
        (DataError, "line 1: no slot <what>", lambda out: publish(classifier, out, templates=bad)),
        (UsageError, "teacher", lambda out: distill_publish(llama, out=out, teacher="A b", device="cpu")),
    ]
    bad = tmp_path / "bad.txt"
    bad.write_text("a <what>\n")
    for number, (error, match, call) in enumerate(cases):
        out = tmp_path / f"out-{number}"
        with pytest.raises(error, match=match):
            call(out)
        assert not out.exists()
    with pytest.raises(SecrecyError):
        learn(llama, [tokens], "hf://org/repo/student.safetensors")


def test_a_hostile_transcript_teaches_nothing(llama, tokens, tmp_path):
    def broken(tensors):
        return tensors | {"log_probs": torch.full_like(tensors["log_probs"], float("nan"))}

    reforge(tokens, tmp_path / "bad", kind=TranscriptHeader, change=broken)
    with pytest.raises(Exception, match="not finite"):
        learn(llama, [tmp_path / "bad"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
