"""Numbers on axes, as a browser's Vega writes them."""

from __future__ import annotations

import re

import pytest

from alexnet_fast.report import charts


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.71, 0.4], {"0.2", "0.4", "0.6"}),  # a loss
        ([42.0, 15.0], {"10", "20", "30", "40"}),  # img/s
        ([12_500.0, 9_000.0], {"10,000"}),
    ],
)
def test_numbers_on_an_axis_are_written_out(values: list[float], shown: set[str]) -> None:
    vl_convert = pytest.importorskip("vl_convert")
    spec = charts.curves([charts.Series("a", [0, 1], values)], x_title="epoch", y_title="y")
    assert spec is not None
    svg = vl_convert.vegalite_to_svg({**spec, "width": 300})
    labels = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert shown <= labels and not any(re.search(r"\d[a-zµ]|e\+", label) for label in labels)
