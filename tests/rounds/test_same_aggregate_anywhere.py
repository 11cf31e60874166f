"""Order of files, threads, hash seeds, time zone and locale never change a byte of an aggregate."""

import json
import os
import subprocess
import sys

import pytest
from support.parties import Federation

from fedlpp_cli.records.specs import AggregateSpec

PLACES = {
    "as it is": {},
    "many threads": {"OMP_NUM_THREADS": "5", "NUMBA_NUM_THREADS": "2"},
    # Commas for decimal points and dotless i, where such a locale is installed; elsewhere the C locale takes its place.
    "another language": {"LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0"},
    "another place": {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "4711", "HOME": "/nonexistent"},
}


def digests(federation, updates, out, rule, environment):
    command = [
        sys.executable, "-m", "fedlpp_cli", "aggregate", federation.master(0), *updates, "--package",
        federation.package(0), "--rule", rule, "--clip-norm", "0.05", "--out", out, "--json",
    ]  # fmt: skip
    settings = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | settings, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)["data"]["sha256"], out.with_name(f"{out.name}.report.json").read_bytes()


@pytest.fixture(scope="module")
def federation(llama, tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("run"), llama, clients=("a", "b", "c"), aggregate=AggregateSpec())
    federation.init()
    federation.send(0)
    for client in federation.clients:
        federation.train_client(0, client)
    return federation


@pytest.mark.parametrize("rule", ["mean", "geometric-median"])
def test_an_aggregate_has_one_digest(federation, tmp_path, rule):
    updates = federation.updates(0)
    shuffled = [updates[1], updates[2], updates[0]]
    found = {
        digests(federation, shuffled if number % 2 else updates, tmp_path / str(number), rule, environment)
        for number, environment in enumerate(PLACES.values())
    }
    assert len({sha256 for sha256, _ in found}) == 1
    assert len({report for _, report in found}) == 1
