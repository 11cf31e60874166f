"""What a GPU must not change. Skipped where there is none."""

import pytest
import torch
from support.forge import read_all
from support.parties import Federation
from support.tiny import prompt_rows, write_jsonl

from fedlpp_cli import client_train, evaluate
from fedlpp_cli.quantization.codec import MIN_COMPILED, decode, encode
from fedlpp_cli.records.compute import ComputeSpec
from fedlpp_cli.records.specs import LoraSpec, TrainSpec
from fedlpp_cli.steps.checkpoints import Checkpointing

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none here")


@pytest.mark.parametrize("bits", ["ternary", "2", "3", "4", "5", "6", "8"])
def test_codes_scales_and_values_are_those_of_the_cpu(bits):
    x = torch.randn(MIN_COMPILED + 3, generator=torch.Generator().manual_seed(0))
    packed, scales = encode(x, bits, 64)
    packed_there, scales_there = encode(x.cuda(), bits, 64)
    assert torch.equal(packed_there.cpu(), packed)
    assert torch.equal(scales_there.cpu(), scales)
    back = decode(packed_there, scales_there, len(x), bits, 64, torch.bfloat16)
    assert torch.equal(back.cpu(), decode(packed, scales, len(x), bits, 64, torch.bfloat16))


@pytest.mark.parametrize("private", [False, True], ids=["public base", "private 4-bit base"])
def test_a_client_with_a_gpu_takes_part(llama, tmp_path, private):
    federation = Federation(tmp_path, llama, private_base=private)
    federation.init()
    federation.send(0)
    result = client_train(
        federation.package(0),
        client="a",
        data=federation.data("a"),
        out=federation.update(0, "a"),
        base=None if private else federation.base,
        device="cuda",
    )
    assert result.metrics.loss_last < result.metrics.loss_first
    federation.fold(0, [federation.update(0, "a")])


def test_a_training_on_a_gpu_goes_on_with_the_gpus_generator(llama, tmp_path):
    """The same dropout, so the same update but for the order of sums."""
    federation = Federation(tmp_path, llama, lora=LoraSpec(rank=4, dropout=0.3), train=TrainSpec(steps=6, batch_size=4))
    federation.init()
    federation.send(0)

    def stop(text, done, total):
        if text.startswith("training") and done == 4:
            raise KeyError

    def train(out, **options):
        return client_train(
            federation.package(0), client="a", data=federation.data("a"), base=federation.base, device="cuda", out=out,
            **options,
        )  # fmt: skip

    train(tmp_path / "whole")
    kept = Checkpointing(path=tmp_path / "kept", n_steps=1)
    with pytest.raises(KeyError):
        train(tmp_path / "resumed", checkpoint=kept, on_progress=stop)
    assert "generator.cuda" in read_all(tmp_path / "kept")
    assert train(tmp_path / "resumed", checkpoint=kept).resumed_from == 3
    resumed = read_all(tmp_path / "resumed")
    for name, value in read_all(tmp_path / "whole").items():
        assert torch.allclose(resumed[name], value, atol=1e-5), name


def test_scores_of_gpu_and_cpu_agree(played, tmp_path):
    rows = write_jsonl(tmp_path / "test.jsonl", prompt_rows(10, seed=5))
    there, here = (
        evaluate([str(played.master(1))], data=rows, base=played.base, device=device).rows for device in ("cuda", "cpu")
    )
    assert [row.model for row in there] == [row.model for row in here]
    for one, other in zip(there, here, strict=True):
        assert one.scores["loss"] == pytest.approx(other.scores["loss"], rel=1e-3)


@pytest.mark.parametrize("backend", ["dense-fp32", "dense-bf16", "bnb-4bit"])
def test_every_way_to_compute_trains_on_a_gpu(played, tmp_path, backend):
    wish = ComputeSpec(backend=backend, micro_batch=2, gradient_checkpointing=True)
    where = {"client": "a", "data": played.data("a"), "base": played.base, "device": "cuda"}
    plan = client_train(played.package(0), out=tmp_path / "out", compute=wish, dry_run=True, **where).plan
    assert plan.memory_peak > 0
    result = client_train(played.package(0), out=tmp_path / "out", compute=wish, **where)
    assert (result.compute.backend, result.compute.device) == (backend, "cuda")
    assert result.metrics.loss_last < result.metrics.loss_first


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_base_is_split_over_gpus(played, tmp_path):
    where = {"client": "a", "data": played.data("a"), "base": played.base}
    result = client_train(played.package(0), out=tmp_path / "out", device="split", **where)
    assert result.metrics.loss_last < result.metrics.loss_first
