"""`aggregate` with noise for whole clients: what comes out, what it costs, who gets to see what."""

import base64
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation
from support.rounds import first_round

from fedlpp_cli import aggregate, evaluate, export, inspect, pack, quantize, verify
from fedlpp_cli.adapters.master_tensors import NOISE_KEY
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.cli.app import app
from fedlpp_cli.errors import ArtifactError, RerunError, UsageError
from fedlpp_cli.privacy.round_ledger import read_charges, record_charge
from fedlpp_cli.records.headers import MasterHeader
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec

KEY = b"\x07\xf3" * 16
SPEC = AggregateSpec(clip_norm=0.5, client_noise_multiplier=1.0, expected_clients=4)
# The noise cannot be seen: what is left is the sum.
QUIET = replace(SPEC, client_noise_multiplier=1e-12)
SHAPES = {"layer.lora_A": (2, 300), "layer.lora_B": (400, 2), "head.bias": (3,)}
KILLED = """
import os, signal, sys
import fedlpp_cli.steps.aggregate as step
charge = step.charge_client_privacy
def killed(*arguments):
    charge(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
step.charge_client_privacy = killed
from fedlpp_cli.__main__ import main
sys.argv[0] = "fedlpp"
main()
"""


def arrays(seed, norm=None):
    numbers = np.random.default_rng(seed)
    values = {name: numbers.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    if norm is not None:
        length = np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in values.values()))
        values = {name: (value * (norm / length)).astype(np.float32) for name, value in values.items()}
    return values


def vector(path):
    tensors = read_all(path)
    return np.concatenate([tensors[name].double().numpy().reshape(-1) for name in SHAPES])


@pytest.fixture
def opened(tmp_path):
    """A round that has been sent, its master around 0.1."""
    start = first_round(tmp_path, {name: value / 10 for name, value in arrays(0).items()})
    start.send()
    return start


@pytest.fixture
def answers(opened):
    """Updates of norms 0.1, 0.4, 2 and 3."""
    return opened.answer([arrays(n, norm) for n, norm in enumerate((0.1, 0.4, 2.0, 3.0), 1)], [1] * 4)


def fold(opened, answers, name="next", spec=SPEC, **options):
    out = opened.folder / name
    if "noise_key" not in options:
        options.setdefault("privacy_ledger", opened.folder / "privacy")
    return aggregate(opened.master, answers, packages=[opened.package], out=out, spec=spec, **options)


def command(opened, answers, *options, name="next"):
    return [
        "aggregate", opened.master, *answers, "--package", opened.package, "--out", opened.folder / name, *options,
    ]  # fmt: skip


NOISY = ("--clip-norm", "0.5", "--client-noise-multiplier", "1", "--expected-clients", "4")


@pytest.fixture
def fedlpp(runner):
    return lambda arguments: runner.invoke(app, [str(argument) for argument in arguments])


def test_clipped_updates_are_summed_and_divided_by_the_expected_number(opened, answers):
    theta = vector(opened.master)
    parts = [vector(path) for path in answers]
    clipped = [part * min(1, 0.5 / np.linalg.norm(part)) for part in parts]
    for count, expected in ((4, 4), (3, 4), (4, 100), (1, 2)):
        spec = replace(QUIET, expected_clients=expected)
        result = fold(opened, answers[:count], f"{count}-{expected}", spec, noise_key=KEY)
        assert vector(result.path) - theta == pytest.approx(sum(clipped[:count]) / expected, abs=2e-7)
        assert {one.weight for one in result.clients} == {1 / expected}


def test_noise_joins_every_value(opened, answers):
    theta = vector(opened.master)
    quiet = vector(fold(opened, answers, "quiet", QUIET, noise_key=KEY).path) - theta
    noisy = vector(fold(opened, answers, "noisy", noise_key=KEY).path) - theta
    # z C / m = 0.125; of 1403 values the standard error is 1.9 %.
    assert (noisy - quiet).std() == pytest.approx(0.125, rel=0.12)
    for start, stop in ((0, 600), (600, 1400)):
        assert (noisy - quiet)[start:stop].std() == pytest.approx(0.125, rel=0.18)
    assert len(np.unique(noisy)) == len(noisy)


def test_equal_keys_give_equal_bytes_and_new_ones_other_noise(opened, answers):
    first, again = (fold(opened, order, name, noise_key=KEY) for name, order in (("1", answers), ("2", answers[::-1])))
    assert first.sha256 == again.sha256
    fewer = vector(fold(opened, answers[:3], "fewer", noise_key=KEY).path)
    gone = vector(answers[3])
    difference = vector(first.path) - fewer - 0.125 * gone / np.linalg.norm(gone)
    assert difference.std() == pytest.approx(2**0.5 * 0.125, rel=0.12)  # one key, other updates: other noise
    drawn = [fold(opened, answers, name) for name in ("3", "4")]
    assert drawn[0].sha256 != drawn[1].sha256
    keys = [read_all(one.path)[NOISE_KEY].numpy().tobytes() for one in (first, *drawn)]
    assert keys[0] == KEY
    assert len(set(keys)) == 3


def test_each_master_is_charged_before_it_has_its_name(opened, answers):
    ledger = opened.folder / "privacy"
    assert fold(opened, answers, dry_run=True).client_privacy.epsilon == pytest.approx(4.3772, abs=2e-4)
    assert not ledger.exists()
    result = fold(opened, answers)
    (charge,) = read_charges(ledger)
    assert (charge.master, charge.round, charge.federation) == (result.sha256, 1, opened.federation)
    found = result.client_privacy
    assert found == read_report(opened.folder / "next.report.json").header.spec.client_privacy
    assert found.epsilon == pytest.approx(4.3772, abs=2e-4)
    assert (found.sampling, found.sampling_rate, found.relation) == ("everybody", 1.0, "add-or-remove-one")
    assert (found.noise_multiplier, found.update_noise_multiplier, found.clip_norm) == (1.0, 1.0, 0.5)
    assert (found.expected_clients, found.n_releases, found.next_clip_norm) == (4, 1, None)
    assert found.noise_norm == pytest.approx(0.125 * 1403**0.5, rel=1e-5)
    again = fold(opened, answers, force=True)
    assert (again.client_privacy.n_releases, again.client_privacy.epsilon > 6) == (2, True)


def test_ten_rounds_cost_what_the_table_says(opened, answers):
    ledger = opened.folder / "privacy"
    fold(opened, answers)
    (charge,) = read_charges(ledger)
    for number in range(8):
        record_charge(ledger, replace(charge, master=format(number, "064x")))
    found = fold(opened, answers, "tenth").client_privacy
    assert (found.n_releases, found.epsilon) == (10, pytest.approx(17.8566, abs=2e-3))


def test_sampling_counts_where_it_is_said(opened, answers):
    from dp_accounting import dp_event
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    spec = replace(SPEC, client_sampling_rate=0.1, client_delta=1e-6)
    found = fold(opened, answers, spec=spec).client_privacy
    event = dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(1.0))
    assert found.epsilon == pytest.approx(PLDAccountant().compose(event).get_epsilon(1e-6), rel=1e-3)
    assert (found.sampling, found.delta) == ("poisson", 1e-6)


def test_a_kill_leaves_a_charge_and_no_master(opened, answers):
    ledger = opened.folder / "privacy"
    arguments = map(str, command(opened, answers, *NOISY, "--privacy-ledger", ledger))
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read_charges(ledger)) == 1
    assert not (opened.folder / "next").exists()
    assert fold(opened, answers).client_privacy.n_releases == 2


def test_nothing_comes_out_that_cannot_be_charged(opened, answers, fedlpp, monkeypatch):
    cases = [(opened.folder, 3), (opened.master, 4), (opened.folder / "ledger", 4), ("/dev/null", 3)]
    for ledger, code in cases:
        result = fedlpp(command(opened, answers, *NOISY, "--privacy-ledger", ledger))
        assert (result.exit_code, result.stderr.count("error: ")) == (code, 1), (ledger, result.stderr)
        assert str(ledger) in result.stderr
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    result = fedlpp(command(opened, answers, *NOISY, "--privacy-ledger", opened.folder / "privacy"))
    assert (result.exit_code, "needs dp-accounting, which is not installed" in result.stderr) == (2, True)
    assert "fedlpp[dp]" in result.stderr
    assert not (opened.folder / "next").exists()
    assert not (opened.folder / "privacy").exists()


def test_the_clipping_norm_goes_from_master_to_master(opened, answers):
    spec = replace(SPEC, clip_quantile=0.9, clipped_count_stddev=0.6, client_noise_multiplier=1e-6)
    first = fold(opened, answers, spec=spec)
    moved = first.client_privacy.next_clip_norm
    assert header_of(first.path).spec.next_clip_norm == moved != 0.5
    second = opened.next(opened.folder / "next")
    second.send()
    updates = second.answer([arrays(n, 3.0) for n in range(4)], [1] * 4)
    result = fold(second, updates, "after", spec)
    assert result.client_privacy.clip_norm == moved == read_charges(opened.folder / "privacy")[1].clip_norm
    assert [one.clip_factor for one in result.clients] == pytest.approx([moved / 3] * 4, rel=1e-5)
    fixed = fold(second, updates, "fixed", replace(spec, clip_quantile=None, clipped_count_stddev=None))
    assert (fixed.client_privacy.clip_norm, header_of(fixed.path).spec.next_clip_norm) == (0.5, None)
    places = [opened.master, opened.package, *answers, first.path, second.package, *updates, result.path]
    assert [one.outcome for one in verify(places, rerun=True).reruns] == ["equal", "equal"]


def test_an_optimizer_takes_the_noisy_mean(opened, answers):
    spec = replace(SPEC, server_optimizer="momentum", beta1=0.0)
    plain, result = fold(opened, answers, "plain", noise_key=KEY), fold(opened, answers, spec=spec)
    assert np.std(vector(result.path) - vector(opened.master)) == pytest.approx(
        np.std(vector(plain.path) - vector(opened.master)), rel=0.2
    )
    (found,) = verify([opened.master, opened.package, *answers, result.path], rerun=True).reruns
    assert found.outcome == "equal"


def test_computed_again_it_is_equal_and_charged_to_nobody(opened, answers):
    result = fold(opened, answers)
    before = (opened.folder / "privacy").read_bytes()
    inputs = [opened.master, opened.package, *answers]
    assert verify([*inputs, result.path], rerun=True).reruns[0].outcome == "equal"
    assert (opened.folder / "privacy").read_bytes() == before

    def other_key(tensors):
        tensors[NOISE_KEY][0] ^= 1
        return tensors

    forged = reforge(result.path, opened.folder / "forged", kind=MasterHeader, change=other_key)
    with pytest.raises(RerunError, match="tensor"):
        verify([*inputs, forged], rerun=True)


def test_a_key_and_its_announcement_go_together(opened, answers):
    result = fold(opened, answers)

    def without(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != NOISE_KEY}

    spec = header_of(result.path).spec
    bare = replace(spec, aggregate=AggregateSpec())
    for name, fields in (("missing", {"change": without}), ("strange", {"spec": bare})):
        forged = reforge(result.path, opened.folder / name, kind=MasterHeader, **fields)
        with pytest.raises(ArtifactError, match=r"client_privacy\.noise_key"):
            verify([forged])
    assert inspect(result.path).n_parameters == 1403


def test_the_key_is_in_the_master_and_nowhere_else(opened, answers, fedlpp):
    out = opened.folder / "next"
    ledger = opened.folder / "privacy"
    spoken = [fedlpp(command(opened, answers, *NOISY, "--privacy-ledger", ledger, "--json"))]
    assert out.stat().st_mode & 0o777 == 0o600
    key = read_all(out)[NOISE_KEY].numpy().tobytes()
    quantize(out, out=opened.folder / "p", spec=QuantSpec(bits="full"))
    pack(opened.folder / "p", out=opened.folder / "sent", ledger=opened.folder / "ledger")
    quantize(out, out=opened.folder / "rounded")
    export(out, out=opened.folder / "peft")
    inputs = [opened.master, opened.package, *answers]
    spoken += [fedlpp(["inspect", out, *how]) for how in ((), ("--json",))]
    spoken += [fedlpp(["verify", "--rerun", *inputs, out, "--json"])]
    spoken += [fedlpp(command(opened, answers, *NOISY, "--privacy-ledger", ledger, "--force", "--dry-run"))]
    assert [one.exit_code for one in spoken] == [0] * 5
    forms = [key, key.hex().encode(), base64.b64encode(key), json.dumps(list(key)).encode()]
    texts = {f"call {n}": (one.stdout + one.stderr).encode() for n, one in enumerate(spoken)}
    files = [path for path in opened.folder.rglob("*") if path.is_file() and path != out]
    assert len(files) > 12
    texts |= {str(path): path.read_bytes() for path in files}
    assert [name for name, text in texts.items() for form in forms if form in text] == []
    assert key in out.read_bytes()
    proxies = [read_all(opened.folder / name) for name in ("p", "rounded")]
    assert not any("client_privacy" in name for proxy in proxies for name in proxy)


def test_what_the_screen_says(opened, answers, fedlpp):
    ledger = ["--privacy-ledger", opened.folder / "privacy"]
    shown = fedlpp(command(opened, answers, *NOISY, *ledger)).stdout
    assert "epsilon 4.377 at delta 1e-05 for 1 release so far" in shown
    assert "for add or remove one client, everybody in every round" in shown
    assert "norm 4.682 in the mean over 4 expected clients" in shown
    more = ("--client-sampling-rate", "0.5", "--clip-quantile", "0.5", "--clipped-count-stddev", "2", "--force")
    shown = fedlpp(command(opened, answers, *NOISY, *more, *ledger)).stdout
    assert "2 releases so far" in shown
    assert "Poisson sampling of clients at 0.5" in shown
    assert "clipping norm 0.5, next round 0." in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rule", "median"), "rule: noise for clients (client_noise_multiplier) goes with mean"),
        (("--weighting", "examples"), "weighting: noise for clients (client_noise_multiplier) goes with equal"),
        (("--combine", "residual"), "combine: noise for clients (client_noise_multiplier) goes with factors"),
        (("--update-rule", "2"), "update_rule: noise for clients (client_noise_multiplier) goes with 1"),
        (("--clip-to-median",), "clip_to_median: noise for clients (client_noise_multiplier) goes with False"),
        (("--max-share", "0.5"), "max_share: noise for clients (client_noise_multiplier) goes with 1"),
        (("--clip-quantile", "0.5"), "clipped_count_stddev: 0.2, more than half of client_noise_multiplier"),
        (("--clipped-count-stddev", "2"), "clipped_count_stddev: goes with clip_quantile"),
        (("--client-noise-multiplier", "0"), "client_noise_multiplier"),
        (("--client-sampling-rate", "1.5"), "client_sampling_rate"),
        (("--client-delta", "0"), "client_delta"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(opened, answers, fedlpp, options, message):
    result = fedlpp(command(opened, answers, *NOISY, "--privacy-ledger", opened.folder / "privacy", *options))
    assert (result.exit_code, result.stderr.count("error: ")) == (3, 1)
    assert message in " ".join(result.stderr.split())
    assert not (opened.folder / "next").exists()
    assert not (opened.folder / "privacy").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (NOISY, 2, "--privacy-ledger is missing"),
        (("--privacy-ledger", "ledger"), 2, "nothing is charged without --client-noise-multiplier"),
        ((*NOISY[2:], "--privacy-ledger", "ledger"), 3, "clip_norm: client_noise_multiplier needs its unit"),
        ((*NOISY[:4], "--privacy-ledger", "ledger"), 3, "expected_clients: client_noise_multiplier needs"),
        (("--expected-clients", "4"), 3, "expected_clients: goes with client_noise_multiplier"),
        (("--clip-norm", "1", "--clip-quantile", "0.5"), 3, "clip_quantile: goes with client_noise_multiplier"),
        (("--client-sampling-rate", "0.5"), 3, "client_sampling_rate: goes with client_noise_multiplier"),
    ],
)
def test_a_part_of_it_is_refused(opened, answers, fedlpp, options, code, message):
    result = fedlpp(command(opened, answers, *options))
    assert (result.exit_code, result.stderr.count("error: ")) == (code, 1)
    assert message in " ".join(result.stderr.split())


def test_control_variates_and_simulations_are_refused(played, llama, tmp_path, fedlpp):
    recipe = TrainSpec(steps=2, optimizer="sgd", weight_decay=0.0, control_variates=True)
    federation = Federation(tmp_path / "run", llama, clients=("a",), train=recipe, keep_states=True, aggregate=SPEC)
    federation.init()
    federation.send(0)
    federation.train_client(0, "a")
    with pytest.raises(UsageError, match="control variates do not go with --client-noise-multiplier"):
        aggregate(
            federation.master(0), federation.updates(0), packages=[federation.package(0)], out=tmp_path / "m",
            spec=SPEC, privacy_ledger=tmp_path / "privacy",
        )  # fmt: skip
    assert not (tmp_path / "m").exists()
    settings = "[aggregate]\nclip_norm = 0.5\nclient_noise_multiplier = 1.0\nexpected_clients = 4\n"
    (tmp_path / "f.toml").write_text(settings)
    result = fedlpp([
        "simulate", "-f", tmp_path / "f.toml", "--base", llama, "--data", played.data("a"), "--clients", 2, "--rounds",
        1, "--device", "cpu", "--out", tmp_path / "sim",
    ])  # fmt: skip
    assert (result.exit_code, result.stderr.count("error: ")) == (2, 1)
    assert "its noise is secret, and a simulation can be repeated" in result.stderr
    assert not (tmp_path / "sim").exists()


def test_the_federation_file_says_it_too(opened, answers, fedlpp, tmp_path):
    (tmp_path / "f.toml").write_text(
        "[aggregate]\nclip_norm = 0.5\nclient_noise_multiplier = 1.0\nexpected_clients = 4\nclient_delta = 1e-6\n"
    )
    call = command(opened, answers, "-f", tmp_path / "f.toml", "--privacy-ledger", opened.folder / "privacy", "--json")
    found = json.loads(fedlpp(call).stdout)["data"]["client_privacy"]
    assert (found["delta"], found["expected_clients"], found["n_releases"]) == (1e-6, 4, 1)
    assert found["epsilon"] > 4.3772


def test_a_real_round_goes_on_from_a_noisy_master(played, llama, tmp_path):
    out = tmp_path / "next.safetensors"
    result = aggregate(
        played.master(0), played.updates(0), packages=[played.package(0)], out=out, spec=SPEC,
        privacy_ledger=tmp_path / "privacy",
    )  # fmt: skip
    assert result.sha256 == sha256_of(out)
    (scores,) = [row.scores for row in evaluate([out], base=llama, data=played.data("b"), device="cpu").rows[-1:]]
    assert np.isfinite(list(scores.values())).all()
