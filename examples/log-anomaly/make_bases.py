"""Make two small base models that have learned nothing: other architectures, other sizes, other tokenizers.

    work/base-a     BERT, two layers of 64, a WordPiece tokenizer
    work/base-b     RoBERTa, two layers of 96, a byte-level BPE tokenizer

Their tokenizers are trained on filled public templates. Weights are random, from a seed.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fedlpp_cli.tasks.templates import fill_templates, parse_templates

POSITIONS = 80


def wordpiece(texts: list[str]) -> Any:
    """A lower-case WordPiece tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_pairs(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
    )


def main() -> None:
    """Make `<out>/base-a` and `<out>/base-b`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    templates = parse_templates(options.templates.read_text(encoding="utf-8"), source=options.templates.name)
    texts = fill_templates(templates, 2000, seed=options.seed)
    first, second = wordpiece(texts), byte_pairs(texts)
    sizes: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
    torch.manual_seed(options.seed)
    bert = BertModel(
        BertConfig(vocab_size=len(first), hidden_size=64, intermediate_size=128, num_hidden_layers=2, **sizes)
    )
    roberta = RobertaModel(
        RobertaConfig(vocab_size=len(second), hidden_size=96, intermediate_size=192, num_hidden_layers=2, **sizes)
    )
    for name, model, tokenizer in (("base-a", bert, first), ("base-b", roberta, second)):
        model.save_pretrained(options.out / name)
        tokenizer.save_pretrained(options.out / name)


if __name__ == "__main__":
    main()
