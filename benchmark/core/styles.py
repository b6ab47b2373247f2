# SPDX-License-Identifier: Apache-2.0
"""How each contender looks: the same colour, marker and line in every picture and on the page.

The colour is the framework's, from the palette of Okabe and Ito, which colour-blind readers can
tell apart; marker and line tell its contenders apart, also to those who see no colour at all. A
contender is known by the title that legends show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from benchmark.core.contenders import BY_KIND

# Okabe and Ito's colours without yellow, which white paper swallows, and with a grey.
BLUE, VERMILLION, ORANGE, GREY = "#0072B2", "#D55E00", "#E69F00", "#7F7F7F"
PURPLE, GREEN, SKY, BLACK = "#CC79A7", "#009E73", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
# Bars stand for other things than contenders, and have no colour of theirs.
BARS = ("#4D4D4D", "#B3B3B3", "#808080", "#D9D9D9")
MARKERS = "osD^v<>PX*hp"
DASHES = ("-", "--", ":", "-.")
_FAMILIES = {
    "qdp": BLUE,
    "pennylane": VERMILLION,
    "lightning": ORANGE,
    "numpy": GREY,
    "jax": PURPLE,
    "tensorcircuit": PURPLE,
    "pytorch": GREEN,
    "deepquantum": GREEN,
    "qiskit": SKY,
}


@dataclass(frozen=True)
class Style:
    """A line: colour, marker ("" for none), dash and width in points, as Matplotlib names them."""

    colour: str
    marker: str
    dash: str = "-"
    width: float = 1.4


def family(title: str) -> str:
    """Return the framework that a title names: its first word, or Lightning wherever it stands.

    >>> family("QDP, fused encoding"), family("PennyLane, lightning.qubit adjoint")
    ('qdp', 'lightning')
    """
    text = title.lower()
    return "lightning" if "lightning" in text else text.replace("-", " ").split()[0].strip(",")


def colour_of(title: str) -> str:
    """Return the colour of a contender's framework; smaller simulators share black."""
    return _FAMILIES.get(family(title), BLACK)


@cache
def _styles() -> dict[str, Style]:
    found: dict[str, Style] = {}
    for contenders in BY_KIND.values():
        titles = [kind.title for kind in contenders.values()]
        for title in titles:
            if title in found:
                continue
            colour = colour_of(title)
            # Those of one kind share pictures: a framework's markers and lines differ there.
            same = [found[one] for one in titles if one in found and colour_of(one) == colour]
            dash = _next(DASHES, [style.dash for style in same], 0)
            marker = _next(MARKERS, [style.marker for style in same], len(found))
            width = 2.4 if title == "QDP" else 1.4
            found[title] = Style(colour, marker, dash, width)
    return found


def _next(choices: Sequence[str], taken: Sequence[str], start: int) -> str:
    """Return the choice that was taken least, the first of those from a place on."""
    order = [choices[(start + place) % len(choices)] for place in range(len(choices))]
    return min(order, key=taken.count)


def style_of(title: str, number: int = 0) -> Style:
    """Return a contender's style, or for a series of another kind the one of its number."""
    other = Style(PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)])
    return _styles().get(title, other)
