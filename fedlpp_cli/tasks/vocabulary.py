"""Whether two tokenizers give the same tokens the same numbers, whatever their models look like."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedlpp_cli import canonical
from fedlpp_cli.artifact.digest import sha256_of_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`digest`: sha256 over pairs of number and token as canonical JSON, by number. `size`: the largest number + 1."""

    digest: str
    size: int


def vocabulary_of(tokenizer: "PreTrainedTokenizerBase") -> Vocabulary:
    """The vocabulary of a tokenizer, tokens that were added to it included."""
    pairs = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    return Vocabulary(sha256_of_bytes(canonical.encode([list(pair) for pair in pairs])), pairs[-1][0] + 1)
