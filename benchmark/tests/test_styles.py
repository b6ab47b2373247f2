# SPDX-License-Identifier: Apache-2.0
"""Contenders can be told apart in every picture, by colour or without."""

from __future__ import annotations

import pytest

from benchmark.core import styles
from benchmark.core.contenders import BY_KIND


@pytest.mark.parametrize("kind", BY_KIND)
def test_contenders_that_share_pictures_differ(kind):
    titles = [contender.title for contender in BY_KIND[kind].values()]
    found = [styles.style_of(title) for title in titles]
    assert len({(style.colour, style.marker) for style in found}) == len(titles)
    for title, style in zip(titles, found, strict=True):
        assert style.colour in styles.PALETTE, title
        dashes = [one.dash for one in found if one.colour == style.colour]
        assert len(set(dashes)) == min(len(dashes), len(styles.DASHES)), title


def test_a_framework_has_one_colour():
    for title in ("QDP", "QDP, fused encoding", "QDP, states kept", "QDP on something new"):
        assert styles.colour_of(title) == styles.BLUE
    for title in ("Lightning, adjoint", "PennyLane lightning.qubit"):
        assert styles.colour_of(title) == styles.ORANGE
    for title in ("PennyLane", "PennyLane on QDP's states"):
        assert styles.colour_of(title) == styles.VERMILLION
    assert styles.style_of("sweep", 1).colour == styles.PALETTE[1], "no contender"
