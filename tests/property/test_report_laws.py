"""Laws of axes and of markup: whatever a report says, a page comes out, and it says that and nothing else."""

import html
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedlpp_cli.reporting.figures import Axis, Plot, Point, Row, Rows, Series
from fedlpp_cli.reporting.markup import tag, text
from fedlpp_cli.reporting.scales import scale_of, spread, value_texts
from fedlpp_cli.reporting.svg import svg_of

finite = st.floats(allow_nan=False, allow_infinity=False)
units = st.sampled_from(["number", "count", "bytes"])


@given(st.lists(finite, min_size=1, max_size=8), units, st.integers(1, 12), st.booleans())
def test_an_axis_has_all_values_between_ticks_that_rise(values, unit, n_steps, from_zero):
    scale = scale_of(Axis("x", unit, from_zero=from_zero), values, n_steps)
    assert 2 <= len(scale.ticks) == len(scale.texts) <= 2 * n_steps + 6
    assert all(before < after for before, after in pairwise(scale.ticks))
    assert len(set(scale.texts)) == len(scale.texts)
    assert all(0 <= scale.place(value, 0, 1) <= 1 for value in values)


@given(st.lists(st.floats(-1e6, 1e6), max_size=9), st.floats(0.5, 40))
def test_places_are_apart_and_in_the_order_that_was_wanted(wanted, gap):
    places = spread(wanted, gap, 0, 300)
    assert len(places) == len(wanted)
    ordered = [places[index] for index in sorted(range(len(wanted)), key=lambda index: (wanted[index], index))]
    assert all(after - before >= gap - 1e-6 for before, after in pairwise(ordered))
    if gap * (len(wanted) - 1) <= 300:
        assert all(-1e-6 <= place <= 300 + 1e-6 for place in places)


@given(st.lists(st.none() | finite, max_size=6), st.integers(2, 5))
def test_each_value_is_written_once(values, digits):
    words = value_texts(values, digits)
    assert [not one for one in words] == [value is None for value in values]


@given(st.text())
def test_text_is_text_in_html_and_in_xml(words):
    made = tag("p", text(words), title=words)
    parsed = ET.fromstring(made)
    assert (parsed.tag, len(parsed), set(parsed.attrib)) == ("p", 0, {"title"})
    assert "<" not in text(words)
    assert html.unescape(text(words)) == (parsed.text or "")


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=5), st.text(max_size=20), units)
def test_any_numbers_and_names_can_be_drawn(pairs, name, unit):
    pairs = sorted(pairs)
    points = tuple(Point(x, y, min(x, y), max(x, y)) for x, y in pairs)
    axes = Axis(name, unit), Axis(name)
    for is_line in (True, False):
        ET.fromstring(svg_of(Plot("n", name, name, *axes, (Series(name, 3, points, is_line=is_line),))))
    for kind in ("bar", "dot"):
        rows = tuple(Row(name, x, min(x, y), max(x, y), style=number) for number, (x, y) in enumerate(pairs))
        ET.fromstring(svg_of(Rows("n", name, name, axes[0], rows, kind), alone=True))
