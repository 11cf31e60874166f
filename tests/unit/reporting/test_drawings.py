"""Drawings of figures, as SVG and by matplotlib."""

import xml.etree.ElementTree as ET

import pytest
from support.reports import HOSTILE

from fedlpp_cli.errors import UsageError
from fedlpp_cli.reporting import png
from fedlpp_cli.reporting.figures import Axis, Level, Plot, Point, Row, Rows, Series
from fedlpp_cli.reporting.palette import STYLES, style_of
from fedlpp_cli.reporting.svg import svg_of

NAMESPACE = "{http://www.w3.org/2000/svg}"
LINES = Plot(
    name="lines",
    title="Lines",
    about="What is to be seen.",
    x=Axis("round", "count"),
    y=Axis("accuracy"),
    series=(
        Series("central", 0, tuple(Point(x, x / 4, x / 4 - 0.1, x / 4 + 0.1) for x in range(4))),
        Series("proxy", 1, tuple(Point(x, x / 5) for x in range(4))),
        Series("short", 2, (Point(0, 0.1), Point(1, 0.3))),
        Series("cloud", 6, (Point(1, 0.5, 0.4, 0.6),), is_line=False),
    ),
    levels=(Level(0.5, "base"),),
)
DOTS = Rows(
    name="dots",
    title="Dots",
    about="What is to be seen.",
    x=Axis("rho"),
    rows=(Row("pool", 0.9, 0.8, 1.0, 1), Row("proxy", -0.2)),
    levels=(Level(0.95, "allowed"), Level(1.0, "owner's model"), Level(0.0, "base")),
)
BARS = Rows(
    "bars", "Bars", "What is to be seen.", Axis("share (%)", from_zero=True), (Row("a", 60.0), Row("b", -40.0)), "bar"
)


def drawn(figure, **options):
    return ET.fromstring(svg_of(figure, **options))


def words(drawing):
    return [one.text for one in drawing.iter(f"{NAMESPACE}text")]


def test_a_drawing_has_a_title_a_description_and_both_axes():
    drawing = drawn(LINES)
    assert drawing.find(f"{NAMESPACE}title").text == "Lines"
    assert drawing.find(f"{NAMESPACE}desc").text == "What is to be seen."
    assert {"round", "accuracy", "0", "1", "2", "3", "base", "central", "proxy", "short", "cloud"} <= set(
        words(drawing)
    )


def test_lines_that_end_at_the_right_are_named_there_and_others_in_the_key():
    at = {one.text: float(one.get("x")) for one in drawn(LINES).iter(f"{NAMESPACE}text")}
    assert at["central"] > 600
    assert at["short"] < at["cloud"] < 400


def test_series_differ_by_marker_and_dash_where_colour_is_not_seen():
    looks = [(style.marker, style.dash) for style in STYLES]
    assert len(set(looks)) == len(looks)
    assert len({style.colour for style in STYLES}) == len(STYLES)
    many = [style_of(number) for number in range(len(STYLES) ** 2)]
    assert len(set(many)) == len(many)


def test_a_line_has_a_band_and_a_point_has_whiskers():
    shapes = [one.tag.removeprefix(NAMESPACE) for one in drawn(LINES).iter() if one.get("fill-opacity")]
    assert shapes == ["polygon"]
    assert any("M" in (one.get("d") or "") for one in drawn(LINES).iter(f"{NAMESPACE}path"))


def test_rows_say_their_values():
    told = words(drawn(DOTS))
    assert "0.90 [0.80, 1.00]" in told
    assert "−0.20" in told  # noqa: RUF001
    assert {"allowed", "owner's model", "base"} <= set(told)


def test_bars_begin_at_zero_on_either_side():
    first, second = drawn(BARS).iter(f"{NAMESPACE}rect")
    assert float(second.get("x")) + float(second.get("width")) == pytest.approx(float(first.get("x")), abs=0.02)
    assert float(first.get("width")) / float(second.get("width")) == pytest.approx(1.5, abs=0.01)


def test_a_file_has_a_ground_and_its_title():
    drawing = drawn(LINES, alone=True)
    assert drawing.find(f"{NAMESPACE}rect").get("fill") == "#ffffff"
    assert "Lines" in words(drawing)


def test_without_matplotlib_png_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match="matplotlib is not installed") as refused:
        png.check_matplotlib()
    assert "fedlpp[report]" in refused.value.hint


@pytest.mark.parametrize("figure", [LINES, DOTS, BARS], ids=lambda figure: figure.name)
def test_matplotlib_draws_the_same_figures_and_equal_ones_equally(figure):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra `report`)")
    made = png.png_of(figure)
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    assert made == png.png_of(figure)


def test_matplotlib_takes_names_as_they_are():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra `report`)")
    odd = Rows("odd", "$\\frac{$", "", Axis("$x_"), (Row("$\\nothing{", 1.0), Row(HOSTILE, 2.0)))
    assert png.png_of(odd).startswith(b"\x89PNG")
