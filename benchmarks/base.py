"""A part of `make bench-quantize`: a whole base model, quantized by the command, against `cp` of its folder."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from table import FAST, Table

HIDDEN, MIDDLE, WORDS = (1024, 2816, 8000) if FAST else (2048, 5632, 32000)
LAYERS, SHARDS = (4, 2) if FAST else (19, 4)
RUNS = 3


def add_base(table: Table) -> None:
    """Rows about `fedlpp quantize` of a bfloat16 base in several files."""
    with tempfile.TemporaryDirectory(prefix="fedlpp-bench-") as scratch:
        work = Path(scratch)
        n_weights, largest = _make_base(work / "model")
        _run("init", "--base", work / "model", "--private-base", "--target-modules", "q_proj", "--out", work / "master")
        size = sum(path.stat().st_size for path in (work / "model").iterdir())
        print(f"a base of {n_weights / 1e9:.2f} billion bfloat16 weights, {size / 1e9:.2f} GB in {SHARDS} files")
        copied, made, peak = [], [], 0
        for number in range(RUNS):
            copied.append(_time(["cp", "-r", str(work / "model"), str(work / f"copy{number}")])[0])
            _remove(work / f"copy{number}")
            seconds, memory = _time([
                *_FEDLPP, "quantize", str(work / "master"), "--base", str(work / "model"), "--base-out",
                str(work / f"base{number}"), "--out", str(work / f"proxy{number}"), "--quiet",
            ])  # fmt: skip
            made.append(seconds)
            peak = max(peak, memory)
            _remove(work / f"base{number}")
        table.add("base: cp -r of the folder", min(copied), "s")
        table.add("base: fedlpp quantize, nf4", min(made), "s")
        table.add("base: fedlpp quantize against cp", min(made) / min(copied), "x", "<=1.5")
        seconds = _time([sys.executable, "-c", _HASH, *map(str, sorted((work / "model").glob("*.safetensors")))])[0]
        table.add("base: sha256 of the same files on one core", seconds, "s")
        table.add("base: peak memory beyond the largest tensor", (peak - largest) / 1e9, "GB", "<=1.0")


_FEDLPP = [sys.executable, "-m", "fedlpp_cli"]
_WATCH = """import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""
_HASH = "import hashlib, sys\nfor path in sys.argv[1:]:\n    hashlib.file_digest(open(path, 'rb'), 'sha256')"


def _make_base(folder: Path) -> tuple[int, int]:
    """Random weights in the shape of a Llama; how many, and the largest tensor's bytes."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=MIDDLE, num_hidden_layers=LAYERS,
        num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=False,
    )  # fmt: skip
    config.save_pretrained(folder)
    shapes = {"model.embed_tokens.weight": (WORDS, HIDDEN)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}."
        shapes |= {f"{stem}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{stem}mlp.{name}_proj.weight": (MIDDLE, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{stem}mlp.down_proj.weight": (HIDDEN, MIDDLE)}
        shapes |= {f"{stem}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (WORDS, HIDDEN)}
    random = torch.Generator().manual_seed(0)
    names, where = list(shapes), {}
    per_shard = -(-len(names) // SHARDS)
    for number in range(SHARDS):
        part = names[number * per_shard : (number + 1) * per_shard]
        shard = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        save_file({name: _weights(shapes[name], random) for name in part}, folder / shard, metadata={"format": "pt"})
        where |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    counts = [torch.Size(shape).numel() for shape in shapes.values()]
    return sum(counts), 2 * max(counts)


def _weights(shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return (torch.randn(shape, generator=random) * 0.02).to(torch.bfloat16)


def _run(*arguments: object) -> None:
    subprocess.run([*_FEDLPP, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def _time(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and its largest resident set in bytes."""
    # From a small process: what is forked from this one begins with its memory.
    watched = subprocess.run([sys.executable, "-c", _WATCH, *command], capture_output=True, text=True, check=True)
    seconds, peak = watched.stdout.split()[-2:]
    return float(seconds), 1024 * int(peak)


def _remove(folder: Path) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)
