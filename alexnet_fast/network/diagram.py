"""The two towers drawn as in figure 2 of the paper, from the architecture itself."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from alexnet_fast.network.architecture import Architecture
from alexnet_fast.network.summary import LayerSummary, summarize

LINE = "#26323f"
TOWERS = ("#3b6ea5", "#c05b2e")
"""Colors of the first and the second tower."""
IMAGE = "#8a8f98"
DEPTH = (0.40, 0.36)
"""Where an object's depth is drawn on the page, relative to its height on the page: to the right and up."""
GAP = 0.62
"""Between two layers."""
FORMATS = ("png", "svg", "pdf")


def page_size(pixels: float) -> float:
    """Height on the page of a map with so many pixels on a side: by its square root, or 224 would dwarf 13."""
    return 0.29 * math.sqrt(pixels)


def page_thickness(maps: float) -> float:
    return 0.052 * math.sqrt(maps)


def page_units(units: float) -> float:
    """Height on the page of a column of units."""
    return 0.062 * math.sqrt(units)


@dataclass(frozen=True)
class Box:
    """A stack of maps in oblique projection; (x, y) is the lower left corner of its front."""

    x: float
    y: float
    thickness: float
    height: float
    depth: float
    """Height on the page that its depth corresponds to: that of square maps, less for units."""

    @property
    def skew(self) -> tuple[float, float]:
        return DEPTH[0] * self.depth, DEPTH[1] * self.depth

    def side(self, across: float, up: float) -> tuple[float, float]:
        """A point of the right side, its place given from 0 to 1 along the depth and the height."""
        dx, dy = self.skew
        return self.x + self.thickness + across * dx, self.y + across * dy + up * self.height

    def front(self, along: float, up: float) -> tuple[float, float]:
        """A point of the front."""
        return self.x + along * self.thickness, self.y + up * self.height


class Drawing:
    """A figure with the lines, boxes and labels of the diagram."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(14, 6.6))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_aspect("equal")
        self.axes.axis("off")

    def polygon(self, points: list[tuple[float, float]], color: str, alpha: float, **style: Any) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Polygon

        settings = {"edgecolor": LINE, "linewidth": 0.9, "joinstyle": "round"} | style
        self.axes.add_patch(Polygon(points, closed=True, facecolor=to_rgba(color, alpha), **settings))

    def box(self, box: Box, color: str, order: float) -> None:
        dx, dy = box.skew
        x, y, t, h = box.x, box.y, box.thickness, box.height
        whole = [(x, y), (x + t, y), (x + t + dx, y + dy), (x + t + dx, y + dy + h), (x + dx, y + dy + h), (x, y + h)]
        self.polygon(whole, "white", 1, zorder=order)  # opaque
        self.polygon(
            [(x, y + h), (x + t, y + h), (x + t + dx, y + dy + h), (x + dx, y + dy + h)], color, 0.16, zorder=order
        )
        self.polygon(
            [(x + t, y), (x + t + dx, y + dy), (x + t + dx, y + dy + h), (x + t, y + h)], color, 0.30, zorder=order
        )
        self.polygon([(x, y), (x + t, y), (x + t, y + h), (x, y + h)], color, 0.52, zorder=order)

    def text(self, x: float, y: float, text: str, size: float = 10, **style: Any) -> None:
        from matplotlib.patheffects import withStroke

        settings: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "color": LINE,
            "family": "serif",
            "zorder": 50,
        } | style
        halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
        self.axes.text(x, y, text, fontsize=size, path_effects=halo, **settings)

    def line(self, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
        settings: dict[str, Any] = {"color": LINE, "linewidth": 0.7} | style
        self.axes.plot([start[0], end[0]], [start[1], end[1]], **settings)


class Diagram:
    """Places the layers from left to right, each tower in its row, and joins them."""

    def __init__(self, architecture: Architecture) -> None:
        self.a = architecture
        self.rows = summarize(architecture)
        self.drawing = Drawing()
        self.order = 10.0
        self.centers = (2.75, -2.75) if architecture.num_towers == 2 else (0.0,)
        tallest = max(
            page_size(self.rows[0].size) * (1 + DEPTH[1]),
            *(page_units(row.maps // len(self.centers)) for row in self.rows[5:7]),
        )
        self.captions_at = self.centers[-1] - tallest / 2 - 0.42

    def draw(self) -> Any:
        """The figure."""
        x = 0.9
        image = self.place(x, 0.0, self.a.image_size, 3, IMAGE)
        self.label_maps(image, self.a.image_size, 3)
        boxes = [[image]]
        x += image.thickness + image.skew[0] * 0.55
        for row in self.rows[:5]:
            x += GAP + (0.45 if row.name in ("conv1", "conv3") else 0.1)
            maps = row.maps // self.a.num_towers
            boxes.append([self.place(x, center, row.size, maps, TOWERS[t]) for t, center in enumerate(self.centers)])
            for box in boxes[-1]:
                self.label_maps(box, row.size, maps)
            self.windows(row, boxes[-2], boxes[-1])
            self.caption(row, boxes[-1][-1])
            x += boxes[-1][0].thickness + boxes[-1][0].skew[0]
        for row in self.rows[5:]:
            x += GAP + 0.55
            boxes.append(self.units(row, x))
            self.dense(row, boxes[-2], boxes[-1])
            x += boxes[-1][0].thickness + 0.2
        self.frame(x)
        return self.drawing.figure

    def place(self, x: float, center: float, size: int, maps: int, color: str) -> Box:
        height = page_size(size)
        box = Box(x, center - height * (1 + DEPTH[1]) / 2, page_thickness(maps), height, height)
        self.order += 1
        self.drawing.box(box, color, self.order)
        return box

    def units(self, row: LayerSummary, x: float) -> list[Box]:
        """A column for each tower's units; all classes are one column."""
        single = row.name == "fc8"
        centers = (0.0,) if single else self.centers
        units = row.maps if single else row.maps // self.a.num_towers
        boxes = []
        for tower, center in enumerate(centers):
            height = page_units(units)
            box = Box(x, center - height / 2, 0.26, height, 0.35)
            self.order += 1
            self.drawing.box(box, IMAGE if single else TOWERS[tower], self.order)
            self.drawing.text(box.x + 0.2, box.y - 0.24, f"{units}", 10.5)
            boxes.append(box)
        name = "\n".join([row.name, *(step for step in row.then if step.startswith(("dropout", "softmax")))])
        at = boxes[-1].y - 0.47 if single else self.captions_at
        self.drawing.text(x + 0.2, at, name, 9.5, style="italic", va="top", linespacing=1.25)
        return boxes

    def label_maps(self, box: Box, size: int, maps: int) -> None:
        """Pixels along height and depth, maps along the thickness."""
        dx, dy = box.skew
        text = self.drawing.text
        text(box.x - 0.17, box.y + box.height * 0.2, f"{size}", 10.5)
        text(box.x + dx / 2 - 0.13, box.y + box.height + dy / 2 + 0.13, f"{size}", 10.5)
        text(box.x + box.thickness / 2, box.y - 0.2, f"{maps}", 10.5)

    def windows(self, row: LayerSummary, sources: list[Box], targets: list[Box]) -> None:
        """What one unit of each tower sees: a window on each source, with lines that meet in the unit."""
        before = self.a.image_size if row.name == "conv1" else self.rows[self.rows.index(row) - 1].size
        share = math.sqrt(row.kernel / before) * 0.95
        for tower, target in enumerate(targets):
            seen = sources if row.sees_both or len(sources) == 1 else [sources[tower]]
            shared = len(targets) > 1 and (len(seen) > 1 or row.name == "conv1")  # both towers look at the same maps
            unit = target.front(0.5, 0.5 if len(targets) == 1 else 0.6 - 0.2 * tower)
            left = 0.55 if shared and tower else 0.30
            middle = 0.5 + (0.5 - tower) * (0.32 if row.name == "conv1" else 0.24) * shared
            right, bottom, top = min(1.0, left + share), middle - share / 2, middle + share / 2
            for number, source in enumerate(seen):
                dashed = len(seen) > 1 and number != tower
                corners = [source.side(u, v) for u, v in ((left, bottom), (right, bottom), (right, top), (left, top))]
                self.drawing.polygon(corners, TOWERS[tower], 0.35, zorder=40)
                style = {"linestyle": (0, (4, 2)) if dashed else "-", "linewidth": 0.6, "zorder": 41}
                for corner in corners:
                    self.drawing.line(corner, unit, color=TOWERS[tower], **style)
                if (tower, number) == (0, 0):
                    x, y = source.side(left, middle)
                    self.drawing.text(x - 0.12, y, f"{row.kernel}", 9, color=TOWERS[0])
            self.drawing.axes.plot(*unit, "o", color=TOWERS[tower], markersize=2.6, zorder=45)

    def dense(self, row: LayerSummary, sources: list[Box], targets: list[Box]) -> None:
        """Bands from everything that a column of units sees."""
        from matplotlib.colors import to_rgba

        for tower, target in enumerate(targets):
            for number, source in enumerate(sources):
                if not row.sees_both and number != tower and len(targets) > 1:
                    continue
                top, bottom = source.side(1, 1), source.side(0, 0)
                color = TOWERS[number]
                points = [top, target.front(0, 1), target.front(0, 0), bottom]
                self.drawing.polygon(points, color, 0.07, zorder=5, edgecolor=to_rgba(color, 0.75), linewidth=0.7)
        middle = (sources[0].x + sources[0].thickness + sources[0].skew[0] + targets[0].x) / 2
        highest = self.centers[0] + max(page_units(self.rows[5].maps // len(self.centers)), 2.4) / 2
        self.drawing.text(middle, highest + 0.35, "dense", 9.5, style="italic")

    def caption(self, row: LayerSummary, lowest: Box) -> None:
        """Name and steps of a layer, below it."""
        steps = [f"stride {row.stride}"] if row.stride > 1 else []
        steps += [step for step in row.then if step.startswith("max pool")]
        text = "\n".join([row.name, *(step.replace("max pool", "max pooling") for step in steps)])
        x = lowest.x + lowest.thickness / 2 + lowest.skew[0] / 4
        self.drawing.text(x, self.captions_at, text, 9.5, va="top", style="italic", linespacing=1.25)

    def frame(self, right: float) -> None:
        axes = self.drawing.axes
        image = page_size(self.a.image_size) * (1 + DEPTH[1]) / 2
        low, high = min(self.captions_at - 1.0, -image - 0.5), max(-self.captions_at + 0.35, image + 0.4)
        if self.a.num_towers == 2:
            self.drawing.line(
                (3.3, 0), (right - 1.4, 0), color="#9aa3ad", linestyle=(0, (1, 3)), linewidth=1.0, zorder=1
            )
            for tower, center in enumerate(self.centers):
                self.drawing.text(
                    0.45, center * 1.45, f"tower {tower}\nGPU {tower + 1}", 11, color=TOWERS[tower], ha="left"
                )
        axes.set_xlim(-0.1, right + 0.6)
        axes.set_ylim(low, high)
        width, height = right + 0.7, high - low
        self.drawing.figure.set_size_inches(14, 14 * height / width)


def draw_diagram(architecture: Architecture, suffix: str) -> bytes:
    """The diagram as a file of one of FORMATS; the same bytes for the same architecture and matplotlib."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "alexnet-fast"}):
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        Diagram(architecture).draw().savefig(stream, format=suffix, dpi=160, metadata=dates.get(suffix))
    return stream.getvalue()
