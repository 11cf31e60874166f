"""FedQSN by its name: what is hidden and rounded without a word, what wins over it, and what is refused."""

import json
import re
from contextlib import ExitStack

import pytest
from msgspec.structs import replace
from support.forge import header_of, reforge
from support.parties import RECIPE, Federation

from fedlpp_cli import aggregate, client_train, evaluate, pack, quantize
from fedlpp_cli.artifact.folder import CARD, PROXY, write_folder
from fedlpp_cli.cli.app import app
from fedlpp_cli.cli.settings_file import federation_of
from fedlpp_cli.errors import LineageError, SettingsError, UsageError
from fedlpp_cli.methods.table import method_named
from fedlpp_cli.records.headers import PackageHeader, PackageSpec, ProxyHeader
from fedlpp_cli.records.masks import MaskSpec
from fedlpp_cli.records.settings import read_settings
from fedlpp_cli.records.specs import LoraSpec, QuantSpec
from fedlpp_cli.steps.audit_history import HistoryReader

FEDQSN = method_named("fedqsn")
ADAPTER = LoraSpec(rank=4, target_modules=("q_proj", "v_proj"))


@pytest.fixture(scope="module")
def federation(tmp_path_factory, llama):
    """One round, of which nothing is said but the method's name. Read only."""
    made = Federation(
        tmp_path_factory.mktemp("fedqsn"), llama, method="fedqsn", lora=ADAPTER, quantize=FEDQSN.quantize,
        mask=FEDQSN.mask,
    )  # fmt: skip
    made.play(1)
    return made


def quantized(runner, federation, *options):
    call = ["quantize", federation.master(0), "--out", federation.folder / "asked", "--dry-run", "--json", *options]
    result = runner.invoke(app, [str(part) for part in call])
    return result, json.loads(result.stdout)["data"] if result.exit_code == 0 else None


def test_the_name_alone_hides_and_rounds(federation, runner):
    _, found = quantized(runner, federation, "--client", "a")
    assert (found["mask"]["server"], found["mask"]["client"]) == (0.1, 0.25)
    assert not found["mask"]["fresh"]
    assert found["quantize"]["codebook"] == "symmetric"
    assert header_of(federation.proxy(0, "a")).spec.mask == FEDQSN.mask
    out = federation.folder / "by-default"
    quantize(federation.master(0), out=out, client="a")
    assert out.read_bytes() == federation.proxy(0, "a").read_bytes()


def test_what_is_said_wins_and_the_rest_is_the_method_s(federation, runner, tmp_path):
    _, found = quantized(runner, federation, "--client", "a", "--mask-client", "0.5", "--mask-fresh", "--bits", "2")
    assert found["mask"] == {"server": 0.1, "client": 0.5, "fresh": True, "scaling": True}
    assert (found["quantize"]["bits"], found["quantize"]["codebook"]) == ("2", "symmetric")
    file = tmp_path / "federation.toml"
    file.write_text('method = "fedqsn"\n[mask]\nserver = 0.0\n[quantize]\nbits = "4"\n')
    _, found = quantized(runner, federation, "--client", "a", "-f", file)
    assert (found["mask"]["server"], found["mask"]["client"]) == (0.0, 0.25)
    told = federation_of(read_settings(file), base=None, seed=None)
    assert (told.mask, told.quantize) == (MaskSpec(client=0.25), QuantSpec(bits="4", codebook="symmetric"))
    told.check_method()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((), UsageError, "--client is missing"),
        (("--client", "a", "--codebook", "nf"), UsageError, "method fedqsn: its levels are symmetric, not nf"),
        (("--client", "a", "--bits", "full"), UsageError, "method fedqsn: what clients get is rounded"),
        (("--client", "a", "--bits", "8"), SettingsError, "symmetric has no 8 bits"),
    ],
)
def test_what_is_not_fedqsn_is_refused(federation, runner, options, error, message):
    result, _ = quantized(runner, federation, *options)
    assert result.exit_code == error.exit_code
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_what_is_released_is_masked(federation, tmp_path):
    quantize(federation.master(0), out=tmp_path / "whole", mask=MaskSpec())  # the owner may look at it
    with pytest.raises(UsageError, match="method fedqsn: it hides rows from clients"):
        pack(tmp_path / "whole", out=tmp_path / "package", ledger=tmp_path / "ledger")
    assert not (tmp_path / "package").exists()


def test_a_package_without_masks_is_not_aggregated(federation, tmp_path):
    """One that this version's `pack` does not make."""
    quantize(federation.master(0), out=tmp_path / "whole", mask=MaskSpec())
    proxy = header_of(tmp_path / "whole")

    def manifest(files):
        sha256 = next(file.sha256 for file in files if file.name == PROXY)
        return PackageHeader(
            federation=proxy.federation, round=0, method="fedqsn", parents={"proxy": (sha256,)},
            spec=PackageSpec(client=None, train=RECIPE), files=files,
        )  # fmt: skip

    write_folder(tmp_path / "package", {PROXY: tmp_path / "whole", CARD: b"a card"}, manifest)
    client_train(tmp_path / "package", client="a", data=federation.data("a"), base=federation.base,
                 out=tmp_path / "update", device="cpu")  # fmt: skip
    with pytest.raises(LineageError, match="not of method fedqsn: it hides rows"):
        aggregate(federation.master(0), [tmp_path / "update"], packages=[tmp_path / "package"], out=tmp_path / "next")


def test_a_package_of_it_is_for_masters_of_it(federation, tmp_path, runner):
    made = Federation(tmp_path, federation.base, clients=("a",), lora=ADAPTER, quantize=FEDQSN.quantize,
                      mask=FEDQSN.mask)  # fmt: skip
    made.init()
    made.send(0)
    reforge(made.proxy(0, "a"), tmp_path / "proxy", kind=ProxyHeader, method="fedqsn")
    pack(tmp_path / "proxy", out=tmp_path / "package", train=RECIPE, ledger=tmp_path / "ledger")
    client_train(tmp_path / "package", client="a", data=made.data("a"), base=made.base, out=tmp_path / "update",
                 device="cpu")  # fmt: skip
    fold = [made.master(0), tmp_path / "update", "--package", tmp_path / "package", "--out", tmp_path / "next"]
    result = runner.invoke(app, ["aggregate", *map(str, fold)])
    assert result.exit_code == LineageError.exit_code
    assert re.search("of method 'fedqsn', the master has 'fedlpp'", " ".join(result.stderr.split()))
    assert not (tmp_path / "next").exists()


def test_a_master_is_looked_at_with_the_method_s_levels(federation):
    rows = evaluate([federation.master(1)], data=federation.data("a"), base=federation.base, device="cpu",
                    quantize=QuantSpec(bits="2", block=16)).rows  # fmt: skip
    proxy = next(row for row in rows if row.role == "proxy")
    assert "2 bits, block 16, symmetric levels, without masks: what all clients together have" in proxy.detail


def test_widths_without_symmetric_levels_have_none():
    assert FEDQSN.rounding(QuantSpec(bits="full")) == QuantSpec(bits="full")
    assert replace(FEDQSN.rounding(QuantSpec(bits="2")), codebook="nf") == QuantSpec(bits="2")
    with pytest.raises(UsageError, match="method fedqsn: codebook: symmetric has no 8 bits"):
        FEDQSN.rounding(QuantSpec(bits="8"))


def test_an_audit_makes_what_all_clients_together_have(federation):
    asked = QuantSpec(bits="2", block=16)
    with ExitStack() as files:
        history = HistoryReader(files, quantize=asked).read([federation.master(0), federation.master(1)])
        specs = [history.sent[number].proxy.header.spec for number in range(2)]
    assert [spec.mask for spec in specs] == [None, None]
    assert [spec.quantize for spec in specs] == [FEDQSN.quantize, replace(asked, codebook="symmetric")]
