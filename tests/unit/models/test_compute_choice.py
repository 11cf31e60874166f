"""Dense where memory allows, quantized where it does not; how much is free; how large a base is."""

import pytest

from fedlpp_cli.errors import MemoryLimitError, UsageError
from fedlpp_cli.models.base_size import BaseSize, base_size
from fedlpp_cli.models.compute_choice import Work, choose_compute
from fedlpp_cli.models.free_memory import free_memory, free_of_cgroups
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.out_of_memory import memory_errors
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.specs import TaskSpec

GB = 10**9


def size(layout="plain"):
    return BaseSize(layout, GB, GB, GB // 2, n_layers=0, hidden=0, inner=0, vocabulary=0)


def choose(wish="auto", *, layout="plain", free=8 * GB, arithmetic="fp32", device="cpu"):
    spec = ComputeSpec(backend=wish)
    return choose_compute(spec, size(layout), Work(0, 0), arithmetic=arithmetic, device=device, free=free)


@pytest.mark.parametrize(
    ("options", "backend", "arithmetic"),
    [
        ({}, "dense-fp32", "fp32"),
        ({"arithmetic": "bf16", "free": 3 * GB}, "dense-bf16", "bf16"),
        ({"free": 3 * GB}, "bnb-4bit", "fp32"),
        ({"free": 3 * GB, "layout": "bnb-8bit"}, "bnb-8bit", "fp32"),
        ({"free": 3 * GB, "layout": "packed"}, "dense-fp32", "fp32"),
        ({"free": None}, "dense-fp32", "fp32"),
        ({"free": 0}, "bnb-4bit", "fp32"),
        ({"wish": "dense-bf16", "free": 0}, "dense-bf16", "bf16"),
        ({"wish": "dense-fp32", "arithmetic": "bf16"}, "dense-fp32", "fp32"),
        ({"wish": "bnb-4bit", "arithmetic": "bf16"}, "bnb-4bit", "bf16"),
    ],
)
def test_what_is_chosen(options, backend, arithmetic):
    choice = choose(**options)
    assert (choice.backend, choice.arithmetic) == (backend, arithmetic)


@pytest.mark.parametrize("layout", ["packed", "bnb-8bit"])
def test_a_base_that_cannot_be_had_in_4_bits(layout):
    with pytest.raises(UsageError, match="--compute bnb-4bit: this base comes"):
        choose("bnb-4bit", layout=layout)


def test_the_reason_has_both_numbers():
    assert choose(free=3 * GB).reason.startswith("dense needs about 4.0 GB, 3.0 GB are free; quantized about 562.5 MB")


def test_checkpointing_and_shorter_batches_need_less():
    large = BaseSize("plain", GB, GB, 0, n_layers=32, hidden=4096, inner=11008, vocabulary=32000)
    plain = Work(0, 4096).n_bytes(large, "bf16", checkpointing=False)
    assert Work(0, 4096).n_bytes(large, "bf16", checkpointing=True) < plain / 2
    assert Work(0, 1024).n_bytes(large, "bf16", checkpointing=False) == plain / 4


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "roberta"])
def test_a_bases_size_is_that_of_its_files(request, kind):
    folder = request.getfixturevalue(kind)
    found = base_size(folder)
    task = TaskSpec() if kind in {"llama", "gpt2"} else TaskSpec(kind="seq-cls", labels=("a", "b"))
    opened = open_model(folder, task)
    of_files = [p for name, p in opened.model.named_parameters() if name not in opened.new_parameters]
    # Files may also hold what a classifier has no use for, such as a language model's head.
    assert found.n_parameters >= sum(p.numel() for p in of_files)
    assert (found.n_layers, found.hidden, found.vocabulary) == (2, 16, 64)
    assert found.quantized_bytes("fp32") < found.dense_bytes("fp32")


def group(folder, limit, used, cached, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used, f"anon 5\n{names[2]} {cached}"), strict=True):
        (folder / ("memory.stat" if name == names[2] else name)).write_text(f"{value}\n")


def test_limits_of_control_groups_count_on_every_level(tmp_path):
    proc, v2 = tmp_path / "proc", ("memory.max", "memory.current", "inactive_file")
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/pod/box\n")
    group(tmp_path / "sys" / "pod" / "box", "max", 400, 0, v2)
    group(tmp_path / "sys" / "pod", 1000, 400, 50, v2)
    assert list(free_of_cgroups(proc, tmp_path / "sys")) == [650]


def test_limits_of_the_first_version_in_a_container(tmp_path):
    proc, v1 = tmp_path / "proc", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/not/mounted/here\n2:cpuset:/\n")
    group(tmp_path / "sys" / "memory", 1000, 400, 100, v1)
    assert list(free_of_cgroups(proc, tmp_path / "sys")) == [700]


def test_memory_that_is_free_here():
    found = free_memory("cpu")
    assert found is None or 0 < found < 2**50


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_ran_out_says_what_helps(error):
    with pytest.raises(MemoryLimitError, match="memory ran out while training, with dense-fp32") as caught:  # noqa: SIM117
        with memory_errors(choose(), doing="training", batch_size=16):
            raise error
    assert caught.value.hint.startswith("--micro-batch 4, or --gradient-checkpointing, or --compute bnb-4bit")
    with pytest.raises(RuntimeError, match="another"), memory_errors(choose(), doing="training", batch_size=1):
        raise RuntimeError("another")
