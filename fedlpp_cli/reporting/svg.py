"""Figures as SVG: no script, no font of its own, no reference to anything outside.

Text and axes have the colour of the text around them, so that a dark page needs no other drawing.
"""

from typing import Final

from fedlpp_cli.reporting.figures import Figure, Plot
from fedlpp_cli.reporting.marks import WIDTH, write
from fedlpp_cli.reporting.markup import tag, text
from fedlpp_cli.reporting.svg_plot import plot_inside
from fedlpp_cli.reporting.svg_rows import rows_inside

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def svg_of(figure: Figure, *, alone: bool = False) -> str:
    """The drawing.

    Args:
        figure: what it shows.
        alone: for a file: with a white ground, and the title above.
    """
    inside, height = plot_inside(figure) if isinstance(figure, Plot) else rows_inside(figure)
    top = 34.0 if alone else 0.0
    title, about = f"{figure.name}-title", f"{figure.name}-about"
    head = tag("title", text(figure.title), id=title) + tag("desc", text(figure.about), id=about)
    if alone:
        ground = tag("rect", width=WIDTH, height=height + top, fill="#ffffff")
        inside = ground + write(figure.title, 12.0, 22.0, size=15) + tag("g", inside, transform=f"translate(0 {top:g})")
    return tag(
        "svg",
        head + inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {height + top:g}",
        width=WIDTH if alone else None,
        role="img",
        aria_labelledby=f"{title} {about}",
        font_family=_FONT,
        font_size=12,
        color="#1a1a1a" if alone else None,
    )
