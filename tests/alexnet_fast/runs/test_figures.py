"""The curves of short and of long runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from alexnet_fast.runs import figures as report


@pytest.mark.parametrize(("evaluations", "marker"), [(1, "o"), (12, "o"), (400, "")])
def test_points_are_marked_as_long_as_they_do_not_hide_the_line(
    evaluations: int, marker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report, "save_figure", lambda figure, file: drawn.append(figure))
    line = {"kind": "val", "views": 1, "loss": 1.0, "top1_error": 0.5}
    report.draw_curves([line | {"epoch": number + 1.0} for number in range(evaluations)], tmp_path / "curves.png")
    assert [curve.get_marker() for place in drawn[0].axes for curve in place.lines] == [marker, marker]
    plt.close(drawn[0])
