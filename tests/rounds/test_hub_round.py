"""A round whose package and updates travel through the Hub is the round that is played in a folder."""

import pytest
from support.forge import header_of
from support.hub_client import use_hub, use_token
from support.hub_server import HubServer
from support.parties import Federation

from fedlpp_cli import aggregate, client_train, log, pack, quantize, status, verify
from fedlpp_cli.artifact.digest import sha256_of_file
from fedlpp_cli.errors import HubError
from fedlpp_cli.records.specs import QuantSpec

RUN = "hf://acme/federation"
PACKAGE = f"{RUN}/round-0000/package"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    # Client a belongs to the owner's organization, client b may read there and no more.
    with HubServer(tokens={"hf_owner": "acme", "hf_a": "acme", "hf_b": "b"}) as server:
        use_hub(monkeypatch, server, tmp_path / "home")
        yield server


def test_a_round_through_the_hub_ends_in_the_same_master(hub, played, monkeypatch, tmp_path):
    def be(token):
        """Another party, on another machine."""
        use_token(monkeypatch, token)
        monkeypatch.setenv("FEDLPP_CACHE", str(tmp_path / token))

    def train(client, out):
        data = played.data(client)
        return client_train(PACKAGE, client=client, data=data, out=out, base=played.base, device="cpu")

    be("hf_owner")
    sent = pack(played.proxy(0), out=PACKAGE, train=played.train)
    hub.repo("acme/federation").readers.add("b")
    be("hf_a")
    first = train("a", f"{RUN}/round-0000/updates/a.safetensors")
    be("hf_b")
    with pytest.raises(HubError, match=r"the Hub answers 403 .*rights to write"):
        train("b", f"{RUN}/round-0000/updates/b.safetensors")
    second = train("b", "hf://b/updates/round-0000.safetensors")
    assert hub.repo("b/updates").private
    hub.repo("b/updates").readers.add("acme")

    be("hf_owner")
    out = tmp_path / "round-0001" / "master.safetensors"
    result = aggregate(played.master(0), [second.path, first.path], packages=[PACKAGE], out=out)
    assert result.sha256 == sha256_of_file(out) == sha256_of_file(played.master(1))
    assert [update.sha256 for update in (first, second)] == [
        sha256_of_file(played.update(0, client)) for client in ("a", "b")
    ]
    assert sent.path == f"{PACKAGE.replace('federation', 'federation@' + hub.commits('acme/federation')[1][0])}"
    titles = [title for _, title in hub.commits("acme/federation")]
    assert titles == ["Update of a", "Package of round 0", "initial commit"]
    assert verify([played.master(0), PACKAGE, first.path, second.path, out]).missing == 0
    assert status(RUN, clients=["a", "b"]).missing == ("b",)
    [entry] = log(RUN).rounds
    assert (entry.package, entry.clients, entry.bytes_up) == (sent.sha256, ("a",), played.update(0, "a").stat().st_size)


def test_a_private_base_travels_through_the_hub_and_is_made_once(hub, llama, tmp_path, monkeypatch):
    use_token(monkeypatch, "hf_owner")
    here = Federation(tmp_path / "here", llama, private_base=True)
    here.init()
    here.send(0)
    update = here.train_client(0, "a")
    there = {"base": here.base, "base_out": "hf://acme/model/base"}
    quantize(here.master(0), out=tmp_path / "proxy.safetensors", **there)
    commits = hub.commits("acme/model")
    quantize(here.master(0), out=tmp_path / "again.safetensors", **there)
    assert hub.commits("acme/model") == commits
    pack(tmp_path / "proxy.safetensors", out=PACKAGE, train=here.train, base_artifact="hf://acme/model/base")
    assert (
        client_train(PACKAGE, client="a", data=here.data("a"), out=tmp_path / "a.safetensors", device="cpu").sha256
        == update.sha256
    )


def test_a_rounded_update_goes_to_the_hub_and_its_state_stays(hub, played, tmp_path, monkeypatch):
    use_token(monkeypatch, "hf_owner")
    pack(played.proxy(0), out=PACKAGE, train=played.train, update=QuantSpec(bits="4"))
    options = {"client": "a", "data": played.data("a"), "base": played.base, "device": "cpu"}
    state = tmp_path / "state.safetensors"
    sent = client_train(PACKAGE, out=f"{RUN}/round-0000/updates/a.safetensors", state_out=state, **options)
    here = client_train(PACKAGE, out=tmp_path / "a.safetensors", **options)
    assert sent.sha256 == here.sha256 == header_of(state).parents["update"][0]
    assert verify([sent.path, state, PACKAGE, played.master(0)], complete=True).missing == 0
    names = hub.repo("acme/federation").resolve("main").files
    assert [name for name in names if name.endswith(".safetensors")] == [
        "round-0000/package/proxy.safetensors", "round-0000/updates/a.safetensors",
    ]  # fmt: skip
    [entry] = log(RUN).rounds
    assert entry.bytes_up == (tmp_path / "a.safetensors").stat().st_size
