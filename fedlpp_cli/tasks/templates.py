"""Texts from templates: a line of text with slots, filled from named random streams.

    Received block <num> of size <num 512-65536> from <ip>
    session <hex 8> closed: <choice ok|timeout|reset by peer>

    <num>  <num 1-99>           a whole number, 0 to 9999 or from the range, both ends included
    <hex>  <hex 16>             so many hexadecimal digits, 8 where nothing is said
    <ip>                        an IPv4 address
    <word>                      a made-up word of two to four syllables
    <path>                      a path of two to four made-up words
    <choice a|b|c>              one of these, literally
    <<                          a "<"

Empty lines, and lines that begin with "#", are passed over.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from fedlpp_cli.errors import DataError
from fedlpp_cli.randomness import numpy_draws

if TYPE_CHECKING:
    from numpy.random import RandomState

Slot = Callable[["RandomState"], str]

_PIECE: Final = re.compile(r"<<|<([a-z]+)(?: ([^<>]*))?>|<|[^<]+")
_RANGE: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_SYLLABLES: Final = tuple(first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou")
_MAX_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Template:
    """A line that has been taken apart: literal text and slots, in order."""

    pieces: tuple[str | Slot, ...]

    @property
    def is_literal(self) -> bool:
        """Whether it has no slot, so that it is always the same text."""
        return all(isinstance(piece, str) for piece in self.pieces)

    def fill(self, draws: "RandomState") -> str:
        """The text, with every slot drawn."""
        return "".join(piece if isinstance(piece, str) else piece(draws) for piece in self.pieces)


def parse_templates(text: str, *, source: str) -> tuple[Template, ...]:
    """The templates in a file's text.

    Raises:
        DataError: a slot that is not known, with its line; or no template at all.
    """
    found = tuple(
        Template(tuple(_pieces(line.strip(), f"{source}, line {number}")))
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    )
    if not found:
        raise DataError(f"{source}: no templates")
    return found


def fill_templates(templates: Sequence[Template], n_texts: int, *, seed: int) -> list[str]:
    """So many texts: the templates one after the other, again and again, each text from a stream of its own."""
    return [templates[number % len(templates)].fill(numpy_draws(seed, "template", number)) for number in range(n_texts)]


def _pieces(line: str, where: str) -> Iterator[str | Slot]:
    for match in _PIECE.finditer(line):
        if match[0] == "<<":
            yield "<"
        elif match[1] is not None:
            yield _slot(match[1], match[2], where)
        elif match[0] == "<":
            raise DataError(f"{where}: a '<' that begins no slot", hint="<< stands for one")
        else:
            yield match[0]


def _slot(name: str, detail: str | None, where: str) -> Slot:
    spelt = f"<{name}>" if detail is None else f"<{name} {detail}>"
    if name == "num":
        bounds = _RANGE.fullmatch(detail or "0-9999")
        if bounds is None or int(bounds[1]) > int(bounds[2]):
            raise DataError(f"{where}: {spelt} is no range, such as <num 1-99>")
        return partial(_number, int(bounds[1]), int(bounds[2]))
    if name == "hex":
        if not (detail or "8").isdecimal() or not 1 <= int(detail or 8) <= _MAX_DIGITS:
            raise DataError(f"{where}: {spelt} is no number of digits, 1 to {_MAX_DIGITS}, such as <hex 16>")
        return partial(_hex, int(detail or 8))
    if name == "choice":
        if not detail:
            raise DataError(f"{where}: {spelt} names nothing to choose from, as <choice a|b>")
        return partial(_choice, tuple(detail.split("|")))
    plain = _PLAIN.get(name)
    if plain is None or detail is not None:
        known = ", ".join(sorted({*_PLAIN, "num", "hex", "choice"}))
        raise DataError(f"{where}: no slot {spelt}; there are {known}, and << for '<'")
    return plain


def _number(low: int, high: int, draws: "RandomState") -> str:
    return str(draws.randint(low, high + 1))


def _hex(n_digits: int, draws: "RandomState") -> str:
    return "".join("0123456789abcdef"[digit] for digit in draws.randint(0, 16, n_digits))


def _choice(words: Sequence[str], draws: "RandomState") -> str:
    return words[draws.randint(0, len(words))]


def _ip(draws: "RandomState") -> str:
    return ".".join(str(part) for part in draws.randint(1, 255, 4))


def _word(draws: "RandomState") -> str:
    return "".join(_SYLLABLES[one] for one in draws.randint(0, len(_SYLLABLES), draws.randint(2, 5)))


def _path(draws: "RandomState") -> str:
    return "".join(f"/{_word(draws)}" for _ in range(draws.randint(2, 5)))


_PLAIN: Final[dict[str, Slot]] = {"ip": _ip, "word": _word, "path": _path}
