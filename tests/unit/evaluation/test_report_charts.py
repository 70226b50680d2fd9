import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.charts import WIDTH, BarGroup, HeatRow, grouped_bars, heat_map, lines, uses_log_scale

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(plot):
    return [(e.get("class"), float(e.get("width"))) for e in ET.fromstring(plot).iter(f"{SVG}rect")]


def test_the_length_of_a_bar_is_proportional_to_its_value():
    plot = grouped_bars([BarGroup("de", 10, 20), BarGroup("en", 5, 40)], title="t")
    widths = dict(zip([10, 20, 5, 40], [width for _, width in rectangles(plot)], strict=True))
    for value, width in widths.items():
        assert width / widths[40] == pytest.approx(value / 40, abs=0.002)


def test_values_that_differ_too_much_are_drawn_on_a_logarithmic_axis():
    groups = [BarGroup("de", 10, 100), BarGroup("sw", 10, 10_000)]
    assert uses_log_scale(groups)
    widths = [width for _, width in rectangles(grouped_bars(groups, title="t"))]
    assert widths[1] / widths[3] == pytest.approx(0.5, abs=0.002)


def test_a_missing_value_is_a_gap_in_the_line():
    plot = ET.fromstring(lines({"de": [1.0, 2.0, None, 4.0, 5.0]}, {"de": 0}, title="t", unit="dB"))
    assert [len(line.get("points").split()) for line in plot.iter(f"{SVG}polyline")] == [2, 2]


def test_nothing_to_draw_draws_nothing():
    assert lines({"de": [None]}, {"de": 0}, title="t", unit="dB") == ""
    assert heat_map([], title="t", x_label="block") == ""


@given(
    st.lists(
        st.lists(st.none() | st.floats(-60, 120), min_size=1, max_size=40).filter(
            lambda v: any(x is not None for x in v)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_lines_and_their_labels_stay_within_the_plot(points):
    series = {f"l{number}": values for number, values in enumerate(points)}
    plot = ET.fromstring(lines(series, dict.fromkeys(series, 0), title="t", unit="dB"))
    height = float(plot.get("viewBox").split()[3])
    for line in plot.iter(f"{SVG}polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= height
    labels = sorted(float(t.get("y")) for t in plot.iter(f"{SVG}text") if t.get("class").startswith("name"))
    assert len(labels) == len(series)
    assert all(later - earlier >= 12.8 for earlier, later in itertools.pairwise(labels))
    assert labels[0] >= 0
    assert labels[-1] <= height


def test_cells_of_a_heat_map_are_as_dark_as_their_share():
    plot = ET.fromstring(heat_map([HeatRow("q", [0.0, 0.5, None, 1.0])], title="t", x_label="block"))
    assert [float(cell.get("fill-opacity")) for cell in plot.iter(f"{SVG}rect")] == [0.06, 0.53, 1.0]
