"""A plan from base and rows to a federation file: numbers that other commands give, and nothing left behind."""

import json

import pytest
from support.forge import sha256_of
from support.tiny import LABELS, label_rows, prompt_rows, write_jsonl

from fedlpp_cli import evaluate, inspect, plan, quantize, simulate
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.cli.app import app
from fedlpp_cli.cli.settings_file import federation_of
from fedlpp_cli.engines.client_data import Cut
from fedlpp_cli.errors import DataError, LeakageError, OutputExistsError, UsageError
from fedlpp_cli.planning.candidates import Grid
from fedlpp_cli.planning.planner import Effort
from fedlpp_cli.records.plans import PlanTargets
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import QuantSpec

FILE = """
base = "{base}"
seed = 5
{more}
[lora]
rank = 4
[train]
steps = 6
batch_size = 8
learning_rate = 0.02
[aggregate]
server_learning_rate = 1.0
[clients]
a = "a.jsonl"
b = "b.jsonl"
"""
TASK = "[task]\nmax_length = 32"
EFFORT = Effort(n_rounds=2, n_finalists=2)
SMALL = Grid(bits=("full", "4", "2"), blocks=(64,), group_by="none")


@pytest.fixture(scope="module")
def place(tmp_path_factory, llama):
    folder = tmp_path_factory.mktemp("plan")
    (folder / "federation.toml").write_text(FILE.format(base=llama, more=TASK))
    for number, name in enumerate(("a", "b")):
        write_jsonl(folder / f"{name}.jsonl", prompt_rows(24, seed=number))
    write_jsonl(folder / "calibration.jsonl", prompt_rows(24, seed=0) + prompt_rows(24, seed=1))
    return folder


def planned(place, **options):
    settings = read_settings(place / "federation.toml")
    federation = federation_of(settings, base=None, seed=None)
    clients = {name: settings.relative(ref) for name, ref in settings.file.clients.items()}
    options = {"grid": SMALL, "effort": EFFORT, "settings": settings, "clients": clients, "device": "cpu"} | options
    return plan(federation, data=place / "calibration.jsonl", **options)


@pytest.fixture(scope="module")
def done(place):
    out = place / "out"
    out.mkdir()
    found = planned(place, out=out / "planned.toml", report=out / "plan.json")
    assert sorted(path.name for path in out.iterdir()) == ["plan.json", "planned.toml"]  # no master is left
    return found


def by_bits(result):
    return {row.quantize.bits: row for row in result.plan.rows}


def test_what_is_not_rounded_is_the_plain_federation(done):
    row = by_bits(done)["full"]
    assert (row.loss_increase, row.gradient_change, row.score) == (0.0, 0.0, 0.0)
    assert row.proxy == pytest.approx(done.plan.plain)
    assert done.plan.plain["loss"] < done.plan.base["loss"]
    assert done.plan.gain == pytest.approx(done.plan.base["loss"] - done.plan.plain["loss"], rel=1e-4)
    assert row.tuned["loss"] != row.proxy["loss"]


def test_the_numbers_are_those_of_the_commands(done, place, tmp_path):
    settings = read_settings(place / "federation.toml")
    federation = federation_of(settings, base=None, seed=None)
    row = next(row for row in done.plan.rows if row.central and row.quantize.bits != "full")
    told = federation_of(settings, base=None, seed=None)
    told = type(told)(**{name: getattr(told, name) for name in told.__slots__} | {"quantize": row.quantize})
    clients = {name: settings.relative(ref) for name, ref in settings.file.clients.items()}
    simulate(told, clients, out=tmp_path / "run", n_rounds=2, device="cpu")
    last = tmp_path / "run" / "round-0002" / "master.safetensors"
    made = quantize(last, out=tmp_path / "proxy", spec=row.quantize)
    assert made.n_bytes == row.bytes_down
    scored = evaluate([last], data=place / "calibration.jsonl", base=federation.base, device="cpu")
    scores = {one.role: one.scores for one in scored.rows}
    assert scores["central"] == pytest.approx(row.central, rel=1e-5)
    assert scores["base"] == pytest.approx(done.plan.base, rel=1e-5)
    whole = scores["base"]["loss"] - scores["central"]["loss"]
    assert row.rho_newest == pytest.approx((scores["base"]["loss"] - scores["proxy"]["loss"]) / whole, rel=1e-3)
    assert row.rho == max(row.rho_newest, row.rho_mean)
    assert row.rho_interval.low <= row.rho <= row.rho_interval.high
    update = tmp_path / "run" / "round-0000" / "updates" / "a.safetensors"
    assert row.bytes_up == sum(one.n_bytes for one in inspect(update).tensors)


def test_the_file_plays_the_setting_that_was_measured(done, place):
    settings = read_settings(place / "out" / "planned.toml")
    chosen = done.plan.rows[done.plan.chosen]
    assert settings.resolve(QuantSpec) == chosen.quantize
    head = (place / "out" / "planned.toml").read_text().splitlines()[:5]
    assert all(line.startswith("# ") for line in head)
    assert f"{chosen.bytes_down} and {chosen.bytes_up}" in head[4]
    federation = federation_of(settings, base=None, seed=None)
    clients = {name: settings.relative(ref) for name, ref in settings.file.clients.items()}
    dry = simulate(federation, clients, out=place / "never", n_rounds=2, device="cpu", dry_run=True)
    assert (dry.plan.bytes_down, dry.plan.bytes_up) == (chosen.bytes_down, chosen.bytes_up)


def test_the_report_says_all_and_is_the_owners(done, place):
    path = place / "out" / "plan.json"
    header = read_report(path).header
    assert header.spec == done.plan
    assert path.stat().st_mode & 0o77 == 0
    text = path.read_text()
    assert str(place) not in text
    assert inspect(path).kind == "report"


def test_the_same_again_gives_the_same_bytes(done, place, tmp_path):
    planned(place, out=tmp_path / "planned.toml", report=tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == (place / "out" / "plan.json").read_bytes()


def test_shards_mixed_widths_and_a_target_that_nothing_meets(place, tmp_path, runner):
    options = [
        "plan", "-f", place / "federation.toml", "--data", place / "calibration.jsonl", "--shards", 2, "--rounds", 1,
        "--finalists", 1, "--bits", "4,3,2", "--block", 64, "--device", "cpu", "--out", tmp_path / "planned.toml",
        "--report", tmp_path / "plan.json", "--max-bytes-down", 700, "--max-rho=-9",
    ]  # fmt: skip
    said = runner.invoke(app, [*map(str, options)])
    assert said.exit_code == 12
    assert "none of the 1 settings that were simulated meets --max-rho -9, --max-bytes-down 700" in said.stderr
    assert "only this is rounded" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert said.stdout.splitlines()[-1] == str(tmp_path / "plan.json")
    found = read_report(tmp_path / "plan.json").header.spec
    assert (found.n_clients, found.n_examples, found.chosen) == (2, 12, None)
    assert {(row.group, row.bits) for row in found.groups} == {(g, b) for g in ("lora_A", "lora_B") for b in "432"}
    mixes = [row for row in found.rows if row.quantize.groups]
    assert mixes
    assert all(set(row.quantize.groups) <= {"lora_A", "lora_B"} for row in mixes)
    assert all(row.bytes_down <= 700 for row in found.rows if row.central)
    assert all(bool(row.skipped) != bool(row.central) for row in found.rows)
    again = runner.invoke(app, [*map(str, options), "--json", "--force"])
    envelope = json.loads(again.stdout)
    assert (again.exit_code, envelope["status"], envelope["error"]["code"]) == (12, "error", "leakage")
    assert len(envelope["data"]["plan"]["rows"]) == len(found.rows)


def test_a_budget_that_is_used_up_says_what_was_not_simulated(place):
    with pytest.raises(LeakageError, match="no setting's rounds were played") as failed:
        planned(place, effort=Effort(n_rounds=1, n_finalists=2, budget_minutes=1e-6))
    rows = failed.value.result.plan.rows
    assert {row.skipped for row in rows} <= {
        "not simulated: the time of --budget was used up", "not simulated: others are as good, or promise more",
    }  # fmt: skip
    assert "not simulated: the time of --budget was used up" in {row.skipped for row in rows}


def test_rounds_go_on_from_a_master(place, tmp_path):
    settings = read_settings(place / "federation.toml")
    federation = federation_of(settings, base=None, seed=None)
    clients = {name: settings.relative(ref) for name, ref in settings.file.clients.items()}
    simulate(federation, clients, out=tmp_path / "run", n_rounds=1, device="cpu")
    master = tmp_path / "run" / "round-0001" / "master.safetensors"
    before = sha256_of(master)
    grid = Grid(bits=("3",), blocks=(64,), group_by="none")
    found = planned(place, master=master, grid=grid, effort=Effort(n_rounds=1, n_finalists=1))
    assert sha256_of(master) == before
    simulate(federation, clients, out=tmp_path / "run", n_rounds=2, device="cpu")
    last = tmp_path / "run" / "round-0002" / "master.safetensors"
    scored = evaluate([last], data=place / "calibration.jsonl", base=federation.base, device="cpu")
    central = next(row.scores for row in scored.rows if row.role == "central")
    assert found.plan.rows[0].central == pytest.approx(central, rel=1e-5)


def test_a_private_base_has_formats_and_a_lower_rank_is_withheld(place, bert, tmp_path):
    labels = json.dumps(list(LABELS))
    more = f'private_base = true\n[task]\nkind = "seq-cls"\nlabels = {labels}\nmax_length = 32'
    (tmp_path / "federation.toml").write_text(FILE.format(base=bert, more=more))
    write_jsonl(tmp_path / "calibration.jsonl", label_rows(64, seed=0))
    grid = Grid(bits=("3",), blocks=(32,), ranks=(4, 2), base_formats=("nf3", None), group_by="none")
    found = planned(
        tmp_path, grid=grid, n_shards=2, clients=None, out=tmp_path / "planned.toml",
        effort=Effort(n_rounds=2, n_finalists=2),
    )  # fmt: skip
    rows = found.plan.rows
    assert [(row.rank, row.combine, row.for_comparison) for row in rows] == [
        (4, "factors", False), (2, "svd", False), (4, "factors", True), (2, "svd", True),
    ]  # fmt: skip
    assert rows[0].bytes_down > rows[1].bytes_down > rows[2].bytes_down > rows[3].bytes_down
    assert found.plan.headline == "accuracy"
    assert sum(bool(row.central) for row in rows[2:]) == 1
    assert found.plan.chosen in (0, 1)
    chosen = rows[found.plan.chosen]
    told = federation_of(read_settings(tmp_path / "planned.toml"), base=None, seed=None)
    assert (told.private_base, told.base_quantize) == (True, chosen.base_quantize)
    assert told.aggregate.combine == chosen.combine
    assert told.proxy_rank == (None if chosen.rank == 4 else 2)
    cut = Cut(data=tmp_path / "calibration.jsonl", n_clients=2)
    dry = simulate(told, cut, out=tmp_path / "never", n_rounds=1, device="cpu", dry_run=True)
    assert dry.plan.bytes_down == chosen.bytes_down


def test_masks_are_measured_as_one_client_gets_them(place, tmp_path):
    """From a master of a method that hides, played plain as well."""
    file = tmp_path / "federation.toml"
    file.write_text('method = "fedqsn"\n' + (place / "federation.toml").read_text().replace('"a.', f'"{place}/a.')
                    .replace('"b.', f'"{place}/b.'))  # fmt: skip
    settings = read_settings(file)
    federation = federation_of(settings, base=None, seed=None)
    clients = {name: settings.relative(ref) for name, ref in settings.file.clients.items()}
    simulate(federation, clients, out=tmp_path / "run", n_rounds=1, device="cpu")
    grid = Grid(bits=("full", "3"), blocks=(64,), masks=(0.25, 0.5), group_by="none")
    found = plan(
        federation, data=place / "calibration.jsonl", clients=clients, grid=grid, settings=settings, device="cpu",
        effort=Effort(n_rounds=1, n_finalists=2), master=tmp_path / "run" / "round-0001" / "master.safetensors",
        out=tmp_path / "planned.toml",
    )  # fmt: skip
    rows = {(row.quantize.bits, row.mask.client): row for row in found.plan.rows}
    assert all("what clients get is rounded" in rows["full", share].skipped for share in (0.25, 0.5))
    assert rows["3", 0.25].proxy != rows["3", 0.5].proxy
    assert rows["3", 0.5].label == "3 bits, block 64, server's mask 0.1, mask 0.5"
    chosen = found.plan.rows[found.plan.chosen]
    told = federation_of(read_settings(tmp_path / "planned.toml"), base=None, seed=None)
    assert (told.method, told.mask, told.quantize) == ("fedqsn", chosen.mask, chosen.quantize)
    simulate(told, clients, out=tmp_path / "run", n_rounds=2, device="cpu")
    last = tmp_path / "run" / "round-0002" / "master.safetensors"
    scored = evaluate([last], data=place / "calibration.jsonl", base=federation.base, mask=told.mask, clients=("a",),
                      device="cpu")  # fmt: skip
    scores = {one.role: one.scores for one in scored.rows}
    assert scores["central"] == pytest.approx(chosen.central, rel=1e-5)
    whole = scores["base"]["loss"] - scores["central"]["loss"]
    assert chosen.rho_newest == pytest.approx((scores["base"]["loss"] - scores["proxy"]["loss"]) / whole, rel=1e-3)
    made = quantize(last, out=tmp_path / "proxy", spec=told.quantize, mask=told.mask, client="a")
    assert made.n_bytes == chosen.bytes_down


def test_a_dry_run_says_sizes_and_computes_nothing(place, runner):
    options = ["plan", "-f", place / "federation.toml", "--data", place / "calibration.jsonl", "--dry-run", "--json",
               "--out", place / "x.toml", "--rank", "4,2", "--mask-client", "0,.5"]  # fmt: skip
    found = json.loads(runner.invoke(app, [*map(str, options)]).stdout)["data"]
    assert (found["path"], found["report"], found["plan"]["chosen"]) == (None, None, None)
    rows = found["plan"]["rows"]
    assert len(rows) == 32
    refused = [(row["rank"], row["mask"]["client"]) for row in rows if not row["skipped"].startswith("dry run")]
    assert refused == [(2, 0.5)] * 8
    assert all(row["bytes_down"] > 0 and row["skipped"] for row in found["plan"]["rows"])
    assert not (place / "x.toml").exists()


@pytest.mark.parametrize(
    ("options", "problem", "message"),
    [
        ({"grid": Grid(ranks=(5,))}, UsageError, "--rank 5: the master's is 4"),
        ({"grid": Grid(base_formats=("nf4",))}, UsageError, "--base-format: the base is public"),
        ({"clients": None}, UsageError, "--shards is missing"),
        ({"n_shards": 12}, DataError, "48 rows: for 12 shards, 52 are needed"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_any_work(place, options, problem, message):
    with pytest.raises(problem, match=message):
        planned(place, **options)


@pytest.mark.parametrize(
    "options",
    [
        ["--bits", "4,7"],
        ["--block", "64,x"],
        ["--block", "0"],
        ["--scale", "int8"],
        ["--mask-client", "0.5,1"],
        ["--mask-client", "1e-3"],
    ],
)
def test_lists_of_settings_are_checked(place, runner, options):
    data = ["-f", str(place / "federation.toml"), "--data", str(place / "calibration.jsonl")]
    said = runner.invoke(app, ["plan", *data, *options])
    assert said.exit_code == 2
    assert options[0] in said.stderr


def test_a_file_that_is_there_stays(done, place):
    with pytest.raises(OutputExistsError):
        planned(place, out=place / "out" / "planned.toml", targets=PlanTargets(max_rho=0.5))
    with pytest.raises(OutputExistsError):
        planned(place, report=place / "out" / "plan.json")


def test_the_rank_of_the_file_is_the_proxys(played, runner, tmp_path):
    (tmp_path / "federation.toml").write_text("proxy_rank = 2\n")
    call = ["quantize", str(played.master(0)), "-f", str(tmp_path / "federation.toml"), "--json"]
    for more, rank in ((["--out", str(tmp_path / "a")], 2), (["--out", str(tmp_path / "b"), "--rank", "3"], 3)):
        assert json.loads(runner.invoke(app, [*call, *more]).stdout)["data"]["rank"] == rank
