"""Tensor files: safetensors' own bytes, equal for equal inputs, whole or not at all."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedlpp_cli.artifact.opening import open_any
from fedlpp_cli.artifact.tensor_file import TensorFile, layout_bytes, layout_of, write_tensors
from fedlpp_cli.errors import ArtifactError, InputError, LineageError, OutputError, OutputExistsError
from fedlpp_cli.records.headers import Header, MasterHeader, UpdateHeader, encode_header

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def mixed():
    """Tensors of every dtype, out of every order, with awkward sizes."""
    random = torch.Generator().manual_seed(3)
    floats = torch.randn(60, generator=random)
    return {
        "z.lora_A": floats[:15].reshape(3, 5),
        "a.bf16": floats[15:22].bfloat16(),
        "b.scalar": torch.tensor(0.1),
        "a.codes": torch.arange(13, dtype=torch.uint8),
        "m.half": floats[22:30].half().reshape(2, 2, 2),
        "a.scalar_code": torch.tensor(255, dtype=torch.uint8),
        "A.upper-case": torch.tensor([float("nan"), float("inf"), -0.0]),
        "a.bf16_scalar": torch.tensor(1e30, dtype=torch.bfloat16),
    }


def layout_for(tensors):
    return {name: (DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def write(path, header, tensors, *, times=1, **options):
    with write_tensors(path, header, layout_for(tensors), **options) as out:
        for name, tensor in [*tensors.items()] * times:
            out.write(name, tensor)
    return path


def same(found, expected):
    """Equal to the last bit, NaN included."""
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (found, expected)]
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(*bits)


def test_the_bytes_are_those_of_the_safetensors_library(header, tmp_path):
    ours = write(tmp_path / "ours", header, mixed())
    save_file(mixed(), tmp_path / "theirs", metadata={"fedlpp": encode_header(header).decode()})
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("length", range(1, 9))
def test_the_padding_is_that_of_the_safetensors_library(header, tmp_path, length):
    tensors = {"x" * length: torch.ones(1)}
    ours = write(tmp_path / "ours", header, tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"fedlpp": encode_header(header).decode()})
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_safetensors_library_reads_what_we_write(header, tmp_path):
    path = write(tmp_path / "a.safetensors", header, mixed())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"fedlpp": encode_header(header).decode()}
        assert set(file.keys()) == set(mixed())
        for name, tensor in mixed().items():
            assert same(file.get_tensor(name), tensor)


def test_we_read_what_we_write(header, tmp_path):
    path = write(tmp_path / "a.safetensors", header, mixed())
    with TensorFile(path, UpdateHeader) as file:
        assert file.header == header
        assert file.raw_header == encode_header(header)
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.n_bytes == path.stat().st_size
        assert list(file.tensors) == sorted(mixed())
        assert layout_of(file.tensors) == layout_for(mixed())
        for name, tensor in mixed().items():
            assert same(file.read(name), tensor)
            assert file.tensors[name].n_elements == tensor.numel()
            assert file.tensors[name].n_bytes == tensor.numel() * tensor.element_size()


def test_the_order_of_writing_and_of_the_layout_does_not_show(header, tmp_path):
    tensors = mixed()
    backwards = dict(reversed(tensors.items()))
    assert write(tmp_path / "a", header, tensors).read_bytes() == write(tmp_path / "b", header, backwards).read_bytes()


def test_equal_inputs_give_equal_bytes_in_every_process(tmp_path):
    script = """
import hashlib, sys, torch
from pathlib import Path
from fedlpp_cli.artifact.tensor_file import write_tensors
from fedlpp_cli.records.headers import UpdateHeader, UpdateSpec
from fedlpp_cli.records.specs import TrainMetrics
metrics = TrainMetrics(n_examples=1, n_steps=1, n_tokens=1, loss_first=1.0, loss_last=0.5, update_norm=1.0)
parents = {role: () for role in {"a", "b", "c", "d", "e"}}
header = UpdateHeader(federation="0" * 64, round=0, parents=parents, spec=UpdateSpec(client="a", metrics=metrics))
names = {"a", "b", "c", "d", "e", "f", "g"}
path = Path(sys.argv[1])
with write_tensors(path, header, {name: ("F32", (2,)) for name in names}) as out:
    for name in names:
        out.write(name, torch.full((2,), float(ord(name))))
print(list(names), hashlib.sha256(path.read_bytes()).hexdigest())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for seed in ("1", "2")
    ]
    orders, digests = zip(*(process.communicate()[0].rsplit(" ", 1) for process in processes), strict=True)
    assert len(set(orders)) == 2, "the test shall see sets in different orders"
    assert len(set(digests)) == 1


def test_tensors_of_any_layout_in_memory_are_written_by_value(header, tmp_path):
    square = torch.arange(12.0).reshape(3, 4)
    tensors = {"transposed": square.T, "strided": square[:, ::2], "trained": torch.nn.Parameter(square)}
    tensors |= {"expanded": torch.ones(1).expand(5), "offset": square[1]}
    with TensorFile(write(tmp_path / "a", header, tensors), Header) as file:
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name), tensor)
            assert not file.read(name).requires_grad


def test_a_tensor_is_read_into_memory_of_its_own(header, tmp_path):
    with TensorFile(write(tmp_path / "a", header, {"x": torch.ones(3)}), Header) as file:
        file.read("x").zero_()
        assert torch.equal(file.read("x"), torch.ones(3))


def test_a_file_without_tensors_is_a_file(header, tmp_path):
    with TensorFile(write(tmp_path / "a", header, {}), Header) as file:
        assert file.tensors == {}
        assert file.header == header


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("x", torch.ones(3, dtype=torch.float64)),
        ("x", torch.ones(3, dtype=torch.int32)),
        ("x", torch.ones(3).bfloat16()),
        ("x", torch.ones(4)),
        ("x", torch.ones(3, 1)),
        ("x", torch.ones(())),
        ("x", torch.ones(0)),
        ("y", torch.ones(3)),
        ("x.", torch.ones(3)),
    ],
    ids=["float64", "int32", "bfloat16", "longer", "rank", "scalar", "empty", "name", "longer name"],
)
def test_a_tensor_that_was_not_announced_is_refused(header, tmp_path, name, tensor):
    with pytest.raises(ValueError), write_tensors(tmp_path / "a", header, {"x": ("F32", (3,))}) as out:
        out.write(name, tensor)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_is_written_once(header, tmp_path):
    with pytest.raises(ValueError, match="written before"):
        write(tmp_path / "a", header, {"x": torch.ones(3)}, times=2)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_is_missing_at_the_end_is_named_and_nothing_is_left(header, tmp_path):
    layout = {"x": ("F32", (3,)), "y": ("F32", (3,))}
    with pytest.raises(ValueError, match=r"not written: \['y'\]"), write_tensors(tmp_path / "a", header, layout) as out:
        out.write("x", torch.ones(3))
    assert list(tmp_path.iterdir()) == []


def test_the_identity_is_known_before_the_file_has_its_name(header, tmp_path):
    tensors = mixed()
    with write_tensors(tmp_path / "a", header, layout_for(tensors)) as out:
        for number, (name, tensor) in enumerate(tensors.items()):
            if number == 1:
                with pytest.raises(ValueError, match="announced and not written"):
                    out.sha256()
            out.write(name, tensor)
        known = out.sha256()
        assert not (tmp_path / "a").exists()
    assert known == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert layout_bytes(layout_for(tensors)) == sum(one.numel() * one.element_size() for one in tensors.values())


@pytest.mark.parametrize(
    "layout",
    [
        {"x/y": ("F32", (1,))},
        {"": ("F32", (1,))},
        {"x y": ("F32", (1,))},
        {"x" * 1000: ("F32", (1,))},
        {"x": ("F32", (0,))},
        {"x": ("F32", (1,) * 9)},
        {"__metadata__": ("F32", (1,))},
        {f"x{number}": ("U8", (1,)) for number in range(20_001)},
    ],
    ids=["slash", "no name", "space", "long name", "zero", "rank", "metadata", "many"],
)
def test_what_would_not_be_read_is_not_written(header, tmp_path, layout):
    with pytest.raises((ArtifactError, ValueError)), write_tensors(tmp_path / "a", header, layout):
        pytest.fail("the body ran")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["encoder.en-de.0.lora_A", "a" * 256 + ".lora_A.scale_scales", "_x", "0"])
def test_names_that_modules_have_are_written_and_read(header, tmp_path, name):
    with TensorFile(write(tmp_path / "a", header, {name: torch.ones(1)}), Header) as file:
        assert list(file.tensors) == [name]


def test_a_private_file_is_for_its_owner_alone_and_force_replaces(header, tmp_path):
    path = write(tmp_path / "a", header, {"x": torch.ones(1)}, private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OutputExistsError):
        write(path, header, {"x": torch.zeros(1)})
    write(path, header, {"x": torch.zeros(1)}, force=True)
    with TensorFile(path, Header) as file:
        assert file.read("x").item() == 0


@pytest.mark.parametrize("successes", range(4))
def test_a_full_disk_at_any_moment_is_one_sentence_and_leaves_nothing(header, tmp_path, monkeypatch, successes):
    pwrite, calls = os.pwrite, []

    def fill(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > successes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fill)
    tensors = {"x": torch.ones(3), "y": torch.ones(3), "z": torch.ones(3)}
    with pytest.raises(OutputError, match=r"a: cannot be written .No space left on device.$"):
        write(tmp_path / "a", header, tensors)
    assert len(calls) == successes + 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -4, -1])
def test_a_file_that_is_cut_short_under_a_reader_is_an_error_and_no_crash(header, tmp_path, keep):
    path = write(tmp_path / "a", header, {"x": torch.ones(3), "y": torch.ones(3)})
    with TensorFile(path, Header) as file:
        os.truncate(path, keep % path.stat().st_size)
        with pytest.raises(ArtifactError, match="cut short"):
            file.read("y")
        with pytest.raises(ArtifactError, match="cut short"):
            _ = file.sha256


def test_a_reader_keeps_the_file_that_it_opened(header, tmp_path):
    path = write(tmp_path / "a", header, {"x": torch.ones(3)})
    with TensorFile(path, Header) as file:
        write(path, header, {"x": torch.zeros(3)}, force=True)
        assert torch.equal(file.read("x"), torch.ones(3))


def test_a_system_that_reads_a_little_at_a_time_gives_it_all(header, tmp_path, monkeypatch):
    path = write(tmp_path / "a", header, mixed())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: preadv(descriptor, [views[0][:3]], offset))
    with TensorFile(path, Header) as file:
        assert file.sha256 == expected
        for name, tensor in mixed().items():
            assert same(file.read(name), tensor)


def test_a_name_that_is_not_there_is_an_error(header, tmp_path):
    path = write(tmp_path / "a", header, {"x": torch.ones(3)})
    with TensorFile(path, Header) as file, pytest.raises(ArtifactError, match="no tensor 'y'"):
        file.read("y")


def test_a_file_of_another_kind_is_refused_on_opening_and_on_narrowing(header, tmp_path):
    path = write(tmp_path / "a", header, {"x": torch.ones(3)})
    with pytest.raises(LineageError, match="is an update, not a master"):
        TensorFile(path, MasterHeader)
    with TensorFile(path, Header) as file:
        assert file.narrow(UpdateHeader) is file
        with pytest.raises(LineageError):
            file.narrow(MasterHeader)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(header, tmp_path):
    path = write(tmp_path / "a", header, {"x": torch.ones(3)})
    (tmp_path / "bad").write_bytes(b"\x05" + bytes(30))
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(ArtifactError):
            TensorFile(tmp_path / "bad", Header)
        with pytest.raises(LineageError):
            TensorFile(path, MasterHeader)
        with pytest.raises(InputError):
            TensorFile(tmp_path, Header)
        with pytest.raises(OutputExistsError):
            write(path, header, {})
        with TensorFile(path, Header) as file:
            file.read("x")
        file.close()
    assert open_descriptors() == before


def test_a_closed_file_reads_nothing(header, tmp_path):
    file = TensorFile(write(tmp_path / "a", header, {"x": torch.ones(3)}), Header)
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file.read("x")


def test_open_any_finds_a_tensor_file_under_any_name(header, tmp_path):
    for name in ("a.safetensors", "a", "a.bin"):
        opened = open_any(write(tmp_path / name, header, {"x": torch.ones(3)}))
        assert isinstance(opened, TensorFile)
        opened.close()


@pytest.mark.parametrize("order", [1, -1])
def test_bytes_that_are_hashed_as_they_are_read_give_the_same_sha256(header, tmp_path, order):
    path = write(tmp_path / "u", header, mixed())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    with TensorFile(path, Header) as file:
        file.read("m.half")
        with file.hashing():
            found = {name: file.read(name) for name in [*file.tensors][::order][1:]}
            file.read("b.scalar")
        file.read("a.codes")
        assert file.sha256 == expected
        assert all(same(tensor, mixed()[name]) for name, tensor in found.items())


def test_bytes_are_not_read_again_for_the_sha256(header, tmp_path):
    """What was hashed is what was checked, even if the file changes in between."""
    path = write(tmp_path / "u", header, mixed())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    with TensorFile(path, Header) as file:
        with file.hashing():
            for name in file.tensors:
                file.read(name)
        path.write_bytes(b"\0" * path.stat().st_size)
        assert file.sha256 == expected
