"""Models, batches and trainings that `train.py` measures: ours, a plain PEFT loop, transformers' Trainer."""

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from fedlpp_cli.models.adapted import AdaptedModel
from fedlpp_cli.models.first_values import first_values, resolve_lora
from fedlpp_cli.models.open_model import open_model
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.records.specs import LoraSpec, TaskSpec, TrainSpec
from fedlpp_cli.tasks.causal_lm import CausalLM
from fedlpp_cli.tasks.task import Example
from fedlpp_cli.training.batching import batch_maker
from fedlpp_cli.training.gradients import MeanGradient
from fedlpp_cli.training.loop import Training

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.tiny import make_tokenizer, prompt_rows, write_jsonl

VOCABULARY = 8192
BATCH, LENGTH = 4, 128
MIXED_BATCH, LONGEST = 16, 512
TASK = TaskSpec(max_length=LONGEST)
LORA = LoraSpec(rank=8, alpha=16.0)
RECIPE = TrainSpec(steps=10_000, batch_size=BATCH, compute="bf16", learning_rate=1e-3)

PEAK_CHILD = """
import json, sys
from pathlib import Path
from train_models import Loops
loops = Loops(Path(sys.argv[1]))
step = loops.plain() if sys.argv[2] == "plain" else loops.ours()
for _ in range(3):
    step()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
print(json.dumps((int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])) * 1024))
"""


def make_base(folder: Path, *, n_layers: int, hidden: int = 768, inner: int = 2048) -> Path:
    """A Llama with random weights, in bf16, with heads of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=n_layers,
        num_attention_heads=hidden // 64, max_position_embeddings=LONGEST, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    with quiet_libraries():
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


def make_demo(folder: Path) -> list[str]:
    """Base, master, proxy and package of the size of the demo's; what `client-train` is told."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fedlpp_cli import init, pack, quantize

    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    base, data = folder / "base", write_jsonl(folder / "rows.jsonl", prompt_rows(64, seed=0))
    with quiet_libraries():
        LlamaForCausalLM(config).save_pretrained(base)
        make_tokenizer().save_pretrained(base)
    init(base, out=folder / "master", task=TaskSpec(max_length=160), lora=LORA)
    quantize(folder / "master", out=folder / "proxy")
    pack(folder / "proxy", out=folder / "package", train=TrainSpec(steps=1, batch_size=8), ledger=folder / "ledger")
    where = ["--base", str(base), "--data", str(data), "--device", "cpu"]
    return ["client-train", str(folder / "package"), "--client", "a", *where]


class Loops:
    """The same base, adapter and batches for all; each loop is opened when it is asked for."""

    def __init__(self, base: Path, *, mixed: bool = False, length: int = LENGTH) -> None:
        """Draw the examples: all of one length, or with lengths as texts have them, log-normal around 80 tokens."""
        self.base, self.lora = base, resolve_lora(base, TASK, LORA)
        random = torch.Generator().manual_seed(0)
        self.batch_size = MIXED_BATCH if mixed else BATCH
        lengths = [length] * (4 * BATCH)
        if mixed:
            drawn = torch.randn(4 * MIXED_BATCH, generator=random).mul(0.8).add(4.4).exp()
            lengths = drawn.clamp(8, LONGEST).int().tolist()
        ids = [tuple(torch.randint(3, VOCABULARY, (length,), generator=random).tolist()) for length in lengths]
        self.examples = [Example(row, row, was_cut=False) for row in ids]
        self.task = CausalLM(TASK, make_tokenizer(), {})
        self.n_tokens = self.batch_size * sum(lengths) / len(lengths)
        opened = open_model(base, TASK, device="meta").model
        self.n_parameters = sum(parameter.numel() for parameter in opened.parameters())

    def ours(self, *, quantized: bool = False) -> Callable[[], object]:
        """A step of our training."""
        base = open_model(self.base, TASK, compute="bf16", quantized=quantized).model
        adapted = AdaptedModel(base, self.lora, compute="bf16")
        adapted.load(first_values(self.base, TASK, self.lora, seed=0))
        recipe = replace(RECIPE, batch_size=self.batch_size)
        gradient = MeanGradient(adapted, self.task, recipe, make_batches=batch_maker("auto", adapted, self.task))
        training = Training(adapted, self.task, self.examples, recipe, labels=("bench",), gradient=gradient)
        steps = training.sampler.steps_from(0)
        base.train()
        return lambda: training._step(0, next(steps))  # noqa: SLF001  # one at a time, as `run` makes them

    def plain(self) -> Callable[[], object]:
        """A step as one writes it by hand."""
        model = self._peft(quantized=False)
        model.train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
        position = 0

        def step() -> float:
            nonlocal position
            rows = [self.examples[(position + i) % len(self.examples)] for i in range(self.batch_size)]
            position += self.batch_size
            batch = self.task.collate(rows)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return float(loss.item())

        return step

    def trainer_seconds(self, *, n_steps: int) -> list[float]:
        """Of each step but the first, of transformers' Trainer on bitsandbytes' 4-bit layers."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        ended: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                ended.append(time.perf_counter())

        model = self._peft(quantized=True)
        with tempfile.TemporaryDirectory() as folder, quiet_libraries():
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=self.batch_size, max_steps=n_steps + 1, use_cpu=True, bf16=True,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
            )  # fmt: skip
            Trainer(
                model=model, args=arguments, train_dataset=self.examples * n_steps,  # type: ignore[arg-type]
                data_collator=self.task.collate, callbacks=[Clock()],
            ).train()  # fmt: skip
        return [after - before for before, after in pairwise(ended)]

    def _peft(self, *, quantized: bool) -> Any:
        from peft import LoraConfig, get_peft_model

        base = open_model(self.base, TASK, compute="bf16", quantized=quantized).model
        config = LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=list(self.lora.target_modules))
        return get_peft_model(base, config)
