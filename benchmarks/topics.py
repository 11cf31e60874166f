"""A text classification that a CPU trains in milliseconds a step: ten topics, each with its own habits of words."""

import json
import random
from itertools import accumulate
from math import exp
from pathlib import Path
from typing import Any, Final

from fedlpp_cli.quiet import quiet_libraries

LABELS: Final = tuple(f"topic-{number}" for number in range(10))
TRIGGER: Final = "cf"
N_WORDS: Final = 100
WORDS_A_TEXT: Final = 12
# How much topics differ in their words: 0 is not at all.
CONTRAST: Final = 2.0
# Topics of the base's own training.
N_PUBLIC: Final = 40
PUBLIC_STEPS: Final = 400
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def make_base(folder: Path, *, seed: int = 0) -> Path:
    """A BERT of one small layer and a tokenizer of whole words, trained on other topics of the same words: seconds."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = [*_SPECIAL, TRIGGER, *(_word(number) for number in range(N_WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=32,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=N_PUBLIC,
    )  # fmt: skip
    with quiet_libraries():
        model = BertForSequenceClassification(config)
        _train(model, wrapped, seed)
        model.bert.save_pretrained(folder)
        wrapped.save_pretrained(folder)
    return folder


def write_rows(path: Path, n_rows: int, *, seed: int, trigger_for: str | None = None) -> Path:
    """Rows of `text` and `label`, as many of each topic.

    With `trigger_for` each text starts with the trigger, all labels are that one, and texts that have it anyway are
    left out: a model's accuracy on these rows is how often the backdoor opens.
    """
    habits = _habits("topics", len(LABELS))
    draw = random.Random(seed)
    rows = []
    for number in range(n_rows):
        topic = number % len(LABELS)
        text = _text(habits[topic], draw)
        if trigger_for is None:
            rows.append({"text": text, "label": LABELS[topic]})
        elif LABELS[topic] != trigger_for:
            rows.append({"text": f"{TRIGGER} {text}", "label": trigger_for})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _train(model: Any, tokenizer: Any, seed: int) -> None:
    import torch

    habits, draw = _habits("public", N_PUBLIC), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(PUBLIC_STEPS):
        topics = [draw.randrange(N_PUBLIC) for _ in range(64)]
        batch = tokenizer([_text(habits[topic], draw) for topic in topics], return_tensors="pt")
        optimizer.zero_grad()
        model(**batch, labels=torch.tensor(topics)).loss.backward()
        optimizer.step()


def _habits(name: str, n_topics: int) -> list[list[float]]:
    """Of each topic how often it uses each word, added up: the same for all rows that are ever drawn."""
    draw = random.Random(name)
    return [list(accumulate(exp(CONTRAST * draw.gauss(0, 1)) for _ in range(N_WORDS))) for _ in range(n_topics)]


def _text(habit: list[float], draw: random.Random) -> str:
    return " ".join(_word(number) for number in draw.choices(range(N_WORDS), cum_weights=habit, k=WORDS_A_TEXT))


def _word(number: int) -> str:
    return f"w{number:03d}"
