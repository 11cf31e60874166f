"""What an update tells about its rows, end to end."""

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import audit_update
from fedlpp_cli.adapters.proxy_tensors import read_update
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.errors import LeakageError, LineageError, SecrecyError, UsageError
from fedlpp_cli.records.headers import UpdateHeader
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.specs import FULL_PRECISION, LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.steps.private_training import PrivacySettings

ONE_STEP = TrainSpec(steps=1, batch_size=1, optimizer="sgd", learning_rate=0.1)
LONG = TrainSpec(steps=300, batch_size=16, learning_rate=2e-2)
NOISE = PrivacySpec(noise_multiplier=1.0)


def federation(folder, base, train, n_rows, **options):
    """Client a has rows of one habit; "others" are of the same."""
    settings = {"lora": LoraSpec(rank=16), "quantize": FULL_PRECISION, "clients": ("a",), **options}
    made = Federation(folder, base, train=train, **settings)
    is_classifier = made.task.kind == "seq-cls"
    rows = (label_rows if is_classifier else prompt_rows)(n_rows + 60, seed=1)
    write_jsonl(made.data("a"), rows[:n_rows])
    write_jsonl(made.data("others"), rows[n_rows:])
    made.init()
    made.send(0)
    return made


def trained(made, *, noise=None):
    privacy = noise and PrivacySettings(spec=noise, ledger=made.folder / "ledger", new_ledger=True)
    made.train_client(0, "a", privacy=privacy)
    return made


def audit(made, **options):
    settings = {
        "update": made.update(0, "a"), "package": made.package(0), "data": made.data("a"), "base": made.base,
        "control_data": made.data("others"), "device": "cpu", "n_canaries": 0, "n_trials": 0,
        **options,
    }  # fmt: skip
    return audit_update(**settings)


@pytest.fixture(scope="module")
def one(tmp_path_factory, llama):
    """One row, one step. Read only."""
    return trained(federation(tmp_path_factory.mktemp("one"), llama, ONE_STEP, 1))


@pytest.fixture(scope="module")
def overfit(tmp_path_factory, llama):
    """Sixteen rows, seen 300 times. Read only."""
    return trained(federation(tmp_path_factory.mktemp("overfit"), llama, LONG, 16))


# Words


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_the_words_of_one_row_come_out_of_one_step(request, tmp_path, base):
    tokens = audit(trained(federation(tmp_path, request.getfixturevalue(base), ONE_STEP, 1))).report.tokens
    assert tokens.is_exact
    # GPT-2 drops a tenth of what goes in, which the span has not.
    assert tokens.by_span >= (0.8 if base == "llama" else 0.5)
    assert tokens.by_span > (5 if base == "llama" else 4) * tokens.by_chance
    assert tokens.by_span_auc > (0.95 if base == "llama" else 0.9)


def test_in_later_rounds_both_factors_tell(tmp_path, llama):
    made = trained(federation(tmp_path, llama, replace(ONE_STEP, weight_decay=0.1), 1))
    made.fold(0)
    made.send(1)
    made.train_client(1, "a")
    tokens = audit(made, update=made.update(1, "a"), package=made.package(1)).report.tokens
    assert tokens.is_exact
    assert tokens.by_span >= 0.8
    assert tokens.by_span_auc > 0.95


def test_noise_hides_the_words(tmp_path, llama):
    tokens = audit(trained(federation(tmp_path, llama, ONE_STEP, 1), noise=NOISE)).report.tokens
    assert not tokens.is_exact
    assert tokens.by_span < 0.5
    assert tokens.by_frequency > tokens.by_span


def test_of_a_rounded_update_fewer_directions_are_above_the_rounding(tmp_path, llama, one):
    rounded = QuantSpec(bits="4", block=64)
    tokens = audit(trained(federation(tmp_path, llama, ONE_STEP, 1, round_updates=rounded))).report.tokens
    assert 0 < tokens.rank < audit(one).report.tokens.rank


def test_an_update_of_many_rows_is_full(overfit):
    assert not audit(overfit).report.tokens.is_exact


def test_words_become_likelier_everywhere(one):
    tokens = audit(one).report.tokens
    assert tokens.by_rise > 2 * tokens.by_chance
    assert tokens.by_rise_auc > 0.6


def test_the_test_of_words_says_why_it_cannot_be_made(tmp_path, llama):
    lora = LoraSpec(rank=4, target_modules=("down_proj",))
    assert "mixture" in audit(trained(federation(tmp_path, llama, ONE_STEP, 1, lora=lora))).report.tokens.skipped


# Classes


def test_the_class_of_one_row_comes_out(tmp_path, bert):
    task = TaskSpec(kind="seq-cls", max_length=16, labels=LABELS)
    report = audit(trained(federation(tmp_path, bert, ONE_STEP, 1, task=task))).report
    labels = report.labels
    assert report.tokens.by_rise is None
    assert (labels.n_classes, labels.most_frequent) == (3, True)


def test_a_language_model_has_no_classes(one):
    assert audit(one).report.labels is None


# Rows


def test_an_overfit_update_tells_its_rows(overfit):
    found = audit(overfit).report.membership
    assert (found.of, found.n_members, found.n_others) == ("update", 16, 60)
    assert found.auc > 0.75
    assert found.auc_interval.low > 0.6


def test_an_update_tells_nothing_of_rows_of_its_kind_that_it_never_saw(tmp_path, overfit):
    """The same model, asked for rows that are no more in it than the others."""
    rows = prompt_rows(176, seed=1)
    unseen = write_jsonl(tmp_path / "unseen.jsonl", rows[76:92])
    others = write_jsonl(tmp_path / "others.jsonl", rows[92:])
    found = audit(overfit, data=unseen, control_data=others).report.membership
    assert found.auc_interval.low < 0.5 < found.auc_interval.high


def test_without_other_rows_a_training_like_it_is_tested_on_half(overfit):
    found = audit(overfit, control_data=None).report.membership
    assert (found.of, found.n_members, found.n_others) == ("training like it", 8, 8)
    assert found.auc > 0.65
    assert found == audit(overfit, control_data=None).report.membership


def test_too_few_rows_for_half(one):
    report = audit(one, control_data=None).report
    assert "1 rows are too few" in report.membership.skipped
    assert report.tokens.by_frequency is None
    with pytest.raises(UsageError, match="too few to be tested"):
        audit(one, control_data=None, max_auc=0.6)


# Whole texts


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    """Other rows that have none of the habits of the client's."""
    rows = [{"text": text} for text in ("kl mn op", "op ij kl", "mn mn gh")]
    return write_jsonl(tmp_path_factory.mktemp("unlike") / "unlike.jsonl", rows)


def rebuilt(made, unlike, **options):
    settings = {"control_data": unlike, "n_trials": 800, "batch_size": 32, **options}
    return audit(made, **settings).report.rebuilt


def one_text(folder, base, train, *, noise=None):
    made = federation(folder, base, train, 1)
    write_jsonl(made.data("a"), [{"text": "gh ef gh ab cd ef"}])
    return trained(made, noise=noise)


@pytest.mark.parametrize(
    "train",
    [ONE_STEP, replace(ONE_STEP, optimizer="adamw", learning_rate=1e-2), replace(ONE_STEP, steps=3, weight_decay=0.1)],
    ids=["sgd", "adamw", "three steps"],
)
def test_one_text_is_rebuilt_in_its_order(tmp_path, llama, unlike, train):
    (found,) = rebuilt(one_text(tmp_path, llama, train), unlike)
    assert (found.of, found.n_rows, found.was_cut) == ("update", 1, False)
    assert found.found > found.found_by_chance + 0.25
    assert found.in_order > found.in_order_by_chance + 0.25
    assert found.match > 0.5


def test_noise_hides_the_text_and_the_search_says_so(tmp_path, llama, unlike):
    made = one_text(tmp_path / "without", llama, ONE_STEP)
    report = audit(made, control_data=unlike, n_trials=800, batch_size=32, privacy=PrivacySpec(epsilon=4.0)).report
    without, with_noise = report.rebuilt
    assert (with_noise.of, without.noise_multiplier) == ("training like it", None)
    assert with_noise.noise_multiplier > 0
    assert without.in_order > with_noise.in_order + 0.25
    assert with_noise.in_order <= with_noise.in_order_by_chance + 0.15
    assert with_noise.match_of_rows < 0.5 < without.match_of_rows
    assert any("noise" in line for line in report.advice)


def test_a_search_is_the_same_each_time_and_its_budget_only_cuts_it_off(one, unlike):
    first = rebuilt(one, unlike, n_trials=64)
    assert first == rebuilt(one, unlike, n_trials=64)
    assert first == rebuilt(one, unlike, n_trials=64, budget=60.0)
    (cut,) = rebuilt(one, unlike, n_trials=64, budget=0.0)
    assert cut.was_cut
    assert cut.n_trials < first[0].n_trials
    assert "in the time it had" in audit(one, n_trials=64, budget=0.0).report.verdict


def test_rows_are_not_looked_for_in_many(overfit, tmp_path, llama, unlike):
    (found,) = rebuilt(overfit, unlike)
    assert "16 rows are too many" in found.skipped
    made = trained(federation(tmp_path, llama, replace(ONE_STEP, steps=9), 1))
    assert "9 steps are too many" in rebuilt(made, unlike)[0].skipped
    assert rebuilt(made, unlike, n_trials=0) == ()


# Canaries


def test_canaries_with_and_without_noise(overfit):
    before = sha256_of(overfit.update(0, "a"))
    without, with_noise = audit(overfit, n_canaries=64, privacy=PrivacySpec(noise_multiplier=4.0)).report.canaries
    assert without.n_canaries == with_noise.n_canaries
    assert (without.noise_multiplier, without.epsilon) == (None, None)
    assert without.epsilon_bound > 0.5
    assert without.exposure_mean > 2.3
    assert with_noise.noise_multiplier == 4.0
    assert with_noise.epsilon_bound < without.epsilon_bound
    assert with_noise.epsilon_bound <= with_noise.epsilon
    assert not list(overfit.folder.glob("**/ledger*"))
    assert sha256_of(overfit.update(0, "a")) == before


def test_a_private_update_is_held_against_its_own_promise(tmp_path, llama):
    made = trained(federation(tmp_path, llama, replace(LONG, steps=10), 16), noise=NOISE)
    charged = (tmp_path / "ledger").read_bytes()
    report = audit(made, n_canaries=16, out=tmp_path / "report.json").report
    assert read_report(tmp_path / "report.json").header.spec == report
    assert [test.noise_multiplier for test in report.canaries] == [None, 1.0]
    assert report.canaries[1].epsilon_bound <= report.canaries[1].epsilon
    assert report.privacy.noise_multiplier == 1.0
    assert (tmp_path / "ledger").read_bytes() == charged


def test_too_few_canaries(one):
    with pytest.raises(UsageError, match="16 at least are needed"):
        audit(one, n_canaries=8)


# A training in memory


@pytest.mark.parametrize("update", [FULL_PRECISION, QuantSpec(bits="4")])
def test_a_rehearsal_is_the_training_itself(tmp_path, llama, update):
    """All rows as members: what is tried in memory is what client-train sent, to the bit."""
    from fedlpp_cli.records.compute import ComputeSpec
    from fedlpp_cli.steps.computing import choose_for, open_chosen
    from fedlpp_cli.steps.local_training import open_round, open_task
    from fedlpp_cli.steps.packages import open_package
    from fedlpp_cli.steps.rehearsal import rehearse
    from fedlpp_cli.tasks.data import load_data

    made = trained(federation(tmp_path, llama, replace(LONG, steps=3), 8, round_updates=update))
    package = open_package(made.package(0))
    task = open_task(package, llama, {})
    examples = load_data(made.data("a"), task, columns={}).examples
    choice = choose_for(package, llama, ComputeSpec(), device="cpu", max_length=32)
    local = open_round(package, task, open_chosen(package, llama, choice)[0])
    values = rehearse(local, "a", examples, None, lambda *_: None)
    package.proxy.close()
    with TensorFile(made.update(0, "a"), UpdateHeader) as sent:
        for name, start in local.start.items():
            assert torch.equal(values[name], start + read_update(sent, name, tuple(start.shape)))


# The report


def test_a_report_is_its_clients_own_and_holds_no_row(overfit, tmp_path):
    result = audit(overfit, out=tmp_path / "report.json")
    found = read_report(tmp_path / "report.json").header
    assert found.spec == result.report
    assert set(found.parents) == {"package", "update"}
    assert found.parent("update") == sha256_of(overfit.update(0, "a"))
    assert found.parent("package") == header_of(overfit.update(0, "a")).parent("package")
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "report.json").read_text()
    for row in prompt_rows(16, seed=1):
        assert row["completion"] not in text
    assert str(overfit.folder) not in text
    assert '"client"' not in text


def test_the_hub_gets_no_report(one):
    with pytest.raises(SecrecyError):
        audit(one, out="hf://org/repo/report.json")


def test_more_than_was_allowed_ends_with_its_own_error_and_a_report(overfit, tmp_path):
    with pytest.raises(LeakageError, match=r"--max-auc is 0\.6") as caught:
        audit(overfit, out=tmp_path / "report.json", max_auc=0.6)
    assert "--dp-epsilon" in caught.value.hint
    assert read_report(tmp_path / "report.json").header.spec.max_auc == 0.6
    assert audit(overfit, max_auc=1.0).report.max_auc == 1.0


# What does not belong together


def test_rows_that_it_was_not_trained_on_are_refused(overfit):
    with pytest.raises(LineageError, match="was trained on 16 examples, --data has 60"):
        audit(overfit, data=overfit.data("others"))


def test_an_update_of_another_package_is_refused(overfit, one):
    with pytest.raises(LineageError, match="its package is"):
        audit(overfit, package=one.package(0))
