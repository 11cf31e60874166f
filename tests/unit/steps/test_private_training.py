"""Trainings with privacy for examples: charged once, repeated from a checkpoint only, counted together."""

import subprocess
import sys

import pytest
from msgspec.structs import replace
from support.forge import header_of, read_all, sha256_of
from support.parties import Federation
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import client_train
from fedlpp_cli.errors import (
    ArtifactError,
    BudgetError,
    InputError,
    LineageError,
    OutputError,
    PolicyError,
    UsageError,
)
from fedlpp_cli.privacy.accountant import Spending, epsilon_of
from fedlpp_cli.privacy.budget_ledger import Budget, Charge, read_ledger, record_charge
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.policy import ClientPolicy
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.specs import LoraSpec, QuantSpec, TaskSpec, TrainSpec
from fedlpp_cli.steps.checkpoints import Checkpointing
from fedlpp_cli.steps.private_training import PrivacySettings

SPEC = TrainSpec(steps=4, batch_size=4, learning_rate=1e-2)
NOISE = PrivacySpec(noise_multiplier=1.0)
RATE = 4 / 12
OTHER = Charge(
    federation="a" * 64, round=0, package="b" * 64, client="north", data="c" * 64, noise_multiplier=1.0,
    sampling_rate=1.0, n_steps=1, run="1" * 64, update="d" * 64,
)  # fmt: skip
# Trains client a, and is killed in front of the name of the update.
KILLED = """
import os, signal, sys
from pathlib import Path
from fedlpp_cli.artifact import whole
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.steps.checkpoints import Checkpointing
from fedlpp_cli.steps.client_train import client_train
from fedlpp_cli.steps.private_training import PrivacySettings

package, base, data, out, checkpoint = sys.argv[1:]
real = whole._give_name

def give_name(draft, target, **options):
    if target.name == "u":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(draft, target, **options)

whole._give_name = give_name
client_train(
    package, client="a", data=data, base=base, device="cpu", out=f"{out}/u", state_out=f"{out}/s",
    privacy=PrivacySettings(spec=PrivacySpec(noise_multiplier=1.0), ledger=Path(f"{out}/ledger"), new_ledger=True),
    checkpoint=Checkpointing(path=checkpoint, n_steps=2) if checkpoint else None,
)
"""


class StoppedError(Exception):
    """What stops a training in these tests, as a crash would."""


def stop_at(step):
    def on_progress(text, done, total):
        if text.startswith("training") and done == step:
            raise StoppedError

    return on_progress


def private(folder, spec=NOISE, **options):
    return PrivacySettings(**{"spec": spec, "ledger": folder / "ledger", "new_ledger": True, **options})


def train(federation, folder, *, number=0, checkpoint=False, **options):
    settings = {
        "client": "a", "data": federation.data("a"), "base": federation.base, "device": "cpu", "out": folder / "u",
        "package": federation.package(number), "privacy": private(folder),
        "checkpoint": Checkpointing(path=folder / "c", n_steps=2) if checkpoint else None, **options,
    }  # fmt: skip
    return client_train(**settings)


def sent(folder, llama, **options):
    federation = Federation(folder, llama, **{"train": SPEC, "lora": LoraSpec(rank=4, dropout=0.2), **options})
    federation.init()
    federation.send(0)
    return federation


@pytest.fixture(scope="module")
def short(tmp_path_factory, llama):
    """A federation whose clients have a few steps to make. Read only."""
    return sent(tmp_path_factory.mktemp("short"), llama)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What an update says


def test_an_update_says_what_it_promises_and_no_losses(short, tmp_path):
    result = train(short, tmp_path)
    spec = header_of(tmp_path / "u").spec
    assert spec.privacy == result.privacy
    assert (spec.privacy.noise_multiplier, spec.privacy.sampling_rate, spec.privacy.n_steps) == (1.0, RATE, 4)
    assert spec.privacy.epsilon == epsilon_of([Spending(1.0, RATE, 4)], 1e-5)
    assert (spec.metrics.loss_first, spec.metrics.loss_last, spec.metrics.n_tokens) == (None, None, 0)
    (charge,) = read_ledger(tmp_path / "ledger").charges
    assert charge.update == result.sha256 == sha256_of(tmp_path / "u")
    assert names(tmp_path) == ["ledger", "u"]
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o600


def test_the_noise_is_calibrated_once_for_all_rounds(short, tmp_path):
    spec = PrivacySpec(epsilon=6.0, n_rounds=2)
    first = train(short, tmp_path, privacy=private(tmp_path, spec)).privacy
    second = train(short, tmp_path, privacy=private(tmp_path, spec), out=tmp_path / "u2").privacy
    assert first.noise_multiplier == second.noise_multiplier
    assert first.epsilon < second.epsilon
    assert 5.9 < second.epsilon <= 6.0
    assert read_ledger(tmp_path / "ledger").budget.max_epsilon == 6.0
    with pytest.raises(BudgetError, match="the budget is 6"):
        train(short, tmp_path, privacy=private(tmp_path, spec), out=tmp_path / "u3")


def test_two_runs_have_other_noise_and_are_both_charged(short, tmp_path):
    first = train(short, tmp_path)
    second = train(short, tmp_path, out=tmp_path / "u2")
    assert first.sha256 != second.sha256
    assert second.privacy.epsilon == epsilon_of([Spending(1.0, RATE, 8)], 1e-5) > first.privacy.epsilon
    ours, theirs = read_all(tmp_path / "u"), read_all(tmp_path / "u2")
    assert not any(bool((ours[name] == theirs[name]).all()) for name in ours)


def test_micro_batches_and_a_dry_run(short, tmp_path):
    tried = train(short, tmp_path, dry_run=True)
    planned = tried.privacy
    assert tried.plan.step_seconds > 0
    assert names(tmp_path) == []
    done = train(short, tmp_path, compute=ComputeSpec(micro_batch=1)).privacy
    assert planned == done


def test_dropout_is_secret_too(short, tmp_path, monkeypatch):
    seen = []
    real = "fedlpp_cli.training.loop.seeded"
    from fedlpp_cli.training import loop

    seeded = loop.seeded
    monkeypatch.setattr(real, lambda labels: seen.append(labels) or seeded(labels))
    for out in ("u", "u2"):
        train(short, tmp_path, out=tmp_path / out)
    assert seen[0] != seen[1]
    assert seen[0][:3] == seen[1][:3]


@pytest.mark.parametrize("seed", range(3))
def test_steps_without_examples_are_steps(tmp_path, llama, seed):
    """One example in twenty-four; the first step has one or not."""
    federation = sent(tmp_path / "run", llama, train=replace(SPEC, batch_size=1, steps=3))
    data = write_jsonl(tmp_path / "many.jsonl", prompt_rows(24, seed=seed))
    result = train(federation, tmp_path, data=data)
    assert result.metrics.n_steps == 3


def test_classifiers_with_heads(tmp_path, bert):
    task = TaskSpec(kind="seq-cls", max_length=32, labels=LABELS)
    federation = Federation(tmp_path / "run", bert, task=task, train=SPEC)
    write_jsonl(federation.data("a"), label_rows(12, seed=0))
    federation.init()
    federation.send(0)
    assert train(federation, tmp_path).privacy.epsilon > 0


# Stopped, killed, gone on


def test_whoever_goes_on_has_the_same_noise_and_is_charged_once(short, tmp_path):
    with pytest.raises(StoppedError):
        train(short, tmp_path, checkpoint=True, on_progress=stop_at(3))
    assert names(tmp_path) == ["c"]
    kept = (tmp_path / "c").read_bytes()
    first = train(short, tmp_path, checkpoint=True)
    assert first.resumed_from == 2
    ledger = (tmp_path / "ledger").read_bytes()
    (tmp_path / "c").write_bytes(kept)
    again = train(short, tmp_path, checkpoint=True, force=True)
    assert (again.sha256, again.resumed_from) == (first.sha256, 2)
    assert (tmp_path / "ledger").read_bytes() == ledger


def test_a_checkpoint_is_of_one_noise_and_one_key(short, tmp_path):
    with pytest.raises(StoppedError):
        train(short, tmp_path, checkpoint=True, on_progress=stop_at(3))
    with pytest.raises(LineageError, match=r"noise_multiplier is 1\.0, here it is 2\.0"):
        train(short, tmp_path, checkpoint=True, privacy=private(tmp_path, PrivacySpec(noise_multiplier=2.0)))
    with pytest.raises(LineageError, match=r"max_example_norm is 1\.0, here it is 0\.5"):
        train(short, tmp_path, checkpoint=True, privacy=private(tmp_path, replace(NOISE, max_grad_norm=0.5)))
    with pytest.raises(LineageError, match=r"max_example_norm is 1\.0, here it is not set"):
        train(short, tmp_path, checkpoint=True, privacy=None)
    assert names(tmp_path) == ["c"]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_killed_between_charge_and_name(short, tmp_path, checkpoint):
    place = tmp_path / "c" if checkpoint else ""
    arguments = [short.package(0), short.base, short.data("a"), tmp_path, place]
    assert subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False).returncode == -9
    assert not (tmp_path / "u").exists()
    (charge,) = read_ledger(tmp_path / "ledger").charges
    result = train(short, tmp_path, checkpoint=checkpoint, state_out=tmp_path / "s", force=True)
    charges = read_ledger(tmp_path / "ledger").charges
    if checkpoint:
        # The update that was charged, and no other.
        assert (result.sha256, charges) == (charge.update, (charge,))
    else:
        assert [one.update for one in charges] == [charge.update, result.sha256]
        assert charges[1].run != charge.run


def test_a_run_that_was_charged_ends_also_where_nothing_else_would_fit(short, tmp_path):
    once = epsilon_of([Spending(1.0, RATE, 4)], 1e-5)
    settings = private(tmp_path, max_epsilon=once * 1.01)
    with pytest.raises(StoppedError):
        train(short, tmp_path, checkpoint=True, privacy=settings, on_progress=stop_at(3))
    kept = (tmp_path / "c").read_bytes()
    train(short, tmp_path, checkpoint=True, privacy=settings)
    with pytest.raises(BudgetError):
        train(short, tmp_path, privacy=settings, out=tmp_path / "u2")
    (tmp_path / "c").write_bytes(kept)
    train(short, tmp_path, checkpoint=True, privacy=settings, out=tmp_path / "u3")
    assert sha256_of(tmp_path / "u3") == sha256_of(tmp_path / "u")


def test_what_was_charged_meanwhile_is_counted(short, tmp_path):
    def charge_another(text, done, total):
        if text.startswith("training") and done == 2:
            record_charge(tmp_path / "ledger", Budget(delta=1e-5), replace(OTHER, data=data))

    data = read_ledger_data(short, tmp_path)
    result = train(short, tmp_path, on_progress=charge_another)
    expected = epsilon_of([Spending(1.0, RATE, 8), OTHER.spending], 1e-5)
    assert header_of(tmp_path / "u").spec.privacy.epsilon == result.privacy.epsilon == expected


def read_ledger_data(federation, folder):
    """One training, and the digest of the data that it was charged to."""
    train(federation, folder, out=folder / "first")
    return read_ledger(folder / "ledger").charges[0].data


# Refusals


def refused(error, match, federation, folder, **options):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(error, match=match) as caught:
        train(federation, folder, **options)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return caught.value


def test_a_ledger_has_to_be_there_or_be_begun(short, tmp_path):
    error = refused(InputError, "no ledger is there", short, tmp_path, privacy=private(tmp_path, new_ledger=False))
    assert "--new-ledger" in error.hint


def test_a_ledger_that_cannot_be_written_is_refused_before_anything_is_trained(short, tmp_path):
    (tmp_path / "notes").write_text("")
    wrong = private(tmp_path, ledger=tmp_path / "notes" / "ledger")
    refused(OutputError, "cannot be written", short, tmp_path, privacy=wrong, on_progress=stop_at(1))
    train(short, tmp_path, privacy=private(tmp_path, ledger=tmp_path / "new" / "folder" / "ledger"))


def test_a_ledger_of_other_data_is_refused_unless_that_is_said(short, tmp_path):
    train(short, tmp_path)
    more = write_jsonl(tmp_path / "more.jsonl", prompt_rows(13, seed=0))
    error = refused(LineageError, "a ledger of other data", short, tmp_path, data=more, out=tmp_path / "u2")
    assert "--data-changed" in error.hint
    train(short, tmp_path, data=more, out=tmp_path / "u2", privacy=private(tmp_path, data_changed=True))
    assert len(read_ledger(tmp_path / "ledger").charges) == 2


def test_the_order_of_rows_does_not_make_other_data(short, tmp_path):
    train(short, tmp_path)
    turned = write_jsonl(tmp_path / "turned.jsonl", prompt_rows(12, seed=0)[::-1])
    train(short, tmp_path, data=turned, out=tmp_path / "u2")


def test_a_damaged_ledger_is_refused_before_anything_is_trained(short, tmp_path):
    (tmp_path / "ledger").write_text("my notes\n")
    refused(ArtifactError, "line 1", short, tmp_path, on_progress=stop_at(1))


def test_a_budget_is_kept(short, tmp_path):
    train(short, tmp_path, privacy=private(tmp_path, max_epsilon=6.0))
    refused(BudgetError, "the budget is 6", short, tmp_path, out=tmp_path / "u2", on_progress=stop_at(1))
    larger = private(tmp_path, max_epsilon=50.0)
    refused(UsageError, "has a budget of epsilon 6", short, tmp_path, out=tmp_path / "u2", privacy=larger)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"min_noise_multiplier": 1.1}, "min_noise_multiplier is 1.1, it would be 1"),
        ({"max_epsilon": 0.5}, "max_epsilon is 0.5, it would be"),
        ({"max_delta": 1e-6}, "max_delta is 1e-06, it would be 1e-05"),
    ],
)
def test_a_policy_is_kept(short, tmp_path, policy, message):
    refused(PolicyError, message, short, tmp_path, policy=ClientPolicy(**policy), on_progress=stop_at(1))
    enough = ClientPolicy(min_noise_multiplier=1.0, max_epsilon=10.0, max_delta=1e-5)
    train(short, tmp_path, policy=enough)


def test_what_privacy_does_not_go_with(short, tmp_path, llama):
    federation = sent(
        tmp_path / "run", llama, train=replace(SPEC, optimizer="sgd", weight_decay=0.0, control_variates=True)
    )
    refused(UsageError, "asks for control variates", federation, tmp_path, state_out=tmp_path / "s")
    packed = ComputeSpec(batching="packed")
    refused(UsageError, "--batching packed: with privacy", short, tmp_path, compute=packed)
    refused(UsageError, "--out and --ledger are both", short, tmp_path, out=tmp_path / "ledger")
    with pytest.raises(UsageError, match="--ledger and --checkpoint are both"):
        train(short, tmp_path, checkpoint=True, privacy=private(tmp_path, ledger=tmp_path / "c"))


def test_a_state_has_to_be_of_an_update_that_was_charged(tmp_path, llama):
    """What rounding took from an update without noise would go into one that promises some."""
    federation = sent(tmp_path / "run", llama, round_updates=QuantSpec(bits="3"))
    train(federation, tmp_path, privacy=None, state_out=tmp_path / "open")
    federation.train_client(0, "b")
    train(federation, tmp_path, out=tmp_path / "u2", state_out=tmp_path / "charged")
    federation.fold(0, [tmp_path / "u2", federation.update(0, "b")])
    federation.send(1)
    next_round = {"number": 1, "out": tmp_path / "u3"}
    refused(LineageError, "not charged", federation, tmp_path, state=tmp_path / "open", **next_round)
    result = train(federation, tmp_path, state=tmp_path / "charged", **next_round)
    assert result.privacy.epsilon == epsilon_of([Spending(1.0, RATE, 8)], 1e-5)


def test_a_delta_that_lets_one_example_out_whole_is_worth_a_warning(short, tmp_path):
    loose = train(short, tmp_path, privacy=private(tmp_path, replace(NOISE, delta=1 / 12)))
    assert any("delta is 0.0833333" in warning for warning in loose.warnings)
    other = private(tmp_path, replace(NOISE, delta=0.08), ledger=tmp_path / "other")
    assert train(short, tmp_path, privacy=other, out=tmp_path / "u2").warnings == ()
