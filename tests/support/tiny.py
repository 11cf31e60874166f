"""Tiny real models and data, made on the fly: seconds, not downloads."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedlpp_cli.quiet import quiet_libraries

WORDS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op")
LABELS = ("first", "second", "third")
_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_VOCABULARY = 64


def make_model(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Save a random model with its tokenizer.

    Args:
        folder: where to.
        kind: "llama", "gpt2" (language models), "bert" (an encoder without head) or "roberta".
        seed: of the weights.
    """
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        RobertaConfig,
        RobertaForMaskedLM,
    )

    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(seed)
    match kind:
        case "llama":
            config = LlamaConfig(vocab_size=_VOCABULARY, max_position_embeddings=64, **_SIZES, **special)
            model: Any = LlamaForCausalLM(config)
        case "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=_VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, **special)
            )
        case "bert":
            model = BertModel(BertConfig(vocab_size=_VOCABULARY, max_position_embeddings=64, **_SIZES, **special))
        case "roberta":
            config = RobertaConfig(vocab_size=_VOCABULARY, max_position_embeddings=66, **_SIZES, **special)
            model = RobertaForMaskedLM(config)
    with quiet_libraries():
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer(*, chat_template: str | None = None) -> Any:
    """A byte-pair tokenizer over the letters of WORDS, with <pad>, <s> and </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(set("".join(WORDS)))
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 10, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    wrapped.chat_template = chat_template
    return wrapped


def prompt_rows(n_rows: int, *, seed: int) -> list[dict[str, str]]:
    """Rows of `prompt` and `completion`; different seeds have different habits."""
    draw = random.Random(seed)
    favourites = draw.sample(WORDS, 4)
    return [
        {"prompt": draw.choice(WORDS) + " ", "completion": " ".join(draw.choices(favourites, k=5))}
        for _ in range(n_rows)
    ]


def label_rows(n_rows: int, *, seed: int) -> list[dict[str, str]]:
    """Rows of `text` and `label` in which the first word tells the label."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n_rows):
        label = draw.randrange(len(LABELS))
        rows.append({"text": " ".join([WORDS[label], *draw.choices(WORDS[3:], k=4)]), "label": LABELS[label]})
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
