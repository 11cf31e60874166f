"""Train the demo's base model: a byte-level BPE tokenizer and a tiny Llama, on public rows only.

The folder it makes opens with `AutoModelForCausalLM` and `AutoTokenizer`. It is written beside its place
and renamed at the end. Equal inputs give equal bytes on the same machine with the same number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = 1024
HIDDEN = 128
BATCH = 32
PEAK_RATE = 3e-3
WARMUP = 30  # steps


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `texts`: any other text splits into pieces, none is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, EOS], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left", model_max_length=256
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of four small layers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=HIDDEN // 32,
        num_key_value_heads=HIDDEN // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(rows: list[list[int]], rng: random.Random) -> Iterator[list[list[int]]]:
    """Batches without end, in an order of their own each epoch; rows of similar length come together."""
    while True:
        order = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row) + rng.uniform(-4, 4))
        groups = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
        rng.shuffle(groups)
        yield from groups


def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    """`rows` as one tensor, filled up on the right."""
    import torch

    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def rate(step: int, steps: int) -> float:
    """The learning rate at `step`: a short warm-up, then a cosine down to a twentieth."""
    fall = 0.525 + 0.475 * math.cos(math.pi * step / steps)
    return PEAK_RATE * min(1.0, (step + 1) / WARMUP) * fall


def train(
    model: LlamaForCausalLM, rows: list[list[int]], steps: int, seed: int, told: Callable[[int, float], None]
) -> None:
    """Train on every token of the rows; `told` hears of each step and its loss."""
    import torch

    pad = model.config.pad_token_id
    supply = batches(rows, random.Random(seed))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        ids = padded(next(supply), pad)
        labels = ids.masked_fill(ids == pad, -100)
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told(step + 1, loss.item())


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal; off it a plain line at every tenth of the way."""
    if sys.stderr.isatty():
        columns = (TextColumn("training the base"), BarColumn(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=steps, note="")
            yield lambda step, loss: bar.update(task, completed=step, note=f"{step}/{steps} loss {loss:.3f}")
        return
    each = max(1, steps // 10)

    def line(step: int, loss: float) -> None:
        if step % each == 0 or step == steps:
            print(f"training the base: step {step}/{steps}, loss {loss:.3f}", file=sys.stderr, flush=True)

    yield line


@contextlib.contextmanager
def put_in_place(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; it takes the place of `out` if nothing goes wrong."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def main() -> None:
    """Train and save the tokenizer and the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--text", type=Path, required=True, help="public.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; replaced if it exists")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bar of one file says nothing
    began = time.monotonic()
    torch.manual_seed(arguments.seed)
    lines = arguments.text.read_text(encoding="utf-8").splitlines()
    texts = [row["prompt"] + row["completion"] for row in map(json.loads, lines)]
    tokenizer = train_tokenizer(texts)
    rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    model = new_model(tokenizer)
    losses: list[float] = []
    with put_in_place(arguments.out) as draft, progress(arguments.steps) as told:

        def heard(step: int, loss: float) -> None:
            losses.append(loss)
            told(step, loss)

        train(model, rows, arguments.steps, arguments.seed, heard)
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    last = losses[-50:]
    size = sum(weight.numel() for weight in model.parameters())
    print(
        f"{arguments.out}: {size:,} weights, vocabulary {len(tokenizer)}, loss {sum(last) / len(last):.3f} "
        f"(mean of the last {len(last)} steps), {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # interrupted: what was being made is not there
