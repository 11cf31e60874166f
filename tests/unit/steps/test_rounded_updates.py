"""Updates that are rounded on their way back: what the owner asks, what the client sends and keeps, what is refused."""

import math
import os
import shutil
import stat

import pytest
import torch
from msgspec.structs import replace
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import Federation

from fedlpp_cli import aggregate, client_train, inspect, log, pack, status, verify
from fedlpp_cli.adapters.proxy_tensors import proxy_layout, read_component
from fedlpp_cli.artifact.folder import CARD, open_folder
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes, layout_of
from fedlpp_cli.errors import (
    ArtifactError,
    GateError,
    LineageError,
    OutputError,
    OutputExistsError,
    SecrecyError,
    UsageError,
)
from fedlpp_cli.quantization.tensors import dequantize_tensor
from fedlpp_cli.records.headers import PackageHeader, ProxyHeader, StateHeader, UpdateHeader
from fedlpp_cli.records.specs import FULL_PRECISION, QuantSpec, TrainSpec

FOUR = QuantSpec(bits="4", block=32)
FIRST = "model.layers.0.mlp.down_proj.lora_A"


@pytest.fixture(scope="module")
def rounded(tmp_path_factory, llama):
    """Two rounds with 4-bit updates and states. Read only."""
    federation = Federation(tmp_path_factory.mktemp("rounded"), llama, round_updates=FOUR, keep_states=True)
    federation.play(2)
    return federation


def train(federation, out, **options):
    arguments = {
        "package": federation.package(1), "client": "a", "data": federation.data("a"), "base": federation.base,
        "device": "cpu", **options,
    }  # fmt: skip
    return client_train(arguments.pop("package"), out=out, **arguments)


def shapes_of(federation):
    with TensorFile(federation.proxy(0), ProxyHeader) as proxy:
        return proxy.header.spec.shapes


def values_of(federation, path):
    """What an update says, by component, worked out from its tensors."""
    tensors, spec = read_all(path), header_of(path).spec.quantize
    return {
        name: dequantize_tensor(
            {part.rpartition(".")[2]: tensors[part] for part in tensors if part.startswith(f"{name}.")}, shape, spec
        )
        for name, shape in shapes_of(federation).items()
    }


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# What the owner asks


def test_a_package_says_how_updates_are_rounded_in_its_manifest_and_on_its_card(rounded, played):
    assert open_folder(rounded.package(0), PackageHeader).header.spec.update == FOUR
    assert open_folder(played.package(0), PackageHeader).header.spec.update == FULL_PRECISION
    card, plain = ((one.package(0) / CARD).read_text() for one in (rounded, played))
    assert "| update | rounded to 4 bits |" in card
    assert "--state-out" in card
    assert "| update | in full precision |" in plain
    assert "--state" not in plain


def test_block_and_scale_mean_nothing_in_full_precision(played, tmp_path):
    found = pack(played.proxy(0), out=tmp_path / "p", update=QuantSpec(bits="full", block=8, scale="fp32"))
    assert found.update == FULL_PRECISION


@pytest.mark.parametrize(
    "odd", [{"rounding": "stochastic", "rounding_seed": "s"}, {"scale_rounding": "up"}], ids=["stochastic", "up"]
)
def test_updates_are_rounded_to_the_nearest_level_only(played, tmp_path, odd):
    with pytest.raises(
        UsageError,
        match=r"^\[update\] rounding, scale_rounding: of updates the first is nearest, the second nearest or fit$",
    ):
        pack(played.proxy(0), out=tmp_path / "package", update=QuantSpec(bits="4", **odd))
    assert files_in(tmp_path) == []


# What the client sends and keeps


@pytest.mark.parametrize("number", [0, 1])
def test_an_update_holds_codes_and_scales_and_its_norm_is_that_of_what_they_say(rounded, number):
    path = rounded.update(number, "a")
    with TensorFile(path, UpdateHeader) as update:
        assert layout_of(update.tensors) == proxy_layout(shapes_of(rounded), FOUR)
        assert update.header.spec.quantize == FOUR
    values = values_of(rounded, path)
    norm = math.sqrt(sum(value.double().square().sum().item() for value in values.values()))
    assert header_of(path).spec.metrics.update_norm == pytest.approx(norm, rel=1e-5)


def test_rounding_takes_from_the_update_what_the_state_keeps(rounded, llama, tmp_path):
    """Against the same training without rounding: the packages of round 0 start at the same proxy."""
    plain = Federation(tmp_path / "plain", llama)
    plain.init()
    plain.send(0)
    plain.train_client(0, "a")
    delta = read_all(plain.update(0, "a"))
    sent, kept = values_of(rounded, rounded.update(0, "a")), read_all(rounded.state(0, "a"))
    assert set(kept) == {f"{name}.residual" for name in delta}
    for name, value in delta.items():
        assert not torch.equal(sent[name], value)
        assert torch.allclose(sent[name] + kept[f"{name}.residual"], value, atol=1e-7, rtol=0)


def test_the_residual_goes_into_the_next_update(rounded, tmp_path):
    train(rounded, tmp_path / "fresh", state_out=tmp_path / "fresh-state")
    fresh, again = values_of(rounded, tmp_path / "fresh"), values_of(rounded, rounded.update(1, "a"))
    kept, before = read_all(rounded.state(1, "a")), read_all(rounded.state(0, "a"))
    without = read_all(tmp_path / "fresh-state")
    for name in fresh:
        residual = f"{name}.residual"
        delta = fresh[name].double() + without[residual].double()
        found = again[name].double() + kept[residual].double() - before[residual].double()
        assert torch.allclose(found, delta, atol=1e-7, rtol=0)


def test_a_state_belongs_to_its_update_and_is_for_its_clients_eyes(rounded):
    header = header_of(rounded.state(1, "b"))
    assert isinstance(header, StateHeader)
    assert (header.round, header.federation, header.spec.client) == (1, sha256_of(rounded.master(0)), "b")
    assert header.parents == {"update": (sha256_of(rounded.update(1, "b")),)}
    assert stat.S_IMODE(rounded.state(1, "b").stat().st_mode) == 0o600


def test_the_same_inputs_give_the_same_update_and_state(rounded, tmp_path):
    train(rounded, tmp_path / "u", state=rounded.state(0, "a"), state_out=tmp_path / "s")
    assert (tmp_path / "u").read_bytes() == rounded.update(1, "a").read_bytes()
    assert (tmp_path / "s").read_bytes() == rounded.state(1, "a").read_bytes()


def test_without_a_place_for_the_state_nothing_is_kept(rounded, tmp_path):
    result = train(rounded, tmp_path / "u", state=rounded.state(0, "a"))
    assert result.state is None
    assert files_in(tmp_path) == ["u"]
    assert (tmp_path / "u").read_bytes() == rounded.update(1, "a").read_bytes()


def test_a_dry_run_counts_codes_and_scales_and_checks_the_state(rounded, played, tmp_path):
    found = train(rounded, tmp_path / "u", dry_run=True, state=rounded.state(0, "a"), state_out=tmp_path / "s")
    assert (found.quantize, found.sha256, found.state) == (FOUR, None, str(tmp_path / "s"))
    assert found.n_bytes == layout_bytes(proxy_layout(shapes_of(rounded), FOUR)) == found.n_parameters * 4.5 / 8
    assert found.bits_per_parameter == 4.5
    with pytest.raises(LineageError, match="of round 1, the package is of round 1"):
        train(rounded, tmp_path / "u", dry_run=True, state=rounded.state(1, "a"))
    assert files_in(tmp_path) == []
    plain = train(played, tmp_path / "u", package=played.package(0), dry_run=True)
    assert (plain.n_bytes, plain.bits_per_parameter) == (4 * plain.n_parameters, 32)


def test_full_precision_updates_send_the_residual_whole(rounded, llama, tmp_path):
    """The owner stops rounding: what was held back arrives, and the new state is empty."""
    pack(rounded.proxy(1), out=tmp_path / "package", train=rounded.train)
    options = {"package": tmp_path / "package", "state_out": tmp_path / "s"}
    train(rounded, tmp_path / "u", state=rounded.state(0, "a"), **options)
    assert header_of(tmp_path / "u").spec.quantize == FULL_PRECISION
    train(rounded, tmp_path / "plain", **{**options, "state_out": None})
    found, plain, before = (read_all(path) for path in (tmp_path / "u", tmp_path / "plain", rounded.state(0, "a")))
    for name, value in plain.items():
        assert torch.allclose(found[name], value + before[f"{name}.residual"], atol=1e-8)
    assert all(torch.equal(value, torch.zeros_like(value)) for value in read_all(tmp_path / "s").values())


def test_the_packages_limit_is_on_what_is_sent(rounded, tmp_path):
    norm = header_of(rounded.update(1, "a")).spec.metrics.update_norm
    for name, limit in (("tight", 0.999 * norm), ("wide", 1.001 * norm)):
        pack(rounded.proxy(1), out=tmp_path / name, train=replace(rounded.train, max_update_norm=limit), update=FOUR)
    options = {"state": rounded.state(0, "a"), "state_out": tmp_path / "s"}
    with pytest.raises(GateError, match=r"the package allows .*; nothing was written"):
        train(rounded, tmp_path / "u", package=tmp_path / "tight", **options)
    assert not (tmp_path / "u").exists()
    assert not (tmp_path / "s").exists()
    train(rounded, tmp_path / "u", package=tmp_path / "wide", **options)


def test_an_update_that_rounds_to_zeros_is_refused(llama, tmp_path):
    """Steps of 1e-9: fp16 has no scale for them."""
    federation = Federation(
        tmp_path, llama, round_updates=FOUR, keep_states=True,
        train=TrainSpec(steps=1, batch_size=4, optimizer="sgd", learning_rate=1e-8, weight_decay=0.0),
    )  # fmt: skip
    federation.init()
    federation.send(0)
    with pytest.raises(GateError, match="nothing was written"):
        federation.train_client(0, "a")
    assert not federation.update(0, "a").exists()
    assert not federation.state(0, "a").exists()


# States that do not fit


BAD_STATES = {
    "another federation": (LineageError, "of federation 0000.*the package is of", {"federation": "0" * 64}),
    "another client": (LineageError, "of client 'b', not of 'a'", {"spec": "b"}),
    "another method": (LineageError, "of method 'ffa'", {"method": "ffa"}),
    "this round": (LineageError, "of round 1, the package is of round 1", {"round": 1}),
    "a later round": (LineageError, "of round 2, the package is of round 1", {"round": 2}),
    "a missing residual": (LineageError, "is missing", {"change": lambda t: dict(list(t.items())[1:])}),
    "one more": (LineageError, "not part of this", {"change": lambda t: {**t, "x.residual": torch.ones(1)}}),
    "another shape": (
        LineageError, r"F32 \[32, 4\], F32 \[4, 32\] is needed",
        {"change": lambda t: {**t, f"{FIRST}.residual": t[f"{FIRST}.residual"].T}},
    ),
    "another dtype": (LineageError, "F16 .*, F32", {"change": lambda t: {n: v.half() for n, v in t.items()}}),
    "NaN": (GateError, "finite values are needed", {"change": lambda t: {n: v / 0 for n, v in t.items()}}),
}  # fmt: skip


@pytest.mark.parametrize("problem", BAD_STATES)
def test_a_state_that_does_not_fit_is_refused_before_the_training(rounded, tmp_path, problem):
    error, message, forgery = BAD_STATES[problem]
    if "spec" in forgery:
        forgery = {"spec": replace(header_of(rounded.state(0, "a")).spec, client=forgery["spec"])}
    bad = reforge(rounded.state(0, "a"), tmp_path / "bad", kind=StateHeader, **forgery)
    with pytest.raises(error, match=message) as caught:
        train(rounded, tmp_path / "u", state=bad, state_out=tmp_path / "s", data=tmp_path / "no data is read")
    assert str(bad) in str(caught.value)
    assert files_in(tmp_path) == ["bad"]


def test_a_state_of_a_round_long_ago_is_good(rounded, tmp_path):
    """Who missed rounds still has what rounding took in the last one."""
    late = reforge(rounded.package(1) / "proxy.safetensors", tmp_path / "proxy", kind=ProxyHeader, round=7)
    pack(late, out=tmp_path / "package", train=rounded.train, update=FOUR)
    train(rounded, tmp_path / "u", package=tmp_path / "package", state=rounded.state(0, "a"))


def test_what_is_no_state_is_refused(rounded, tmp_path):
    with pytest.raises(LineageError, match="is an update, not a state"):
        train(rounded, tmp_path / "u", state=rounded.update(0, "a"))
    with pytest.raises(LineageError, match="is a state, not an update"):
        aggregate(rounded.master(1), [rounded.state(1, "a")], packages=[rounded.package(1)], out=tmp_path / "next")


def test_a_state_never_goes_to_the_hub_nor_into_the_updates_place(rounded, tmp_path):
    with pytest.raises(SecrecyError, match="states what a client holds back"):
        train(rounded, tmp_path / "u", state_out="hf://org/repo/state.safetensors")
    with pytest.raises(UsageError, match="--out and --state-out are both"):
        train(rounded, tmp_path / "u", state_out=tmp_path / "." / "u")
    assert files_in(tmp_path) == []


def test_an_existing_state_is_kept_unless_forced(rounded, tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OutputExistsError):
        train(rounded, tmp_path / "u", state_out=tmp_path / "s", data=tmp_path / "no data is read")
    train(rounded, tmp_path / "u", state=rounded.state(0, "a"), state_out=tmp_path / "s", force=True)
    assert sha256_of(tmp_path / "s") == sha256_of(rounded.state(1, "a"))


# Both or neither


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_state_that_cannot_be_written_leaves_no_update(rounded, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        train(rounded, tmp_path / "u", state_out=tmp_path / "closed" / "s")
    assert files_in(tmp_path) == []


def test_a_state_below_a_file_leaves_no_update(rounded, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        train(rounded, tmp_path / "u", state_out=tmp_path / "file" / "s")
    assert files_in(tmp_path) == ["file"]


def test_where_the_update_is_its_state_is(rounded, tmp_path, monkeypatch):
    """Killed between the two, the state is alone; training again gives both, the same as without a kill."""
    give_name = "fedlpp_cli.artifact.whole._give_name"
    from fedlpp_cli.artifact import whole

    real = whole._give_name

    def killed(draft, target, *, force):
        if target.name == "u":
            raise KeyboardInterrupt
        real(draft, target, force=force)

    options = {"state": rounded.state(0, "a"), "state_out": tmp_path / "s"}
    monkeypatch.setattr(give_name, killed)
    with pytest.raises(KeyboardInterrupt):
        train(rounded, tmp_path / "u", **options)
    assert files_in(tmp_path) == ["s"]
    monkeypatch.undo()
    train(rounded, tmp_path / "u", **options, force=True)
    assert sha256_of(tmp_path / "u") == sha256_of(rounded.update(1, "a"))
    assert sha256_of(tmp_path / "s") == sha256_of(rounded.state(1, "a"))


# What the owner refuses


def test_the_next_master_is_the_mean_of_what_the_updates_say(rounded):
    theta, found = read_all(rounded.master(1)), read_all(rounded.master(2))
    a, b = (values_of(rounded, path) for path in rounded.updates(1))
    for name, value in theta.items():
        expected = value.double() + (a[name].double() + b[name].double()) / 2
        assert torch.allclose(found[name].double(), expected, atol=1e-7, rtol=0)


def with_tensor(name, change):
    return lambda tensors: {**tensors, name: change(tensors[name])}


def filled(index, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


HOSTILE = {
    "a scale too few": (
        LineageError, r"F16 \[3\], F16 \[4\] is needed",
        {"change": with_tensor(f"{FIRST}.scales", lambda t: t[1:])},
    ),
    "a scale too many": (
        LineageError, r"F16 \[5\], F16 \[4\] is needed",
        {"change": with_tensor(f"{FIRST}.scales", lambda t: torch.cat([t, t[:1]]))},
    ),
    "a byte too many": (
        LineageError, r"U8 \[65\], U8 \[64\] is needed",
        {"change": with_tensor(f"{FIRST}.codes", lambda t: torch.cat([t, t[:1]]))},
    ),
    "scales in float32": (LineageError, "F32 .*, F16", {"change": with_tensor(f"{FIRST}.scales", torch.Tensor.float)}),
    "no scales": (
        LineageError, "scales' is missing",
        {"change": lambda t: {n: v for n, v in t.items() if n != f"{FIRST}.scales"}},
    ),
    "an extra tensor": (LineageError, "not part of this federation", {"change": lambda t: {**t, "x": torch.ones(1)}}),
    "a component in full precision too": (
        LineageError, "not part of this federation", {"change": lambda t: {**t, FIRST: torch.ones(4, 32)}},
    ),
    "a NaN scale": (
        GateError, r"down_proj.lora_A.scales' has values that are not finite",
        {"change": with_tensor(f"{FIRST}.scales", filled(1, math.nan))},
    ),
    "an infinite scale": (
        GateError, "not finite", {"change": with_tensor(f"{FIRST}.scales", filled(3, -math.inf))},
    ),
    "nothing but zeros": (
        GateError, "all values are zero",
        {"change": lambda t: {n: 0 * v if n.endswith("scales") else v for n, v in t.items()}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_update_is_refused_by_file_and_reason(rounded, tmp_path, attack):
    error, message, forgery = HOSTILE[attack]
    bad = reforge(rounded.update(1, "b"), tmp_path / "bad.safetensors", **forgery)
    with pytest.raises(error, match=message) as caught:
        aggregate(
            rounded.master(1), [rounded.update(1, "a"), bad], packages=[rounded.package(1)], out=tmp_path / "next"
        )
    assert str(bad) in str(caught.value)
    assert files_in(tmp_path) == ["bad.safetensors"]


@pytest.mark.parametrize(("index", "byte"), [(0, 243), (-1, 242)], ids=["no five codes", "behind the last code"])
def test_codes_that_no_tensor_gives_are_refused(llama, tmp_path, index, byte):
    federation = Federation(tmp_path / "run", llama, round_updates=QuantSpec(bits="ternary", block=32))
    federation.init()
    federation.send(0)
    federation.train_client(0, "a")
    change = with_tensor(f"{FIRST}.codes", filled(index, byte))
    bad = reforge(federation.update(0, "a"), tmp_path / "bad", change=change)
    with pytest.raises(ArtifactError, match=r"bad: component 'model.*down_proj.lora_A': "):
        federation.fold(0, [bad])
    assert not federation.master(1).exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (QuantSpec(bits="2", block=32), "rounded with bits '2', its package asks for '4'"),
        (QuantSpec(bits="4", block=64), "rounded with block 64, its package asks for 32"),
        (QuantSpec(bits="4", block=32, scale="fp32"), "rounded with scale 'fp32', its package asks for 'fp16'"),
        (FULL_PRECISION, "rounded with bits 'full', its package asks for '4'"),
    ],
)
def test_an_update_that_is_rounded_in_another_way_than_asked_is_refused(rounded, tmp_path, spec, message):
    """Sound in itself: the client's package asked for it, the owner's did not."""
    pack(rounded.proxy(1), out=tmp_path / "package", train=rounded.train, update=spec)
    train(rounded, tmp_path / "other", package=tmp_path / "package")
    asked = open_folder(rounded.package(1), PackageHeader).sha256
    parents = {**header_of(tmp_path / "other").parents, "package": (asked,)}
    bad = reforge(tmp_path / "other", tmp_path / "bad", parents=parents)
    with pytest.raises(LineageError, match=message):
        aggregate(rounded.master(1), [bad], packages=[rounded.package(1)], out=tmp_path / "next")


def test_a_full_precision_federation_takes_no_rounded_update(rounded, tmp_path):
    pack(rounded.proxy(1), out=tmp_path / "package", train=rounded.train)
    asked = open_folder(tmp_path / "package", PackageHeader).sha256
    bad = reforge(rounded.update(1, "a"), tmp_path / "bad", parents={"package": (asked,)})
    with pytest.raises(LineageError, match="rounded with bits '4', its package asks for 'full'"):
        aggregate(rounded.master(1), [bad], packages=[tmp_path / "package"], out=tmp_path / "next")


# Looking


def test_inspect_tells_bits_of_a_rounded_update_and_opens_a_state(rounded, played):
    found = inspect(rounded.update(0, "a"))
    assert (found.kind, found.bits_per_parameter, found.n_parameters) == ("update", 4.5, None)
    plain = inspect(played.update(0, "a"))
    assert (plain.bits_per_parameter, plain.n_parameters) == (None, 2176)
    state = inspect(rounded.state(0, "a"))
    assert (state.kind, state.n_parameters, state.bits_per_parameter) == ("state", 2176, None)


def test_verify_finds_the_states_of_a_run_and_their_updates(rounded):
    result = verify([rounded.folder], complete=True)
    assert [one.round for one in result.artifacts if one.kind == "state"] == [0, 0, 1, 1]
    assert all(one.parents_found == 1 for one in result.artifacts if one.kind == "state")


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ({"round": 0}, "its update .* is of round 1, not 0"),
        ({"federation": "0" * 64}, "are of different federations"),
        ({"spec": "b"}, "of client 'b', its update .* of 'a'"),
        ({"change": lambda t: dict(list(t.items())[1:])}, "its residuals do not fit the tensors of its update"),
    ],
    ids=["round", "federation", "client", "layout"],
)
def test_verify_refuses_a_state_beside_an_update_that_it_does_not_fit(rounded, tmp_path, forgery, message):
    if "spec" in forgery:
        forgery = {"spec": replace(header_of(rounded.state(1, "a")).spec, client="b")}
    bad = reforge(rounded.state(1, "a"), tmp_path / "bad.safetensors", kind=StateHeader, **forgery)
    with pytest.raises(LineageError, match=message):
        verify([bad, rounded.update(1, "a")])


def test_verify_counts_a_state_of_another_update_as_an_orphan(rounded):
    result = verify([rounded.state(0, "a"), rounded.update(1, "a")])
    assert result.artifacts[0].parents_found == 0
    with pytest.raises(LineageError, match=r"its update .* is not among the artifacts"):
        verify([rounded.state(0, "a"), rounded.update(1, "a")], complete=True)


def test_verify_refuses_a_state_that_holds_anything_else(rounded, tmp_path):
    for name, change in (
        ("weights", lambda t: {**t, "head.weight": torch.ones(1)}),
        ("halves", lambda t: {n: v.half() for n, v in t.items()}),
    ):
        bad = reforge(rounded.state(0, "a"), tmp_path / name, kind=StateHeader, change=change)
        with pytest.raises(ArtifactError, match="a state holds residuals, in F32"):
            verify([bad])


def test_verify_refuses_an_update_whose_tensors_do_not_fit_its_proxy_or_package(rounded, tmp_path):
    scales = f"{FIRST}.scales"
    bad = reforge(rounded.update(1, "a"), tmp_path / "u", change=with_tensor(scales, lambda t: t[1:]))
    with pytest.raises(LineageError, match=r"F16 \[3\], F16 \[4\] is needed"):
        verify([bad, rounded.proxy(1)])
    spec = replace(header_of(bad).spec, quantize=QuantSpec(bits="2"))
    bad = reforge(rounded.update(1, "a"), tmp_path / "v", spec=spec)
    with pytest.raises(LineageError, match="rounded with bits '2', its package asks for '4'"):
        verify([bad, rounded.package(1)])


def test_status_names_the_clients_with_states_and_log_the_smaller_files(rounded, played, tmp_path):
    run = shutil.copytree(rounded.folder, tmp_path / "run")
    assert (status(run).round, status(run).states) == (2, ())
    shutil.rmtree(run / "round-0002")
    found = status(run)
    assert (found.round, found.updates, found.states) == (1, ("a", "b"), ("a", "b"))
    small, large = (log(one.folder).rounds[0].bytes_up for one in (rounded, played))
    assert small == max(path.stat().st_size for path in rounded.updates(0)) < large


def test_nothing_of_a_state_reaches_the_owner(rounded):
    """Every artifact that the owner gets or makes, searched for the residual's bytes."""
    residual = read_all(rounded.state(0, "a"))[f"{FIRST}.residual"].numpy().tobytes()
    assert residual in rounded.state(0, "a").read_bytes()
    for path in rounded.folder.rglob("*"):
        if path.is_file() and "states" not in path.parts:
            assert residual[:64] not in path.read_bytes()


def test_a_component_that_a_proxy_has_not_is_told(rounded):
    with TensorFile(rounded.proxy(0), ProxyHeader) as proxy, pytest.raises(ArtifactError, match="no component 'x'"):
        read_component(proxy, "x")
