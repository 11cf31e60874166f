"""What scripts may rely on: exit codes, what goes to stdout, the JSON envelope."""

import json
import subprocess
import sys

import pytest
from support.forge import sha256_of
from support.parties import Federation

from fedlpp_cli import canonical
from fedlpp_cli.cli.app import app
from fedlpp_cli.privacy.budget_ledger import Budget, Charge, record_charge
from fedlpp_cli.version import __version__

COMMANDS = (
    "init", "import", "quantize", "pack", "client-train", "budget", "aggregate", "simulate", "evaluate", "audit",
    "export", "plan", "keygen", "methods", "inspect", "verify", "status", "log", "report",
    "distill publish", "distill train",
)  # fmt: skip
# The keys of `data` for each command: more may come, none may go.
_MASTER = "path sha256 federation method model_type private_base n_layers n_parameters modules_to_save"
DATA_KEYS = {
    "init": _MASTER,
    "import": _MASTER,
    "quantize": (
        "path sha256 federation round quantize rank n_parameters n_bytes bits_per_parameter base control_variates "
        "base_quantize mask client visible warnings groups"
    ),
    "pack": "path sha256 federation round client train update n_files n_bytes ledger signed_with",
    "client-train": (
        "path sha256 federation round client train quantize n_examples n_cut n_steps n_parameters n_bytes "
        "bits_per_parameter metrics state compute plan resumed_from privacy signers warnings"
    ),
    "budget": "path delta epsilon max_epsilon left n_rounds_left charges",
    "aggregate": (
        "path sha256 report federation round aggregate optimizer_steps median_change withheld_norm client_privacy "
        "n_clients n_examples clients rejected"
    ),
    "simulate": "path federation round sha256 rounds plan attack",
    "evaluate": "path rows n_examples n_cut n_overlap data headline gap gaps recovery spreads per_class",
    "audit": "path federation round sha256 report",
    "plan": "path report plan",
    "distill publish": (
        "path sha256 teacher task inputs n_inputs n_answers n_cut targets top_k n_outcomes n_bytes signed_with warnings"
    ),
    "distill train": (
        "path sha256 federation model_type n_parameters transcripts n_cut train loss temperature n_steps loss_first "
        "loss_last warnings"
    ),
    "export": "path format round n_bytes",
    "keygen": "path public name key fingerprint encrypted",
    "inspect": "path kind sha256 n_bytes header tensors files n_parameters bits_per_parameter unquantized signers",
    "verify": "artifacts missing reruns",
    "status": "path federation round n_finished has_master has_proxy has_package updates missing states next",
    "log": "path federation method rounds",
    "methods": "methods",
    "report": "path plots federation n_bytes sections figures missing",
}
KEY = "ed25519:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
BUDGET = Budget(delta=1e-5, max_epsilon=8.0)
CHARGE = Charge(
    federation="a" * 64, round=0, package="b" * 64, client="c", data="c" * 64, noise_multiplier=1.0, sampling_rate=1.0,
    n_steps=1, run="1" * 64, update="d" * 64,
)  # fmt: skip

_CLIENT_PRIVACY = (
    "relation sampling sampling_rate expected_clients noise_multiplier update_noise_multiplier clip_norm "
    "next_clip_norm noise_norm n_releases delta epsilon"
)
NOISE = ("--clip-norm", "1", "--client-noise-multiplier", "1", "--expected-clients", "3")


@pytest.fixture
def fedlpp(runner):
    def run(*arguments):
        words = [word for argument in arguments[:1] for word in str(argument).split()]
        return runner.invoke(app, [*words, *(str(argument) for argument in arguments[1:])])

    return run


@pytest.fixture
def calls(played, llama, tmp_path):
    """Command to arguments of a call that succeeds; made one after the other they are a round."""
    run, out = played.folder, tmp_path / "out"
    record_charge(tmp_path / "ledger", BUDGET, CHARGE)
    (tmp_path / "federation.toml").write_text("[task]\nmax_length = 32\n[train]\nsteps = 1\n")
    return {
        "init": ["--base", llama, "--max-length", 32, "--out", out / "master.safetensors"],
        "quantize": [run / "round-0000" / "master.safetensors", "--out", out / "proxy.safetensors"],
        "pack": [played.proxy(0), "--steps", 2, "--out", out / "package"],
        "client-train": [
            played.package(0), "--base", llama, "--client", "c", "--data", played.data("a"), "--device", "cpu",
            "--out", out / "c.safetensors",
        ],
        "budget": [tmp_path / "ledger"],
        "aggregate": [
            played.master(0), *played.updates(0), "--package", played.package(0), "--out", out / "next.safetensors",
        ],
        "simulate": [
            "-f", tmp_path / "federation.toml", "--base", llama, "--data", played.data("a"), "--clients", 2, "--rounds",
            1, "--device", "cpu", "--out", out / "run",
        ],
        "plan": [
            "-f", tmp_path / "federation.toml", "--base", llama, "--data", played.data("b"), "--shards", 1, "--rounds",
            1, "--bits", "4", "--block", 64, "--group-by", "none", "--finalists", 1, "--device", "cpu", "--out",
            out / "planned.toml",
        ],
        "evaluate": [played.master(1), "--base", llama, "--data", played.data("b"), "--device", "cpu"],
        "audit": [
            run, "--base", llama, "--data", played.data("b"), "--attacks", "proxy,average", "--device", "cpu", "--out",
            out / "audit.json",
        ],
        "distill publish": [
            played.master(1), "--base", llama, "--teacher", "owner", "--random", "--n-inputs", 8, "--device", "cpu",
            "--out", out / "transcript.safetensors",
        ],
        "distill train": [
            "--student", llama, "--transcript", out / "transcript.safetensors", "--steps", 2, "--device", "cpu",
            "--out", out / "student.safetensors",
        ],
        "export": [played.master(1), "--out", out / "peft"],
        "import": [out / "peft", "--base", llama, "--max-length", 32, "--out", out / "imported.safetensors"],
        "keygen": ["--name", "clinic", "--no-passphrase", "--out", out / "clinic.pem"],
        "methods": [],
        "inspect": [played.package(0)],
        "verify": [run],
        "status": [run],
        "log": [run],
        "report": [run, "--out", out / "report.html"],
    }  # fmt: skip


def remove_keys(command, arguments):
    if command == "keygen":
        for suffix in (".pem", ".pub"):
            arguments[-1].with_suffix(suffix).unlink()


def test_every_command_succeeds_in_text_in_json_and_quietly(fedlpp, calls):
    assert set(calls) == set(COMMANDS)
    for command, arguments in calls.items():
        writes = "--out" in map(str, arguments)
        # What is there, simulate goes on with; keys are not written over.
        force = ["--force"] if writes and command not in {"simulate", "keygen"} else []
        text = fedlpp(command, *arguments)
        remove_keys(command, arguments)
        quiet = fedlpp(command, *arguments, "--quiet", *force)
        remove_keys(command, arguments)
        found = fedlpp(command, *arguments, "--json", *force)
        assert (text.exit_code, quiet.exit_code, found.exit_code) == (0, 0, 0), (command, text.stderr, found.stderr)
        assert (text.stderr, quiet.stderr, found.stderr) == ("", "", "")
        envelope = json.loads(found.stdout)
        assert set(envelope) == {"envelope", "command", "status", "data"}
        assert (envelope["envelope"], envelope["command"], envelope["status"]) == (1, command, "success")
        assert set(envelope["data"]) >= set(DATA_KEYS[command].split())
        if writes:
            path = str(arguments[arguments.index("--out") + 1])
            assert text.stdout.rstrip().splitlines()[-1] == path
            assert quiet.stdout == path + "\n"
        else:
            assert quiet.stdout == ""


def test_failures_are_one_line_an_exit_code_and_an_envelope(fedlpp, played, llama, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": 3}\n')
    (tmp_path / "there").write_text("")
    (tmp_path / "odd.toml").write_text("[train]\nstep = 3\n")
    (tmp_path / "bad.ledger").write_text("{}\n")
    released = {"about": "adapter", "master": sha256_of(played.master(0)), "proxy": "0" * 64, "quantize": {}}
    (tmp_path / "other.ledger").write_bytes(canonical.encode(released) + b"\n")
    out = ["--out", tmp_path / "out.safetensors"]
    train = ["client-train", played.package(0), "--client", "c", "--base", llama]
    fold = ["aggregate", played.master(0), *played.updates(0), "--package", played.package(0)]
    (tmp_path / "templates.txt").write_text("<nothing like it>\n")
    publish = ["distill publish", played.master(0), "--base", llama, "--teacher", "owner"]
    learn = ["distill train", "--student", llama, "--transcript"]
    cases = [
        (2, "usage", ["pack"]),
        (2, "usage", [*fold, "--rule", "median", "--weighting", "examples", *out]),
        (2, "usage", ["quantize", played.master(0), "--bits", "7", *out]),
        (2, "usage", ["quantize", played.master(0), "--rank", "5", *out]),
        (3, "settings", [*fold, "--combine", "svd", "--rule", "median", *out]),
        (3, "settings", [*fold, "--expected-clients", "3", *out]),
        (2, "usage", [*fold, *NOISE, *out]),
        (2, "usage", [*fold, "--privacy-ledger", tmp_path / "privacy", *out]),
        (4, "artifact", [*fold, *NOISE, "--privacy-ledger", tmp_path / "bad.ledger", *out]),
        (2, "usage", ["init", *out]),
        (2, "usage", ["distill publish", *out]),
        (2, "usage", [*publish, *out]),
        (2, "usage", [*publish, "--random", "--top-k", 999, *out]),
        (3, "settings", [*publish, "--random", "--n-inputs", 0, *out]),
        (3, "data", [*publish, "--templates", tmp_path / "templates.txt", *out]),
        (3, "settings", [*learn, played.master(0), "--temperature", 0, *out]),
        (4, "artifact", [*learn, tmp_path / "there", *out]),
        (5, "lineage", [*learn, played.master(0), *out]),
        (7, "secrecy", [*learn, played.master(0), "--out", "hf://org/repo/master.safetensors"]),
        (2, "usage", ["inspect", "s3://bucket/file"]),
        (3, "input", ["inspect", tmp_path / "gone"]),
        (3, "settings", ["pack", played.proxy(0), "-f", tmp_path / "odd.toml", *out]),
        (3, "settings", ["quantize", played.master(0), "--block", "0", *out]),
        (3, "settings", ["quantize", played.master(0), "--rounding", "stochastic", *out]),
        (3, "data", [*train, "--data", tmp_path / "bad.jsonl", *out]),
        (3, "model", ["client-train", played.package(0), "--client", "c", "--base", tmp_path, "--data", "x", *out]),
        (4, "artifact", ["inspect", tmp_path / "there"]),
        (4, "artifact", ["pack", played.proxy(0), "--ledger", tmp_path / "bad.ledger", *out]),
        (5, "lineage", ["quantize", played.proxy(0), *out]),
        (6, "gate-quorum", [*fold, "--min-clients", 3, *out]),
        (6, "gate-quorum", [*fold, "--rule", "krum", "--n-malicious", 1, *out]),
        (7, "secrecy", ["pack", played.master(0), *out]),
        (7, "secrecy-release", ["pack", played.proxy(0), "--ledger", tmp_path / "other.ledger", *out]),
        (7, "secrecy", ["init", "--base", llama, "--out", "hf://org/repo/master.safetensors"]),
        (2, "usage", ["keygen", "--name", "clinic", *out]),
        (7, "secrecy", ["keygen", "--name", "clinic", "--no-passphrase", "--out", "hf://org/repo/clinic.pem"]),
        (10, "policy-signer", [*train, "--signer", KEY, "--data", "x", *out]),
        (10, "policy-signer", ["verify", played.package(0), "--signer", KEY]),
        (10, "policy-signer", [*learn, played.master(0), "--signer", KEY, *out]),
        (2, "usage", ["report", played.folder, played.folder, *out]),
        (3, "input", ["report", tmp_path / "gone.json", *out]),
        (4, "artifact", ["report", tmp_path / "there", *out]),
        (8, "output-exists", ["quantize", played.master(0), "--out", tmp_path / "there"]),
    ]
    for code, name, arguments in cases:
        text, found = fedlpp(*arguments), fedlpp(*arguments, "--json")
        assert (text.exit_code, found.exit_code) == (code, code), (arguments, text.stderr, found.stderr)
        assert "Traceback" not in text.stderr + found.stderr
        envelope = json.loads(found.stdout)
        assert set(envelope) == {"envelope", "command", "status", "error"}
        assert (envelope["status"], envelope["error"]["code"], envelope["error"]["exit_code"]) == ("error", name, code)
        assert envelope["command"] == arguments[0]
        assert set(envelope["error"]) == {"code", "message", "hint", "exit_code"}
        if name != "usage":
            assert text.stdout == ""
            assert text.stderr.startswith("error: ")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(fedlpp, command):
    result = fedlpp(command, "--help")
    assert result.exit_code == 0
    assert f"fedlpp {command} " in result.stdout
    assert "--json" in result.stdout


def test_the_commands_are_these_and_no_others(fedlpp):
    shown = fedlpp("--help").stdout
    assert all(f" {command.split()[0]} " in shown for command in COMMANDS)
    registered = {command.name for command in app.registered_commands}
    groups = {group.name or group.typer_instance.info.name: group.typer_instance for group in app.registered_groups}
    registered |= {f"{name} {one.name}" for name, group in groups.items() for one in group.registered_commands}
    assert registered == set(COMMANDS)


def test_the_version_is_told(fedlpp):
    assert fedlpp("--version").stdout == f"fedlpp {__version__}\n"


def test_a_bug_of_ours_is_one_line_and_its_traceback_is_for_those_who_ask(fedlpp, monkeypatch, played):
    def broken(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("fedlpp_cli.steps.inspect.inspect", broken)
    result = fedlpp("inspect", played.master(0))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: internal error: KeyError: 'oops'" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("FEDLPP_DEBUG", "1")
    assert "Traceback" in fedlpp("inspect", played.master(0)).stderr


def test_ctrl_c_ends_with_130_and_leaves_nothing(fedlpp, monkeypatch, played, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedlpp_cli.steps.quantize.quantize_tensor", interrupted)
    result = fedlpp("quantize", played.master(0), "--out", tmp_path / "proxy.safetensors")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert list(tmp_path.glob("[!.]*")) == []
    assert list(tmp_path.glob(".*draft*")) == []


def test_what_a_stranger_wrote_cannot_steer_the_terminal(fedlpp, tmp_path):
    name = tmp_path / "evil\x1b[2J\u202e.safetensors"
    result = fedlpp("inspect", name)
    assert "\x1b" not in result.stderr
    assert "\u202e" not in result.stderr
    assert "\\x1b[2J" in result.stderr


def test_markup_in_a_name_is_shown_as_it_is(fedlpp, tmp_path):
    assert "[red]x[/red]" in fedlpp("inspect", f"{tmp_path}/[red]x[/red]").stderr


def test_settings_come_from_options_then_the_file_then_defaults(fedlpp, played, tmp_path):
    (tmp_path / "f.toml").write_text('[quantize]\nbits = "4"\nblock = 32\n')
    call = ["quantize", played.master(0), "-f", tmp_path / "f.toml", "--bits", "2", "--dry-run", "--json"]
    found = json.loads(fedlpp(*call, "--out", tmp_path / "p").stdout)["data"]["quantize"]
    assert (found["bits"], found["block"], found["scale"]) == ("2", 32, "fp16")


def test_rounding_is_told_by_options_and_an_option_undoes_what_the_file_says(fedlpp, played, tmp_path):
    (tmp_path / "f.toml").write_text('[quantize]\nrounding = "stochastic"\nrounding_seed = "spring"\n')

    def rounding(*options):
        call = ["quantize", played.master(0), *options, "--dry-run", "--json", "--out", tmp_path / "p"]
        found = json.loads(fedlpp(*call).stdout)["data"]["quantize"]
        return found["rounding"], found["rounding_seed"], found["scale_rounding"]

    drawn = ["--rounding", "stochastic", "--rounding-seed", "a", "--scale-rounding", "up"]
    assert rounding(*drawn) == ("stochastic", "a", "up")
    assert rounding("-f", tmp_path / "f.toml") == ("stochastic", "spring", "nearest")
    assert rounding("-f", tmp_path / "f.toml", "--rounding", "nearest") == ("nearest", None, "nearest")
    assert rounding("-f", tmp_path / "f.toml", "--bits", "full") == ("nearest", None, "nearest")
    shown = fedlpp("quantize", played.master(0), *drawn, "--out", tmp_path / "p").stdout
    assert "3 bits, block 64, fp16 scales rounded up, stochastic a: 3.25 bits a parameter" in shown


def test_the_federation_file_and_options_say_how_updates_are_rounded(fedlpp, played, tmp_path):
    (tmp_path / "f.toml").write_text('[quantize]\nbits = "2"\n[update]\nbits = "4"\nblock = 32\n')
    call = ["pack", played.proxy(0), "-f", tmp_path / "f.toml", "--dry-run", "--json", "--out", tmp_path / "p"]
    cases = (
        ([], ("4", 32, "fp16")),
        (["--update-bits", "ternary", "--update-scale", "fp32"], ("ternary", 32, "fp32")),
        (["--update-block", 16], ("4", 16, "fp16")),
        (["--update-bits", "full"], ("full", 64, "fp16")),
    )
    for options, expected in cases:
        found = json.loads(fedlpp(*call, *options).stdout)["data"]["update"]
        assert (found["bits"], found["block"], found["scale"]) == expected
    (tmp_path / "f.toml").write_text('[update]\nbits = "4"\nrounding = "stochastic"\nrounding_seed = "s"\n')
    assert json.loads(fedlpp(*call).stdout)["error"]["exit_code"] == 2


def test_rounded_updates_and_states_read_well(fedlpp, played, llama, tmp_path):
    fedlpp("pack", played.proxy(0), "--steps", 2, "--update-bits", "4", "--out", tmp_path / "package", "-q")
    train = [
        "client-train", tmp_path / "package", "--base", llama, "--client", "c", "--data", played.data("a"), "--device",
        "cpu", "--out", tmp_path / "c", "--state-out", tmp_path / "s",
    ]  # fmt: skip
    assert "4.25 bits a parameter" in fedlpp(*train, "--dry-run").stdout
    assert fedlpp(*train, "-q").stdout == f"{tmp_path / 'c'}\n"
    shown = fedlpp(*train, "--force").stdout
    assert "4.25 bits a parameter" in shown
    assert f"{tmp_path / 's'}" in shown
    assert shown.rstrip().splitlines()[-1] == str(tmp_path / "c")
    found = json.loads(fedlpp(*train, "--force", "--json").stdout)["data"]
    assert (found["quantize"]["bits"], found["state"]) == ("4", str(tmp_path / "s"))
    assert "4.25 bits a parameter" in fedlpp("inspect", tmp_path / "c").stdout
    assert "state" in fedlpp("inspect", tmp_path / "s").stdout
    assert fedlpp("verify", tmp_path / "s", tmp_path / "c", tmp_path / "package").exit_code == 0
    again = fedlpp(*train, "--force", "--state", tmp_path / "s")
    assert (again.exit_code, "the package is of round 0" in again.stderr) == (5, True)
    secret = fedlpp(*train[:-1], "hf://org/repo/state.safetensors", "--force")
    assert secret.exit_code == 7


def test_privacy_for_clients_is_told_in_json(fedlpp, played, tmp_path):
    call = [
        "aggregate", played.master(0), *played.updates(0), "--package", played.package(0), *NOISE, "--client-delta",
        "1e-6", "--client-sampling-rate", "0.5", "--clip-quantile", "0.5", "--clip-learning-rate", "0.1",
        "--clipped-count-stddev", "1", "--privacy-ledger", tmp_path / "privacy", "--out", tmp_path / "m", "--json",
    ]  # fmt: skip
    found = json.loads(fedlpp(*call).stdout)["data"]
    assert set(found["client_privacy"]) == set(_CLIENT_PRIVACY.split())
    spec = found["aggregate"]
    named = ("client_delta", "client_sampling_rate", "clip_quantile", "clip_learning_rate", "clipped_count_stddev")
    assert [spec[name] for name in named] == [1e-6, 0.5, 0.5, 0.1, 1.0]
    assert json.loads((tmp_path / "privacy").read_text())["about"] == "round"


def test_a_training_tells_that_it_went_on_and_from_where(fedlpp, played, llama, tmp_path, monkeypatch):
    train = [
        "client-train", played.package(0), "--base", llama, "--client", "c", "--data", played.data("a"), "--device",
        "cpu", "--out", tmp_path / "c", "--checkpoint", tmp_path / "kept", "--checkpoint-every", "1",
    ]  # fmt: skip
    monkeypatch.setattr("fedlpp_cli.steps.checkpoints.Checkpoints.remove", lambda self: None)
    assert "checkpoint" not in fedlpp(*train).stdout
    monkeypatch.undo()
    assert "checkpoint" in fedlpp("inspect", tmp_path / "kept").stdout
    assert "went on from step 3" in fedlpp(*train, "--dry-run", "--force").stdout
    found = json.loads(fedlpp(*train, "--force", "--json").stdout)["data"]
    assert (found["resumed_from"], found["warnings"]) == (3, [])
    assert not (tmp_path / "kept").exists()
    assert json.loads(fedlpp(*train, "--force", "--json").stdout)["data"]["resumed_from"] is None


def test_the_federation_file_and_options_say_how_hard_clients_are_pulled_back(fedlpp, played, tmp_path):
    (tmp_path / "f.toml").write_text("[train]\nsteps = 2\nproximal_mu = 0.1\n")
    call = ["pack", played.proxy(0), "--dry-run", "--out", tmp_path / "p"]
    for options, expected in (([], 0.1), (["--proximal-mu", "0.5"], 0.5), (["--proximal-mu", "0"], 0.0)):
        found = json.loads(fedlpp(*call, "-f", tmp_path / "f.toml", *options, "--json").stdout)["data"]["train"]
        assert found["proximal_mu"] == expected
    assert "proximal mu 0.5" in fedlpp(*call, "--steps", 2, "--proximal-mu", "0.5").stdout
    assert "proximal" not in fedlpp(*call, "--steps", 2).stdout
    refused = fedlpp(*call, "--steps", 2, "--proximal-mu", "-1")
    assert (refused.exit_code, "proximal_mu" in refused.stderr) == (3, True)


def test_the_federation_file_and_options_say_whether_gradients_are_corrected(fedlpp, played, tmp_path):
    settings = (
        "[train]\noptimizer = 'sgd'\nweight_decay = 0.0\ncontrol_variates = true\n[aggregate]\nn_population = 5\n"
    )
    (tmp_path / "f.toml").write_text(settings)
    call = ["pack", played.proxy(0), "-f", tmp_path / "f.toml", "--dry-run", "--out", tmp_path / "p"]
    for options, expected in (([], True), (["--no-control-variates"], False)):
        found = json.loads(fedlpp(*call, *options, "--json").stdout)["data"]["train"]
        assert found["control_variates"] is expected
    assert "learning rate 0.002, control variates" in fedlpp(*call).stdout
    fold = ["aggregate", played.master(0), *played.updates(0), "--package", played.package(0), "--out", tmp_path / "m"]
    refused = fedlpp(*fold, "-f", tmp_path / "f.toml", "--dry-run")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "--n-population 5: the package asks for no control variates" in refused.stderr


def test_the_installed_program_runs(played):
    result = subprocess.run(
        [sys.executable, "-m", "fedlpp_cli", "log", str(played.folder), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["data"]["rounds"][0]["clients"] == ["a", "b"]


def test_a_federation_of_another_shape_reads_well(fedlpp, gpt2, tmp_path):
    federation = Federation(tmp_path / "run", gpt2, clients=("north", "south"))
    federation.play(1)
    shown = fedlpp("log", federation.folder).stdout
    assert "round-" not in shown.splitlines()[0]
    assert [line.split()[0] for line in shown.splitlines() if line.strip()[:1].isdigit()] == ["0", "1"]
