"""What a malicious client can do to an owner: threats C1 to C14 of docs/threats-from-clients.md, by the command line.

Each is forged out of sound updates by way of the real writer. Without a quorum it stops the round, in one line and
with a code of its own, and nothing is written; with one the round goes on without it, to the master that the sound
updates alone give. Where the two differ from that, the row says so.
"""

import gzip
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli.artifact import tensor_header
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.artifact.report_file import read_report
from fedlpp_cli.cli.app import app

FIRST = "model.layers.0.mlp.down_proj.lora_A"
CLIENTS = ("a", "b", "c", "d")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def four(tmp_path_factory, llama):
    """Four clients of one round, trained on a package with a limit for norms. The last one is malicious. Read only."""
    federation = Federation(tmp_path_factory.mktemp("four"), llama, clients=CLIENTS)
    federation.train = replace(federation.train, max_update_norm=10.0)
    federation.play(1)
    return federation


@pytest.fixture
def fedlpp(runner):
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run(four, fedlpp, tmp_path):
    """`aggregate` on updates: the result as the terminal has it."""

    def call(updates, *options, out="next.safetensors", package=None):
        return fedlpp(
            "aggregate", four.master(0), *updates, "--package", package or four.package(0),
            "--out", tmp_path / "out" / out, "--force", *options,
        )  # fmt: skip

    return call


@pytest.fixture
def aggregate(run):
    """The same with `--json`: exit code, and the envelope's data or error."""

    def call(updates, *options, **more):
        result = run(updates, *options, "--json", **more)
        assert "Traceback" not in result.stderr
        envelope = json.loads(result.stdout)
        return result.exit_code, envelope.get("data") or envelope["error"]

    return call


@pytest.fixture
def package_for(four, fedlpp, tmp_path):
    """Another package of the round; an update that was trained on it differs from others in its parents alone."""

    def pack(name, *options):
        folder = tmp_path / name
        assert fedlpp("pack", four.proxy(0), "--steps", 3, *options, "--out", folder).exit_code == 0
        parents = {"package": (sha256_of_file(folder / "manifest.json"),), "proxy": (sha256_of(four.proxy(0)),)}
        return folder, parents

    return pack


def setting(value):
    def change(tensors):
        tensors[FIRST].view(-1)[3] = value
        return tensors

    return change


def times(factor):
    return lambda tensors: {name: factor * value for name, value in tensors.items()}


def forged(client="d", **fields):
    """An update of that client with other tensors or header fields, sound as a file."""
    return lambda four, path: reforge(four.update(0, client), path, **fields)


def header_text(change):
    """An update whose header says what the writer would not let it say: the file's header goes through `change`."""

    def make(four, path):
        raw = four.update(0, "d").read_bytes()
        n_header = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + n_header])
        change(header["__metadata__"])
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n_header :])
        return path

    return make


def saying(field, value):
    """The artifact's own header with another value, in canonical form."""

    def change(metadata):
        own = json.loads(metadata["fedlpp"])
        *path, last = field.split(".")
        place = own
        for name in path:
            place = place[name]
        place[last] = value
        metadata["fedlpp"] = json.dumps(own, sort_keys=True, separators=(",", ":"))

    return header_text(change)


def with_configuration(metadata):
    """Where an adapter's configuration would be put: a second entry in the metadata."""
    metadata["adapter_config.json"] = '{"base_model_name_or_path": "evil/model"}'


def copy_of(client, path, four, *, smaller):
    """An update of d with the tensors of another client, and a file whose sha256 is smaller, or larger, than its."""
    spec, theirs = header_of(four.update(0, "d")).spec, sha256_of(four.update(0, client))
    for n_tokens in range(1, 4096):
        path.unlink(missing_ok=True)
        metrics = replace(spec.metrics, n_tokens=n_tokens)
        reforge(four.update(0, client), path, spec=replace(spec, metrics=metrics))
        if (sha256_of(path) < theirs) == smaller:
            return path
    raise AssertionError("4096 times the same side")


def bomb(four, path):
    """An update with a terabyte of zeros behind it. Reading it would take longer than a test may."""
    shutil.copy(four.update(0, "d"), path)
    os.truncate(path, 2**40)
    return path


def one_byte_more(four, path):
    path.write_bytes(four.update(0, "d").read_bytes() + b"\0")
    return path


def compressed(four, path):
    path.write_bytes(gzip.compress(four.update(0, "d").read_bytes()))
    return path


def of_a_stranger(four, path):
    """Says that it is of somebody else, and was trained on the package for d."""
    spec = replace(header_of(four.update(0, "d")).spec, client="z")
    parents = {"package": (sha256_of_file(path.parent / "for-d" / "manifest.json"),)}
    return reforge(four.update(0, "d"), path, spec=spec, parents=parents)


@dataclass(frozen=True)
class Threat:
    """How it is forged, what comes of it, and whether it stops the round whatever the quorum.

    `options`: of the call; `{folder}` is where the package for d lies. `all_four`: the forged one comes beside the
    updates of all clients, not in place of the last.
    """

    exit_code: int
    code: str
    make: Callable[[Federation, Path], Path]
    options: tuple[str, ...] = ()
    all_four: bool = False
    stops: bool = False


THREATS = {
    "C1 NaN": Threat(6, "gate-not-finite", forged(change=setting(math.nan))),
    "C1 infinity": Threat(6, "gate-not-finite", forged(change=setting(-math.inf))),
    "C2 a huge norm": Threat(6, "gate-norm", forged(change=times(100))),
    "C3 a missing tensor": Threat(5, "lineage-layout", forged(change=lambda t: dict(list(t.items())[1:]))),
    "C3 a tensor more": Threat(5, "lineage-layout", forged(change=lambda t: {**t, "x": torch.ones(1)})),
    "C3 another rank": Threat(5, "lineage-layout", forged(change=lambda t: {**t, FIRST: t[FIRST][:2]})),
    "C3 turned round": Threat(5, "lineage-layout", forged(change=lambda t: {**t, FIRST: t[FIRST].T.contiguous()})),
    "C3 another type": Threat(5, "lineage-layout", forged(change=lambda t: {**t, FIRST: t[FIRST].half()})),
    "C4 a configuration in it": Threat(4, "artifact", header_text(with_configuration)),
    "C4 a field that nobody knows": Threat(4, "artifact", saying("spec.auto_map", "evil.py")),
    "C5 a second update": Threat(5, "lineage-duplicate", forged(change=times(0.5)), all_four=True, stops=True),
    "C6 more examples than numbers go": Threat(4, "artifact", saying("spec.metrics.n_examples", 2**60)),
    "C6 a weight of nearly all": Threat(
        6, "gate-quorum", saying("spec.metrics.n_examples", 10**9), stops=True,
        options=("--weighting", "examples", "--max-share", "0.2"),
    ),
    "C7 of an older round": Threat(5, "lineage-replay", forged(round=3)),
    "C7 of another federation": Threat(5, "lineage-replay", forged(federation="0" * 64)),
    "C7 of another package": Threat(5, "lineage-replay", forged(parents={"package": ("0" * 64,)})),
    "C8 a stranger with another's package": Threat(
        5, "lineage-client", of_a_stranger, options=("--package", "{folder}/for-d")
    ),
    "C9 a backdoor as loud as it takes": Threat(6, "gate-norm", forged(change=times(-40))),
    "C10 nothing in it": Threat(6, "gate-unchanged", forged(change=times(0))),
    "C10 the update of another": Threat(
        5, "lineage-copied", lambda four, path: copy_of("a", path, four, smaller=False)
    ),
    "C11 a terabyte": Threat(4, "artifact-size", bomb),
    "C11 a byte too many": Threat(4, "artifact", one_byte_more),
    "C11 an archive": Threat(4, "artifact", compressed),
    "C12 a name that steers a terminal": Threat(4, "artifact", saying("spec.client", "d\x1b[2J")),
    "C12 a name with markup": Threat(4, "artifact", saying("spec.client", "[red]d[/red]")),
    "C12 a name that is a path": Threat(4, "artifact", saying("spec.client", "../../etc/passwd")),
    "C12 a tensor's name with an escape": Threat(
        4, "artifact", lambda four, path: with_tensor_name(four, path, "\x1b]0;owned\x07")
    ),
    "C13 the largest exponent": Threat(6, "gate-norm", forged(change=setting(3.4e38))),
    "C14 a last one that shall count": Threat(
        5, "lineage-duplicate", saying("spec.metrics.n_steps", 10**6), all_four=True, stops=True
    ),
}  # fmt: skip


def with_tensor_name(four, path, name):
    raw = four.update(0, "d").read_bytes()
    n_header = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n_header])
    header[name] = header.pop(FIRST)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n_header :])
    return path


def files_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("threat", THREATS)
def test_it_has_a_code_stops_a_strict_round_and_not_one_with_a_quorum(
    four, run, aggregate, package_for, tmp_path, threat
):
    row = THREATS[threat]
    package_for("for-d", "--client", "d")
    options = [option.format(folder=tmp_path) for option in row.options]
    bad, sound = row.make(four, tmp_path / "bad"), four.updates(0)[: 4 if row.all_four else 3]

    found, error = aggregate([*sound, bad], *options)
    assert (found, error["code"], error["exit_code"]) == (row.exit_code, row.code, row.exit_code)
    assert row.code == "gate-quorum" or str(bad) in error["message"]
    shown = run([*sound, bad], *options)
    assert (shown.exit_code, shown.stdout) == (row.exit_code, "")
    assert shown.stderr == f"error: {error['message']}\n" + (f"  hint: {error['hint']}\n" if error["hint"] else "")
    assert error["message"].isprintable()
    assert files_in(tmp_path / "out") == []

    if row.stops:
        assert aggregate([*sound, bad], *options, "--min-clients", 2)[1]["code"] == row.code
        assert files_in(tmp_path / "out") == []
        return
    found, result = aggregate([*sound, bad], *options, "--min-clients", 3)
    assert (found, result["n_clients"]) == (0, 3)
    assert [(one["code"], one["path"]) for one in result["rejected"]] == [(row.code, str(bad))]
    told = (tmp_path / "out" / "next.report.json").read_text()
    assert [one.code for one in read_report(tmp_path / "out" / "next.report.json").header.spec.rejected] == [row.code]
    assert str(tmp_path) not in told
    assert str(four.folder) not in told
    alone = aggregate(sound, *options, "--min-clients", 3, out="alone.safetensors")[1]
    assert result["sha256"] == alone["sha256"]
    assert aggregate([*sound, bad], *options, "--min-clients", 4)[1]["code"] == row.code


def test_every_threat_is_in_the_table_and_every_row_in_the_page():
    names = [f"C{number}" for number in range(1, 15)]
    assert list(dict.fromkeys(threat.split()[0] for threat in THREATS)) == names
    page = (DOCS / "threats-from-clients.md").read_text()
    rows = {name: line for line in page.splitlines() if (name := line.strip("| ").split(" ")[0]) in names}
    assert list(rows) == names
    for threat, row in THREATS.items():
        assert f"`{row.code}`" in rows[threat.split()[0]], threat
    codes = (DOCS / "reference" / "exit-codes.md").read_text()
    documented = re.findall(r"^\| (\d+) \| `([a-z-]+)`", codes, flags=re.MULTILINE)
    assert {(str(row.exit_code), row.code) for row in THREATS.values()} <= set(documented)


def test_c4_a_folder_is_no_update_and_stops_the_round(four, aggregate, tmp_path):
    """A PEFT adapter instead of an update."""
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    for options in ([], ["--min-clients", 1]):
        exit_code, error = aggregate([*four.updates(0)[:3], tmp_path / "peft"], *options)
        assert (exit_code, error["code"]) == (3, "input")


def test_c6_claimed_examples_count_for_nothing_for_a_cap_or_for_a_share(four, aggregate, tmp_path):
    greedy = saying("spec.metrics.n_examples", 10**9)(four, tmp_path / "d")
    updates = [*four.updates(0)[:3], greedy]

    def weight(*options):
        return {one["client"]: one["weight"] for one in aggregate(updates, *options)[1]["clients"]}["d"]

    assert weight() == 0.25
    assert weight("--weighting", "examples") > 0.999
    assert weight("--weighting", "examples", "--max-examples", 20) == pytest.approx(20 / 68, rel=1e-5)
    assert weight("--weighting", "examples", "--max-share", 0.4) == pytest.approx(0.4)


def test_c8_an_update_counts_for_the_client_whose_package_it_was_trained_on(four, aggregate, package_for, tmp_path):
    folder, parents = package_for("for-d", "--client", "d")
    own = reforge(four.update(0, "d"), tmp_path / "d", parents=parents)
    assert aggregate([own], package=folder)[1]["n_clients"] == 1
    stranger = of_a_stranger(four, tmp_path / "z")
    found, error = aggregate([stranger], package=folder)
    assert (found, error["code"]) == (5, "lineage-client")
    assert "of 'z', trained on the package of 'd'" in error["message"]


def test_c8_left_open_a_package_for_anybody_takes_anybody(four, aggregate, tmp_path):
    """One party under a second name: without packages for named clients only signatures could tell."""
    second = reforge(
        four.update(0, "d"), tmp_path / "z", spec=replace(header_of(four.update(0, "d")).spec, client="z"),
        change=times(1.001),
    )  # fmt: skip
    assert aggregate([*four.updates(0), second])[1]["n_clients"] == 5


def test_c2_c9_one_scaled_update_moves_the_mean_and_not_a_clipped_or_robust_one(four, aggregate, tmp_path):
    loud = reforge(four.update(0, "d"), tmp_path / "d", change=times(-10))
    updates = [*four.updates(0)[:3], loud]
    theta, honest = read_all(four.master(0)), [read_all(path) for path in four.updates(0)[:3]]
    center = {name: sum(one[name] for one in honest) / 3 for name in theta}

    def distance(*options):
        assert aggregate(updates, *options)[0] == 0
        found = read_all(tmp_path / "out" / "next.safetensors")
        return math.sqrt(sum((found[n] - theta[n] - center[n]).square().sum().item() for n in theta))

    mean = distance()
    for options in (["--clip-to-median"], ["--rule", "median"], ["--rule", "geometric-median"]):
        assert distance(*options) < mean / 3


def test_c9_left_open_a_quiet_one_passes_and_the_report_shows_its_direction(four, aggregate, tmp_path):
    """Against the mean of the others, and no longer than they are."""
    honest = [read_all(path) for path in four.updates(0)[:3]]
    against = {name: sum(one[name] for one in honest) / -6 for name in honest[0]}
    quiet = reforge(four.update(0, "d"), tmp_path / "d", change=lambda _: against)
    clients = {one["client"]: one for one in aggregate([*four.updates(0)[:3], quiet])[1]["clients"]}
    assert clients["d"]["cosine"] < 0 < min(clients[name]["cosine"] for name in "abc")


@pytest.mark.parametrize("smaller", [False, True])
def test_c10_of_equal_tensors_one_counts_whoever_sent_them(four, aggregate, tmp_path, smaller):
    copy = copy_of("a", tmp_path / "copy", four, smaller=smaller)
    updates = [*four.updates(0)[:3], copy]
    kept, refused = ("d", "a") if smaller else ("a", "d")
    found, error = aggregate(updates)
    assert (found, error["code"]) == (5, "lineage-copied")
    assert str(copy) in error["message"]
    assert str(four.update(0, "a")) in error["message"]

    result = aggregate(updates, "--min-clients", 3)[1]
    assert {one["client"]: one["weight"] for one in result["clients"]} == dict.fromkeys(
        sorted((kept, "b", "c")), 0.333333
    )
    assert [(one["client"], one["code"]) for one in result["rejected"]] == [(refused, "lineage-copied")]
    assert f"of client {kept!r}" in result["rejected"][0]["reason"]
    aggregate(four.updates(0)[:3], "--min-clients", 3, out="alone.safetensors")
    found, alone = (read_all(tmp_path / "out" / name) for name in ("next.safetensors", "alone.safetensors"))
    # The order of a sum is that of sha256, and a copy's is another.
    assert all(torch.allclose(found[name], alone[name], rtol=0, atol=1e-7) for name in alone)


def test_c10_three_of_one_kind_count_once_and_tensors_may_lie_anywhere_in_the_file(four, aggregate, tmp_path):
    copies = [copy_of("a", tmp_path / "d", four, smaller=False)]
    turned = tmp_path / "e"
    raw = reforge(
        four.update(0, "a"), tmp_path / "plain", spec=replace(header_of(four.update(0, "d")).spec, client="e")
    ).read_bytes()
    turned.write_bytes(in_reverse(raw))
    assert aggregate([turned])[0] == 0
    found, result = aggregate([*four.updates(0)[:3], *copies, turned], "--min-clients", 3)
    assert (found, result["n_clients"]) == (0, 3)
    assert [one["code"] for one in result["rejected"]] == ["lineage-copied"] * 2
    found, error = aggregate([*four.updates(0)[:3], *copies, turned], "--min-clients", 4)
    assert (found, error["code"]) == (5, "lineage-copied")
    assert error["message"].startswith("2 of 5 updates are refused:")


def in_reverse(raw):
    """A tensor file with its tensors in the opposite order."""
    n_header = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + n_header]), raw[8 + n_header :]
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    pieces, offset = [], 0
    for name in sorted(entries, key=lambda name: -entries[name]["data_offsets"][0]):
        start, stop = entries[name]["data_offsets"]
        pieces.append(body[start:stop])
        header[name]["data_offsets"] = [offset, offset + stop - start]
        offset += stop - start
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(pieces)


def test_c10_equal_norms_alone_are_no_copy(four, aggregate, tmp_path):
    spec = replace(header_of(four.update(0, "d")).spec, client="d")
    mirrored = reforge(four.update(0, "a"), tmp_path / "d", spec=spec, change=times(-1))
    clients = {one["client"]: one for one in aggregate([*four.updates(0)[:3], mirrored])[1]["clients"]}
    assert clients["a"]["update_norm"] == clients["d"]["update_norm"]


def test_c10_a_client_that_has_the_owners_reference_stops_the_round(four, aggregate, tmp_path):
    own = reforge(four.update(0, "d"), tmp_path / "own", spec=replace(header_of(four.update(0, "d")).spec, client="me"))
    for options in ([], ["--min-clients", 1]):
        call = ["--rule", "fltrust", "--reference-update", own, *options]
        assert aggregate(four.updates(0)[:3], *call)[0] == 0
        found, error = aggregate(four.updates(0), *call)
        assert (found, error["code"]) == (5, "lineage-copied")
        assert str(own) in error["message"]


def test_c10_left_open_a_small_update_is_used_and_its_norm_shown(four, aggregate, tmp_path):
    lazy = reforge(four.update(0, "d"), tmp_path / "d", change=times(1e-6))
    clients = {one["client"]: one for one in aggregate([*four.updates(0)[:3], lazy])[1]["clients"]}
    assert clients["d"]["update_norm"] < 1e-5 < clients["a"]["update_norm"]


def test_c11_what_is_too_large_is_told_by_size_alone(four, aggregate, tmp_path):
    """A file without a header: nothing of it is looked at."""
    (tmp_path / "zeros").touch()
    os.truncate(tmp_path / "zeros", 2**40)
    found, error = aggregate([*four.updates(0)[:3], tmp_path / "zeros"])
    assert (found, error["code"]) == (4, "artifact-size")
    assert f"{2**40} bytes" in error["message"]
    (told,) = aggregate([*four.updates(0)[:3], tmp_path / "zeros"], "--min-clients", 3)[1]["rejected"]
    assert (told["client"], told["update"]) == (None, None)


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u202e]")


def test_c12_nothing_of_a_stranger_steers_the_terminal(four, run, tmp_path):
    """Neither what is in a file nor what it is called, in an error nor in a table."""
    named = tmp_path / "\x1b]0;owned\x07\x1b[2J\u202e[red]x.safetensors"
    for make in (
        saying("spec.client", "\x1b[31md"), saying("kind", "\x1b[31m"), saying("producer", "\x1b[31m" * 40),
        lambda four, path: with_tensor_name(four, path, "\x1b[31m"), forged(change=setting(math.nan)),
    ):  # fmt: skip
        bad = make(four, named)
        strict, quorum = (run([*four.updates(0)[:3], bad], *options) for options in ([], ["--min-clients", 3]))
        assert strict.exit_code in {4, 6}
        assert quorum.exit_code == 0
        for text in (strict.stdout, strict.stderr, quorum.stdout, quorum.stderr):
            assert not CONTROL.search(text)
        assert "[red]x" in strict.stderr.replace("\n", "")
        bad.unlink()


def test_c13_sums_are_float64_and_what_does_not_fit_into_a_master_is_not_written(
    four, aggregate, package_for, tmp_path
):
    folder, parents = package_for("package")
    loud = [reforge(four.update(0, name), tmp_path / name, parents=parents, change=setting(3.4e38)) for name in "ab"]
    found, error = aggregate(loud, "--server-learning-rate", 2, package=folder)
    assert (found, error["code"]) == (6, "gate-not-finite")
    assert files_in(tmp_path / "out") == []
    # The sum of two is beyond float32, the mean is not.
    for rule in ("mean", "median", "geometric-median"):
        assert aggregate(loud, "--rule", rule, package=folder)[0] == 0
        value = read_all(tmp_path / "out" / "next.safetensors")[FIRST].view(-1)[3].item()
        assert value == pytest.approx(3.4e38, rel=1e-6)
    tiny = [
        reforge(four.update(0, name), tmp_path / f"{name}-", parents=parents, change=setting(1e-45)) for name in "ab"
    ]
    assert aggregate(tiny, package=folder)[0] == 0
    moved, before = (
        read_all(path)[FIRST].view(-1)[3] for path in (tmp_path / "out" / "next.safetensors", four.master(0))
    )
    assert torch.equal(moved, before)


def test_c14_times_names_and_order_of_files_change_nothing(four, aggregate, tmp_path):
    found = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        folder = tmp_path / str(number)
        folder.mkdir()
        copies = [Path(shutil.copy(four.updates(0)[k], folder / f"{place}")) for place, k in enumerate(order)]
        for place, path in enumerate(copies):
            os.utime(path, (1e9 * (number + 1) + place, 2e9 - place))
        for options in (["--rule", "mean"], ["--rule", "krum"]):
            assert aggregate(copies, *options)[0] == 0
            outputs = [tmp_path / "out" / name for name in ("next.safetensors", "next.report.json")]
            found.append([path.read_bytes() for path in outputs])
    assert found[:2] == found[2:]


def test_the_table_names_who_was_left_out_and_why(four, run, tmp_path):
    bad = reforge(four.update(0, "d"), tmp_path / "bad", change=setting(math.nan))
    result = run(
        [*four.updates(0)[:3], bad],
        "--min-clients",
        3,
        "--rule",
        "trimmed-mean",
        "--n-malicious",
        1,
        "--clip-to-median",
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert "trimmed-mean with 1 malicious, clipped to the median norm, update rule 1" in result.stdout
    assert "gate-not-finite" in result.stdout
    assert "left out" in result.stdout
    assert result.stdout.rstrip().splitlines()[-1] == str(tmp_path / "out" / "next.safetensors")


def test_the_federation_file_has_the_rule_too(four, aggregate, tmp_path):
    (tmp_path / "f.toml").write_text('[aggregate]\nrule = "trimmed-mean"\nn_malicious = 1\nmin_clients = 2\n')
    spec = aggregate(four.updates(0), "-f", tmp_path / "f.toml")[1]["aggregate"]
    assert (spec["rule"], spec["n_malicious"], spec["min_clients"]) == ("trimmed-mean", 1, 2)
    exit_code, error = aggregate(four.updates(0), "--rule", "average")
    assert (exit_code, error["code"]) == (2, "usage")


def test_the_hostile_files_here_are_still_read_as_files(four, tmp_path):
    """The forged headers are refused for what they say, not for how they are framed."""
    assert set(tensor_header.read_infos(saying("spec.client", "[red]d[/red]")(four, tmp_path / "x"))) == set(
        read_all(four.update(0, "d"))
    )
