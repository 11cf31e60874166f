"""Text from strangers, made safe for a terminal."""

import unicodedata


def printable(text: str, *, keep_lines: bool = False) -> str:
    """The text with control characters spelt out: what a stranger wrote must not steer a terminal."""
    kept = "\n" if keep_lines else ""
    return "".join(
        char if char in kept or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} else repr(char)[1:-1]
        for char in text
    )
