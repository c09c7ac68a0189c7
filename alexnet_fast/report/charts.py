"""Vega-Lite charts: declared with Altair, drawn by the page as SVG whose ink is the page's own text color.

A chart is a JSON object; every value in it is data, names of classes and runs included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

MOST_POINTS = 400
"""Of a curve: more cannot be distinguished on a screen."""
PALETTE = ("#8f8f8f", "#d1495b", "#3a86c8", "#e39a2d", "#4c9f70", "#8a63b8", "#b0703c", "#2aa6a6")
"""Each readable on white and on black."""
FEW_POINTS = 40
"""Up to so many each point is marked."""
INK = "currentcolor"


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    """None: not finite, a gap."""


@cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed, as one script that reads nothing from a network; sets `vegaEmbed`."""
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))


def curves(
    series: Sequence[Series], *, x_title: str, y_title: str, percent: bool = False, log: bool = False, height: int = 220
) -> dict[str, Any] | None:
    """Lines to read values off by hovering; None where there is nothing to draw."""
    rows = [
        {"series": one.name, "x": x, "y": y}
        for one in series
        for x, y in thinned(one)
        if not log or (y is not None and y > 0)
    ]
    if not rows:
        return None
    names = [one.name for one in series]
    ticks = "%" if percent else "~g" if log else ",~r"  # no SI prefixes: a loss of 0.8 is not 800m
    scale = alt.Scale(type="log") if log else alt.Scale(zero=True, nice=True)
    colors = alt.Scale(domain=names, range=[PALETTE[place % len(PALETTE)] for place in range(len(names))])
    legend = alt.Legend(orient="top", direction="vertical", labelLimit=300) if len(names) > 1 else None
    base = alt.Chart(rows_of(rows)).encode(
        x=alt.X("x:Q", title=x_title, axis=alt.Axis(tickCount=8, grid=False, labelSeparation=4)),
        y=alt.Y("y:Q", title=y_title, scale=scale, axis=alt.Axis(format=ticks, tickCount=5)),
        color=alt.Color("series:N", title=None, scale=colors, legend=legend),
    )
    near = alt.selection_point(nearest=True, on="pointerover", fields=["x", "series"], empty=False, clear="pointerout")
    read_off = base.mark_point(size=60, filled=True).encode(
        opacity=alt.condition(near, alt.value(1), alt.value(0)),
        tooltip=[
            alt.Tooltip("series:N", title="curve"),
            alt.Tooltip("x:Q", title=x_title, format=",.4~f"),
            alt.Tooltip("y:Q", title=y_title, format=".1%" if percent else ",.4~g"),
        ],
    )
    layers = base.mark_line(strokeWidth=1.6) + read_off.add_params(near)
    few = {one.name for one in series if len(one.x) <= FEW_POINTS}
    if marked := [row for row in rows if row["series"] in few]:
        # A curve of a single point would not be seen; hundreds of marks would hide the line.
        layers += base.properties(data=rows_of(marked)).mark_point(size=24, filled=True, opacity=1)
    return finished(layers.properties(height=height))


def rows_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Data that lies in the chart itself."""
    return alt.Data(values=list(rows))  # type: ignore[no-untyped-call]


def thinned(series: Series) -> list[tuple[float, float | None]]:
    """At most `MOST_POINTS` points: means of neighbors, so that nothing is hidden between the points that are left."""
    pairs = list(zip(series.x, series.y, strict=True))
    group = -(-len(pairs) // MOST_POINTS)
    if group <= 1:
        return pairs
    made = []
    for start in range(0, len(pairs), group):
        own = pairs[start : start + group]
        values = [y for _, y in own if y is not None and math.isfinite(y)]
        made.append((own[-1][0], sum(values) / len(values) if len(values) == len(own) else None))
    return made


def bars(
    rows: Sequence[dict[str, Any]],
    *,
    label: str,
    value: str,
    title: str,
    extra: Sequence[str] = (),
    percent: bool = True,
) -> dict[str, Any]:
    """Horizontal bars in the order given; `extra`: further keys that the tooltip shows."""
    chart = (
        alt.Chart(rows_of(rows))
        .mark_bar(color=PALETTE[2], cornerRadiusEnd=2)
        .encode(
            y=alt.Y(f"{label}:N", sort=None, title=None, axis=alt.Axis(labelLimit=150)),
            # Unstacked: Vega's stacks cannot group by names that JavaScript's objects have, as "constructor".
            x=alt.X(f"{value}:Q", title=title, stack=None, axis=alt.Axis(format="%" if percent else "~g")),
            tooltip=[
                alt.Tooltip(f"{label}:N"),
                alt.Tooltip(f"{value}:Q", title=title, format=".1%" if percent else "~g"),
                *(alt.Tooltip(f"{key}:Q") for key in extra),
            ],
        )
        .properties(height=19 * len(rows))
    )
    return finished(chart)


def heat_map(rows: Sequence[dict[str, Any]], order: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix.  rows: label, guess, count, share (of the label's images); order: all classes."""
    classes = alt.Scale(domain=list(order))  # square: a class that was never guessed keeps its column
    chart = (
        alt.Chart(rows_of(rows))
        .mark_rect(color=PALETTE[2])
        .encode(
            x=alt.X("guess:N", scale=classes, title="first guess", axis=alt.Axis(labelAngle=-60, labelLimit=90)),
            y=alt.Y("label:N", scale=classes, title="true class", axis=alt.Axis(labelLimit=90)),
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 1]), legend=None),
            tooltip=["label:N", "guess:N", "count:Q", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(height=len(order) * max(12, 340 // len(order)))
    )
    return finished(chart)


def calibration_chart(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """rows: confidence, accuracy, images of each bin; beside the diagonal of a perfect calibration."""
    data = rows_of(rows)
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="%", tickCount=5)
    diagonal = (
        alt.Chart(rows_of([{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]))
        .mark_line(color=INK, strokeDash=[3, 3], strokeWidth=1, opacity=0.5)
        .encode(x="confidence:Q", y="accuracy:Q")
    )
    points = (
        alt.Chart(data)
        .mark_point(filled=True, color=PALETTE[1], opacity=0.9)
        .encode(
            x=alt.X("confidence:Q", title="mean probability of the first guess", scale=scale, axis=axis),
            y=alt.Y("accuracy:Q", title="share that was right", scale=scale, axis=axis),
            size=alt.Size("images:Q", legend=None, scale=alt.Scale(range=[40, 400])),
            tooltip=[
                alt.Tooltip("confidence:Q", format=".1%"),
                alt.Tooltip("accuracy:Q", format=".1%"),
                alt.Tooltip("images:Q", format=","),
            ],
        )
    )
    return finished((diagonal + points).properties(height=260))


def finished(chart: Any) -> dict[str, Any]:
    """With the page's colors and without a background, as a plain object."""
    axis = {
        "labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": INK,
        "gridOpacity": 0.12, "domainOpacity": 0.5, "tickOpacity": 0.5, "titleFontWeight": "normal",
    }  # fmt: skip
    spec: dict[str, Any] = (
        chart.properties(width="container")
        .configure(background="transparent", font="sans-serif", view={"stroke": None}, axis=axis)
        .configure_legend(labelColor=INK, titleColor=INK)
        .to_dict(validate=True)
    )
    del spec["$schema"]  # an address, which nothing reads
    return spec
