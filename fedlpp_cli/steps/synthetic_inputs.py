"""Inputs for a teacher that nobody's rows went into: random tokens, filled templates, what a language model writes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from fedlpp_cli.artifact import store
from fedlpp_cli.artifact.regular import read_regular
from fedlpp_cli.errors import DataError, ModelError, UsageError
from fedlpp_cli.models.base_folder import model_type_of
from fedlpp_cli.models.open_model import open_model, open_tokenizer
from fedlpp_cli.quiet import quiet_libraries
from fedlpp_cli.randomness import numpy_draws, seed_for
from fedlpp_cli.records.specs import TaskSpec
from fedlpp_cli.refs import parse_ref
from fedlpp_cli.steps.inputs import RefLike
from fedlpp_cli.tasks.templates import Template, parse_templates
from fedlpp_cli.training.limits import max_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnBatch = Callable[[int, int], None]

_MAX_TEMPLATE_BYTES: Final = 2**24
# Tokens of a random text: longer ones teach no more and cost more.
_SHORTEST, _LONGEST = 2, 64
# How often, for each text that is needed, one may be drawn that is nothing but spaces.
_ATTEMPTS: Final = 4


def read_templates(path: Path) -> tuple[Template, ...]:
    """The templates in a file.

    Raises:
        InputError: it cannot be read.
        DataError: not UTF-8, too large, no templates, or a slot that is not known.
    """
    data = read_regular(path, _MAX_TEMPLATE_BYTES + 1)
    if len(data) > _MAX_TEMPLATE_BYTES:
        raise DataError(f"{path}: more than {_MAX_TEMPLATE_BYTES} bytes of templates")
    try:
        return parse_templates(data.decode("utf-8-sig"), source=path.name)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from None


def random_texts(tokenizer: "PreTrainedTokenizerBase", n_texts: int, max_length: int, *, seed: int) -> list[str]:
    """Texts of ordinary tokens of a vocabulary, all equally likely, 2 to 64 of them.

    Raises:
        ModelError: a tokenizer with nothing but special tokens.
    """
    ordinary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
    if not ordinary:
        raise ModelError("the tokenizer has no ordinary tokens to draw from")
    draws = numpy_draws(seed, "random input")
    longest = max(_SHORTEST, min(_LONGEST, max_length))

    def draw(n: int) -> list[str]:
        lengths = draws.randint(_SHORTEST, longest + 1, n)
        return [
            str(tokenizer.decode([ordinary[one] for one in draws.randint(0, len(ordinary), length)]))
            for length in lengths
        ]

    return _with_words(draw, n_texts, "the tokenizer's random tokens")


@torch.inference_mode()
def sampled_texts(
    model: RefLike, n_texts: int, max_length: int, *, seed: int, batch_size: int, device: str, on_batch: OnBatch
) -> list[str]:
    """What a plain language model writes of its own, at temperature 1 from its whole distribution.

    Raises:
        ModelError: no language model, or one that writes nothing.
        UsageError: an artifact of a federation instead of a model folder.
    """
    folder, _ = store.fetch_model(parse_ref(model))
    if not folder.is_dir():
        raise UsageError(
            f"--sample {model}: a folder with a plain language model is needed",
            hint="one that has never seen private rows: what it writes travels",
        )
    model_type_of(folder)
    tokenizer, opened = open_tokenizer(folder), open_model(folder, TaskSpec(), device=device).model
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ModelError(f"{folder}: the tokenizer has no token that a text begins or ends with")
    positions = max_positions(opened)
    n_tokens = min(max_length, positions - 1) if positions is not None else max_length
    n_drawn = 0

    def draw(n: int) -> list[str]:
        nonlocal n_drawn
        texts: list[str] = []
        while len(texts) < n:
            at_once = min(batch_size, n - len(texts))
            with _seeded(seed, n_drawn), quiet_libraries():
                ids = opened.generate(
                    input_ids=torch.full((at_once, 1), start, device=opened.device),
                    attention_mask=torch.ones((at_once, 1), dtype=torch.int64, device=opened.device),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=n_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            texts += tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
            n_drawn += at_once
            on_batch(min(n_drawn, n_texts), n_texts)
        return texts

    return _with_words(draw, n_texts, str(model))


def _with_words(draw: Callable[[int], list[str]], n_texts: int, source: str) -> list[str]:
    """The first `n_texts` that are more than spaces.

    Raises:
        ModelError: too few of them.
    """
    found: list[str] = []
    for _ in range(_ATTEMPTS):
        found += [text for text in draw(n_texts - len(found)) if text.strip()]
        if len(found) == n_texts:
            return found
    raise ModelError(f"{source}: gives next to nothing but empty texts")


@contextlib.contextmanager
def _seeded(seed: int, n_drawn: int) -> Iterator[None]:
    """Sampling draws from torch's global generators: seed them by name, and give them back as they were."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed_for(seed, "sampled input", n_drawn))
        yield
