"""A base that is divided among processes: each keeps its part, and every gradient is that of the whole."""

import json
import subprocess
import sys

PROGRAM = """
import copy, json, sys
import torch
from pathlib import Path
from torch import distributed

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.models.sharded_base import shard_base
from fedlpp_cli.models.targets import linear_sizes
from fedlpp_cli.records.specs import LoraSpec, TaskSpec

distributed.init_process_group("gloo")
base = open_model(Path(sys.argv[1]), TaskSpec()).model
lora = LoraSpec(rank=4, target_modules=tuple(name for name in linear_sizes(base) if "lm_head" not in name))
torch.manual_seed(0)
whole = AdaptedModel(copy.deepcopy(base), lora)
divided = AdaptedModel(base, lora)
values = {name: torch.randn(value.shape) / 10 for name, value in whole.values().items()}
whole.load(values), divided.load(values)
n_frozen = sum(one.numel() for one in base.parameters() if not one.requires_grad)
shard_base(divided, "cpu")
n_kept = sum(one.to_local().numel() for one in base.parameters() if not one.requires_grad)
ids = torch.arange(8).view(2, 4) + distributed.get_rank()
for one in (whole, divided):
    one.logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).square().mean().backward()
equal = all(torch.equal(one.grad, whole.parameters[name].grad) for name, one in divided.parameters.items())
share = torch.tensor([n_kept / n_frozen, float(equal)])
distributed.all_reduce(share)
if distributed.get_rank() == 0:
    print(json.dumps(share.tolist()))
distributed.destroy_process_group()
"""


def test_two_processes_keep_half_each_and_have_the_gradients_of_the_whole(llama, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    done = subprocess.run([*command, str(llama)], capture_output=True, text=True, check=True, timeout=120)
    kept, equal = json.loads(done.stdout.strip().splitlines()[-1])
    assert equal == 2
    assert 1 <= kept < 1.02  # parts are filled up to equal sizes
