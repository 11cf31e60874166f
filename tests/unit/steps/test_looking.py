"""inspect, verify, status, log: looking at what is there."""

import shutil

import pytest
from support.forge import reforge, sha256_of

from fedlpp_cli import inspect, log, status, verify
from fedlpp_cli.errors import ArtifactError, DigestError, InputError, LineageError
from fedlpp_cli.records.headers import MasterHeader, UpdateHeader


@pytest.fixture
def run(played, tmp_path):
    """A copy of the run, to damage."""
    return shutil.copytree(played.folder, tmp_path / "run")


def test_inspect_tells_kind_digest_and_tensors_of_anything(played):
    kinds = {
        played.master(0): "master", played.proxy(0): "proxy", played.package(0): "package",
        played.update(0, "a"): "update", played.round(1) / "master.report.json": "report",
    }  # fmt: skip
    for path, kind in kinds.items():
        found = inspect(path)
        assert (found.kind, found.header["kind"]) == (kind, kind)
        assert len(found.sha256) == 64
    assert inspect(played.master(0)).n_parameters == inspect(played.proxy(0)).n_parameters == 2176
    assert inspect(played.proxy(0)).bits_per_parameter == 3.25
    assert [entry.name for entry in inspect(played.package(0)).files] == ["README.md", "proxy.safetensors"]


def test_inspect_of_a_file_is_what_sha256sum_says(played):
    import hashlib

    assert inspect(played.update(0, "a")).sha256 == hashlib.sha256(played.update(0, "a").read_bytes()).hexdigest()


def test_verify_finds_every_parent_in_a_whole_run(played):
    result = verify([played.folder], complete=True)
    assert result.missing == 0
    assert {one.kind for one in result.artifacts} == {"master", "proxy", "package", "update", "report"}


def test_verify_of_a_part_counts_what_is_missing(played):
    result = verify([played.package(0), played.update(0, "a")])
    assert result.missing == 1  # the master
    with pytest.raises(LineageError, match=r"its master .* is not among the artifacts"):
        verify([played.package(0)], complete=True)


def test_verify_refuses_a_damaged_file(run):
    path = run / "round-0000" / "package" / "README.md"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DigestError, match=r"README.md"):
        verify([run])


def test_verify_refuses_a_round_whose_master_was_exchanged(run):
    master = run / "round-0000" / "master.safetensors"
    content = bytearray(master.read_bytes())
    content[-1] ^= 1
    master.write_bytes(content)
    with pytest.raises(LineageError, match="was made from another master of round 0"):
        verify([run])


def test_verify_refuses_parents_of_the_wrong_kind_round_or_federation(played, tmp_path):
    lie = {"package": (sha256_of(played.proxy(0)),)}
    wrong = reforge(played.update(0, "a"), tmp_path / "u.safetensors", kind=UpdateHeader, parents=lie)
    with pytest.raises(LineageError, match=r"its package is .*, which is a proxy"):
        verify([wrong, played.proxy(0)])
    wrong = reforge(played.update(0, "a"), tmp_path / "v.safetensors", kind=UpdateHeader, round=5)
    with pytest.raises(LineageError, match="is of round 0, not 5"):
        verify([wrong, played.package(0)])
    wrong = reforge(played.master(1), tmp_path / "w.safetensors", kind=MasterHeader, federation="0" * 64)
    with pytest.raises(LineageError, match="are of different federations"):
        verify([wrong, played.master(0)])


def test_status_tells_what_is_missing_and_what_to_do_next(run):
    newest = run / "round-0001"
    found = status(run, clients=("a", "b", "c"))
    assert (found.round, found.has_master, found.has_proxy, found.has_package) == (1, True, False, False)
    assert found.next.startswith(f"fedlpp quantize {run}/round-0001/master.safetensors")
    shutil.copy(run / "round-0000" / "proxy.safetensors", newest / "proxy.safetensors")
    assert status(run).next.startswith(f"fedlpp pack {run}/round-0001/proxy.safetensors")
    shutil.rmtree(newest)
    found = status(run, clients=("a", "b", "c"))
    assert (found.updates, found.missing, found.next) == (("a", "b"), ("c",), "waiting for c")
    assert status(run, clients=("a", "b")).next.startswith(f"fedlpp aggregate {run}/round-0000/master.safetensors")
    shutil.rmtree(run / "round-0000" / "updates")
    assert status(run).next.startswith(f"fedlpp client-train {run}/round-0000/package")


def test_status_works_for_a_client_who_has_no_master(run):
    shutil.rmtree(run / "round-0001")
    (run / "round-0000" / "master.safetensors").unlink()
    found = status(run)
    assert found.federation == verify([run]).artifacts[0].federation


def test_log_tells_the_rounds_in_order(played):
    found = log(played.folder)
    assert [entry.round for entry in found.rounds] == [0, 1]
    first, second = found.rounds
    assert (first.clients, first.n_examples, first.bits) == (("a", "b"), 28, "3")
    assert first.bytes_down == sum(path.stat().st_size for path in played.package(0).iterdir())
    assert first.bytes_up == played.update(0, "a").stat().st_size
    assert (second.update_rule, second.clients, second.loss_last) == (1, (), None)
    assert found.federation == first.master == sha256_of(played.master(0))


def test_log_refuses_a_chain_that_is_broken(run):
    forged = run / "round-0001" / "master.safetensors"
    reforge(forged, run / "forged.safetensors", kind=MasterHeader, parents={"master": ("0" * 64,)})
    (run / "forged.safetensors").replace(forged)
    with pytest.raises(LineageError, match="was not made from the master of round 0"):
        log(run)


def test_what_is_no_run_is_told(tmp_path, played):
    for step in (status, log):
        with pytest.raises(InputError, match="no such run folder"):
            step(tmp_path / "gone")
        with pytest.raises(InputError, match="no round-0000 in it"):
            step(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        inspect(tmp_path / "gone")
    (tmp_path / "a.safetensors").write_bytes(b"hello")
    with pytest.raises(ArtifactError):
        inspect(tmp_path / "a.safetensors")
