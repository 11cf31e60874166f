"""Texts from templates: every slot draws what it says, from a stream of its own."""

import ipaddress
import re

import pytest

from fedlpp_cli.errors import DataError
from fedlpp_cli.tasks.templates import fill_templates, parse_templates


def fill(line, n_texts=200, seed=0):
    return fill_templates(parse_templates(line, source="t.txt"), n_texts, seed=seed)


def test_each_slot_draws_what_it_says():
    for text in fill("<num> <num 5-7> <hex> <hex 3> <ip> <word> <path> <choice a b|c>"):
        plain, few, hex_8, hex_3, ip, word, path, rest = text.split(" ", 7)
        assert 0 <= int(plain) <= 9999
        assert few in {"5", "6", "7"}
        assert re.fullmatch(r"[0-9a-f]{8} [0-9a-f]{3}", f"{hex_8} {hex_3}")
        ipaddress.IPv4Address(ip)
        assert re.fullmatch(r"([b-z][aeiou]){2,4}", word)
        assert re.fullmatch(r"(/([b-z][aeiou]){2,4}){2,4}", path)
        assert rest in {"a b", "c"}


def test_both_ends_of_a_range_and_every_choice_are_drawn():
    assert set(fill("<num 5-7>")) == {"5", "6", "7"}
    assert set(fill("<choice a||b>")) == {"a", "", "b"}
    assert set(fill("<num 3-3>")) == {"3"}


def test_templates_take_turns_and_a_text_depends_on_its_number_alone():
    two = fill("a <num>\nb <num>\n", 10)
    assert [text[0] for text in two] == ["a", "b"] * 5
    assert fill("a <num>\nb <num>\n", 4) == two[:4]
    assert fill("a <num>\nb <num>\n", 10, seed=1) != two


def test_comments_empty_lines_and_escapes():
    assert fill("# <what>\n\n  a << b >\n", 1) == ["a < b >"]
    literal, other = parse_templates("plain\n<num>\n", source="t")
    assert (literal.is_literal, other.is_literal) == (True, False)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no templates"),
        ("# nothing\n", "no templates"),
        ("ok\na <nmu>\n", "t.txt, line 2: no slot <nmu>; there are choice, hex, ip, num, path, word"),
        ("<ip 4>", "no slot <ip 4>"),
        ("<num 9-1>", "no range"),
        ("<num a-b>", "no range"),
        ("<num 1-9999999999>", "no range"),
        ("<hex 0>", "1 to 64"),
        ("<hex 65>", "1 to 64"),
        ("<hex x>", "1 to 64"),
        ("<choice>", "nothing to choose from"),
        ("a < b", "begins no slot"),
    ],
)
def test_what_is_no_template_is_refused_with_its_line(text, match):
    with pytest.raises(DataError, match=match):
        parse_templates(text, source="t.txt")
