"""A federation whose clients get other rows of the factors B: played by hand, simulated, looked at, and lied to."""

import json

import numpy as np
import pytest
import torch
from support.forge import header_of, read_all, reforge, sha256_of
from support.parties import RECIPE, Federation

from fedlpp_cli import aggregate, client_train, evaluate, inspect, log, pack, quantize, simulate, status, verify
from fedlpp_cli.adapters.masks import pack_rows, read_rows, visible_name
from fedlpp_cli.adapters.proxy_tensors import read_component
from fedlpp_cli.artifact.tensor_file import TensorFile
from fedlpp_cli.cli.app import app
from fedlpp_cli.engines.attack_spec import AttackSpec
from fedlpp_cli.engines.federation import FederationSpec
from fedlpp_cli.errors import ArtifactError, LineageError, SecondReleaseError, UsageError
from fedlpp_cli.quantization.tensors import round_tensor
from fedlpp_cli.records.headers import ProxyHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.privacy import PrivacySpec
from fedlpp_cli.records.specs import AggregateSpec, QuantSpec, TrainSpec
from fedlpp_cli.steps.private_training import PrivacySettings

MASK = MaskSpec(server=0.125, client=0.5)
CLIENTS = ("a", "b", "c")
SPEC = QuantSpec(bits="4", codebook="symmetric", block=16)


@pytest.fixture(scope="module")
def federation(tmp_path_factory, llama):
    made = Federation(tmp_path_factory.mktemp("masks"), llama, clients=CLIENTS, quantize=SPEC, mask=MASK)
    made.play(2)
    return made


def rows_of(federation, number, client):
    with TensorFile(federation.proxy(number, client), ProxyHeader) as proxy:
        return {name: read_rows(proxy, name) for name in proxy.header.spec.shapes if name.endswith("lora_B")}


def test_masks_are_each_client_s_own_and_the_same_in_every_round(federation):
    first = {client: rows_of(federation, 0, client) for client in CLIENTS}
    for client in CLIENTS:
        later = rows_of(federation, 1, client)
        assert all(np.array_equal(rows, later[name]) for name, rows in first[client].items())
        for rows in later.values():  # 16 or 32 rows: 2 or 4 are the server's, half of the rest the client's
            assert rows.sum() * 16 == len(rows) * 7
    for name in first["a"]:
        assert not np.array_equal(first["a"][name], first["b"][name])


def test_a_client_gets_rows_of_the_one_rounding_and_zeros(federation):
    master = read_all(federation.master(1))
    for client in CLIENTS:
        visible = rows_of(federation, 1, client)
        with TensorFile(federation.proxy(1, client), ProxyHeader) as proxy:
            assert (proxy.header.spec.mask, proxy.header.spec.client) == (MASK, client)
            for name in proxy.header.spec.shapes:
                found, rounded = read_component(proxy, name), round_tensor(master[name], SPEC, name=name)
                if name in visible:
                    rows = torch.from_numpy(visible[name])
                    rounded = torch.where(rows.unsqueeze(1), rounded * (len(rows) / rows.sum()), 0.0)
                assert torch.allclose(found, rounded, rtol=1e-6, atol=0)
                assert (found == 0).equal(rounded == 0)


def test_what_is_hidden_is_neither_trained_nor_sent(federation):
    for client in CLIENTS:
        update, visible = read_all(federation.update(1, client)), rows_of(federation, 1, client)
        for name, rows in visible.items():
            assert (update[name][~torch.from_numpy(rows)] == 0).all()
            assert (update[name][torch.from_numpy(rows)] != 0).any()


@pytest.mark.parametrize("mean", ["aware", "unaware"])
def test_the_next_master_is_the_mean_over_those_who_got_a_row(federation, tmp_path, mean):
    out = tmp_path / "next"
    found = aggregate(federation.master(1), federation.updates(1), packages=federation.packages(1), out=out,
                      spec=AggregateSpec(mask_mean=mean, weighting="examples"))  # fmt: skip
    weights = {one.client: one.n_examples / found.n_examples for one in found.clients}
    before, after = read_all(federation.master(1)), read_all(out)
    updates = {client: read_all(federation.update(1, client)) for client in CLIENTS}
    unseen = 0
    for name, value in before.items():
        total, seen = np.zeros(value.shape), np.zeros(len(value))
        for client in CLIENTS:
            rows = rows_of(federation, 1, client).get(name, np.ones(len(value)))
            total += weights[client] * rows[:, None] * updates[client][name].double().numpy()
            seen += weights[client] * rows
        if mean == "aware":
            total = np.divide(total, seen[:, None], out=np.zeros_like(total), where=seen[:, None] > 0)
            total *= rows_of(federation, 1, "a").get(name, np.ones(1)).mean()
        assert np.allclose(after[name].numpy(), value.double().numpy() + total, rtol=0, atol=1e-7)
        assert after[name][seen == 0].equal(value[seen == 0])
        unseen += int((seen == 0).sum())
    assert unseen > 0


def test_what_a_client_says_of_rows_that_it_did_not_get_is_not_looked_at(federation, tmp_path):
    visible = rows_of(federation, 1, "a")

    def lie(tensors):
        return {
            name: value.where(torch.from_numpy(visible[name]).unsqueeze(1), 9.0) if name in visible else value
            for name, value in tensors.items()
        }

    lying = reforge(federation.update(1, "a"), tmp_path / "lying", change=lie)
    out = tmp_path / "next"
    aggregate(federation.master(1), [lying, *federation.updates(1)[1:]], packages=federation.packages(1), out=out)
    honest = read_all(federation.master(2))
    # The order of the sum is that of the updates' sha256, and the lie changed one.
    assert all(torch.allclose(value, honest[name], rtol=0, atol=1e-7) for name, value in read_all(out).items())


def test_every_command_reads_it(federation, tmp_path):
    assert verify([federation.folder], rerun=True).missing == 0
    found = status(federation.folder)
    assert (found.round, found.has_package) == (2, False)
    first, second = log(federation.folder).rounds[:2]
    assert (first.package, second.bits) == (None, "4")
    assert second.bytes_down is not None
    rows = evaluate(
        [federation.master(1), *(f"{client}={federation.package(1, client)}" for client in CLIENTS)],
        data=federation.data("a"), base=federation.base, device="cpu",
    ).rows  # fmt: skip
    assert [row.model for row in rows] == ["base", "central", "a proxy", "b proxy", "c proxy"]
    assert "masks 0.125 and 0.5 of b" in rows[3].detail
    packed = inspect(federation.package(1, "a")).header["spec"]
    assert packed["client"] == "a"
    card = (federation.package(1, "a") / "README.md").read_text()
    assert "is not whole" in card


def test_a_master_is_scored_as_a_client_gets_it(federation):
    def scored(*artifacts, **options):
        found = evaluate(artifacts, data=federation.data("a"), base=federation.base, device="cpu", **options)
        return {row.model: row for row in found.rows}

    tuned = {"b": federation.data("b")}
    one = scored(federation.master(1), mask=MASK, clients=("b", "a"), fine_tune_on=tuned, train=RECIPE)
    two = scored(federation.master(1), f"b={federation.package(1, 'b')}", fine_tune_on=tuned)
    assert one["proxy"].scores == two["b proxy"].scores
    assert "masks 0.125 and 0.5 of b" in one["proxy"].detail
    other = scored(federation.master(1), mask=MASK, clients=("a",), fine_tune_on=tuned, train=RECIPE)
    assert other["proxy"].scores != one["proxy"].scores
    assert other["b fine-tuned"].scores == one["b fine-tuned"].scores == two["b fine-tuned"].scores
    nobody = scored(federation.master(1), mask=MASK)["proxy"]
    assert nobody.scores not in (one["proxy"].scores, other["proxy"].scores)
    assert "without masks: what all clients together have" in nobody.detail
    plain = scored(federation.master(1))["proxy"]
    assert plain.scores == nobody.scores
    assert "mask" not in plain.detail
    for_all = scored(federation.master(1), mask=MaskSpec(server=0.125), clients=("a",))["proxy"]
    assert for_all.detail.endswith("masks 0.125 and 0")


def test_a_run_is_scored_as_its_first_client_got_it(federation, runner, tmp_path):
    run = evaluate([federation.folder], data=federation.data("a"), base=federation.base, device="cpu").rows
    proxies = [row for row in run if row.role == "proxy"]
    assert [row.round for row in proxies] == [0, 1, 2]
    assert all(row.model == "proxy" and "masks 0.125 and 0.5 of a" in row.detail for row in proxies)
    file = tmp_path / "federation.toml"
    file.write_text(f"[mask]\nserver = 0.125\nclient = 0.5\n[clients]\na = '{federation.data('a')}'\n")
    call = ["evaluate", federation.master(2), "-f", file, "--data", federation.data("a"), "--base", federation.base]
    said = json.loads(runner.invoke(app, [*map(str, call), "--device", "cpu", "--json"]).stdout)["data"]
    assert said["rows"][1]["scores"] == proxies[-1].scores


def test_a_simulation_ends_in_the_same_master(federation, tmp_path):
    spec = FederationSpec(
        base=federation.base, seed=7, task=federation.task, lora=federation.lora, quantize=SPEC, mask=MASK, train=RECIPE
    )
    data = {client: federation.data(client) for client in CLIENTS}
    played = simulate(spec, data, out=tmp_path / "run", n_rounds=2, device="cpu")
    assert played.sha256 == sha256_of(federation.master(2))
    assert verify([tmp_path / "run"], rerun=True).missing == 0
    with pytest.raises(UsageError, match="one package for all"):
        simulate(spec, data, out=tmp_path / "run", n_rounds=3, attack=AttackSpec(attack="sign-flip", n_attackers=1))


def test_a_package_is_for_its_client_and_for_this_federation(federation, tmp_path, runner):
    with pytest.raises(LineageError, match="is for client 'a', not for 'b'"):
        client_train(federation.package(1, "a"), client="b", data=federation.data("b"), out=tmp_path / "u",
                     base=federation.base, device="cpu")  # fmt: skip
    with pytest.raises(UsageError, match="hides what client 'a' is not to get"):
        pack(federation.proxy(1, "a"), client="b", out=tmp_path / "p", ledger=tmp_path / "ledger")

    def other(tensors):
        return {
            name: torch.from_numpy(pack_rows(np.roll(np.unpackbits(value.numpy()), 1)))
            if name.endswith("visible") else value
            for name, value in tensors.items()
        }  # fmt: skip

    reforge(federation.proxy(1, "a"), tmp_path / "proxy", kind=ProxyHeader, change=other)
    pack(tmp_path / "proxy", out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    client_train(tmp_path / "package", client="a", data=federation.data("a"), out=tmp_path / "update",
                 base=federation.base, device="cpu")  # fmt: skip
    packages = [tmp_path / "package", *federation.packages(1)[1:]]
    updates = [tmp_path / "update", *federation.updates(1)[1:]]
    call = ["aggregate", federation.master(1), *updates, *(f"--package={one}" for one in packages)]
    result = runner.invoke(app, [*map(str, call), "--out", str(tmp_path / "next")])
    assert result.exit_code == LineageError.exit_code
    assert "masks of another federation" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (lambda name, value: torch.zeros_like(value) if name.endswith("visible") else value, "is no mask of"),
        (lambda name, value: None if name.endswith("visible") else value, "visible' is missing"),
        (lambda name, value: None if "q_proj.lora_B" in name else value, "q_proj.lora_B"),
    ],
)
def test_a_client_refuses_what_is_no_mask(federation, tmp_path, change, needle):
    def changed(tensors):
        found = {name: change(name, value) for name, value in tensors.items()}
        return {name: value for name, value in found.items() if value is not None}

    reforge(federation.proxy(1, "a"), tmp_path / "proxy", kind=ProxyHeader, change=changed)
    pack(tmp_path / "proxy", out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    with pytest.raises(ArtifactError, match=needle):
        client_train(tmp_path / "package", client="a", data=federation.data("a"), out=tmp_path / "u",
                     base=federation.base, device="cpu")  # fmt: skip
    assert not (tmp_path / "u").exists()


def test_a_proxy_with_other_shares_or_none_is_a_second_release(federation, tmp_path):
    ledger = federation.folder / "releases.jsonl"
    other, fresh = MaskSpec(client=0.25), MaskSpec(client=0.25, fresh=True)
    for number, mask in enumerate((None, MaskSpec(server=0.125), other, fresh)):
        client = "a" if mask and mask.client else None
        quantize(federation.master(1), out=tmp_path / f"{number}", spec=SPEC, mask=mask, client=client)
        with pytest.raises(SecondReleaseError):
            pack(tmp_path / f"{number}", out=tmp_path / "package", train=RECIPE, ledger=ledger)
    quantize(federation.master(1), out=tmp_path / "late", spec=SPEC, mask=MASK, client="late")
    assert pack(tmp_path / "late", out=tmp_path / "package", train=RECIPE, ledger=ledger).client == "late"


@pytest.mark.parametrize(
    ("spec", "needle"),
    [
        (AggregateSpec(rule="krum", n_malicious=0), "--rule krum: it compares whole updates"),
        (AggregateSpec(rule="median"), "--rule median"),
        (AggregateSpec(combine="svd"), "--combine svd"),
        (AggregateSpec(update_rule=2), "--update-rule 2"),
        (AggregateSpec(max_share=0.5), "moved by that client alone"),
    ],
)
def test_what_masks_do_not_go_with_is_refused_in_aggregating(federation, tmp_path, spec, needle):
    with pytest.raises(UsageError, match=needle):
        aggregate(federation.master(1), federation.updates(1), packages=federation.packages(1), out=tmp_path / "next",
                  spec=spec)  # fmt: skip


def test_what_masks_do_not_go_with_is_refused_before(federation, tmp_path):
    call = {"master": federation.master(0), "out": tmp_path / "proxy", "spec": SPEC}
    with pytest.raises(UsageError, match="--client is missing"):
        quantize(**call, mask=MASK)
    with pytest.raises(UsageError, match="--mask-client hides nothing"):
        quantize(**call, mask=MaskSpec(server=0.5), client="a")
    control = TrainSpec(steps=1, optimizer="sgd", weight_decay=0.0, control_variates=True)
    with pytest.raises(UsageError, match="--control-variates"):
        pack(federation.proxy(0, "a"), out=tmp_path / "p", train=control, ledger=tmp_path / "ledger")
    with pytest.raises(UsageError, match="do not go with"):
        simulate(
            FederationSpec(base=federation.base, mask=MASK, train=control),
            {"a": federation.data("a")},
            out=tmp_path / "r",
            keep_state=True,
        )


def test_options_and_the_file_say_what_is_hidden(federation, runner, tmp_path):
    file = tmp_path / "federation.toml"
    file.write_text("[mask]\nserver = 0.25\nclient = 0.5\nfresh = true\n[train]\nsteps = 1\n")
    call = ["quantize", str(federation.master(1)), "-f", str(file), "--out", str(tmp_path / "proxy"), "--json"]
    found = json.loads(runner.invoke(app, [*call, "--client", "a"]).stdout)["data"]
    assert found["mask"] == {"server": 0.25, "client": 0.5, "fresh": True, "scaling": True}
    assert (found["client"], found["visible"]) == ("a", 0.375)
    assert "7 can be guessed" in found["warnings"][0]
    assert header_of(tmp_path / "proxy").spec.mask.fresh
    for_all = runner.invoke(app, [*call, "--mask-client", "0", "--no-mask-scaling", "--force"])
    assert json.loads(for_all.stdout)["data"]["mask"] == {
        "server": 0.25, "client": 0.0, "fresh": False, "scaling": False,
    }  # fmt: skip
    shown = runner.invoke(app, [*call[:-1], "--client", "a", "--force"]).stdout
    assert "client a: 37.5 % of the factors B" in shown


def test_rounded_updates_keep_what_masks_hide_now(federation, tmp_path):
    """Masks that change: a state holds what rounding took from rows that a later package hides."""
    made = Federation(tmp_path, federation.base, clients=("a",), quantize=SPEC,
                      round_updates=QuantSpec(bits="2", block=16), mask=MaskSpec(client=0.5, fresh=True))  # fmt: skip
    made.init()
    states = []
    for number in range(2):
        made.send(number)
        made.train_client(number, "a", state=made.state(number - 1, "a") if number else None,
                          state_out=made.state(number, "a"))  # fmt: skip
        states.append(read_all(made.state(number, "a")))
        made.fold(number)
    for name, now in rows_of(made, 1, "a").items():
        before = torch.from_numpy(rows_of(made, 0, "a")[name])
        hidden = ~torch.from_numpy(now)
        assert not before.equal(~hidden)
        kept = f"{name}.residual"
        assert states[1][kept][hidden].equal(states[0][kept][hidden])
        assert (states[0][kept][hidden & before] != 0).any()
        assert visible_name(name) not in states[1]


def test_privacy_for_examples_adds_no_noise_to_hidden_rows(federation, tmp_path):
    pytest.importorskip("dp_accounting")
    settings = PrivacySettings(spec=PrivacySpec(noise_multiplier=1.0), ledger=tmp_path / "ledger", new_ledger=True)
    client_train(federation.package(1, "a"), client="a", data=federation.data("a"), out=tmp_path / "u",
                 base=federation.base, device="cpu", privacy=settings)  # fmt: skip
    update = read_all(tmp_path / "u")
    for name, rows in rows_of(federation, 1, "a").items():
        assert (update[name][~torch.from_numpy(rows)] == 0).all()
        assert (update[name][torch.from_numpy(rows)] != 0).all()


@pytest.mark.parametrize(("method", "trained"), [("ffa-lora", "BB"), ("rolora", "BA")])
def test_masks_go_with_rounds_of_one_factor(method, trained, tmp_path, llama):
    """A round of B is averaged over those who got a row; one of A over all, with B at rest, masked or not."""
    made = Federation(tmp_path, llama, clients=CLIENTS, quantize=SPEC, mask=MASK, method=method)
    made.play(2)
    for number, factor in enumerate(trained):
        before, after = read_all(made.master(number)), read_all(made.master(number + 1))
        visible = {client: rows_of(made, number, client) for client in CLIENTS}
        updates = {client: read_all(made.update(number, client)) for client in CLIENTS}
        for name, value in before.items():
            if not name.endswith(f"lora_{factor}"):
                assert after[name].equal(value)
                assert all(name not in update for update in updates.values())
                continue
            masks = [visible[client].get(name, np.ones(len(value), np.bool_)) for client in CLIENTS]
            for rows, update in zip(masks, updates.values(), strict=True):
                assert (update[name][~torch.from_numpy(rows)] == 0).all()
            seen = np.sum(masks, axis=0)[:, None]
            total = np.sum([update[name].double().numpy() for update in updates.values()], axis=0)
            mean = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0) * masks[0].mean()
            np.testing.assert_allclose(after[name], value.double().numpy() + mean, rtol=0, atol=1e-7)
    assert verify([tmp_path], rerun=True).missing == 0
    warning = quantize(made.master(1), out=tmp_path / "p", spec=SPEC, mask=MASK, client="a", dry_run=True).warnings[0]
    assert ("tells clients" if method == "ffa-lora" else "7 can be guessed") in warning
    spec = FederationSpec(
        base=llama, method=method, seed=7, task=made.task, lora=made.lora, quantize=SPEC, mask=MASK, train=RECIPE
    )
    played = simulate(spec, {client: made.data(client) for client in CLIENTS}, out=tmp_path / "run", n_rounds=2)
    assert played.sha256 == sha256_of(made.master(2))
