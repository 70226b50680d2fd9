"""The report's plots as inline SVG, drawn by a few functions, so that the page needs no scripts, fonts or other files.

Plots are drawn for a width of 480 units and scale with the page, so that their text stays readable on a phone. Colours
come from the page's style sheet (`s0`…`s7` by language, `dense`, `pruned`), which supports light, dark and print.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur._text import digits

WIDTH = 480
COLOURS = 8  # number of colours in the style sheet
LOG_SCALE_FROM = 30.0  # ratio of largest to smallest value from which bars are drawn on a logarithmic axis
WIDE_RATIO = 20.0  # ratio of largest to smallest value from which an axis of a scatter plot is logarithmic
_MOST_TICKS = 7
_LABEL_CHARACTER = 7.4  # width of a character in a label, in units
_LABEL_HEIGHT = 13.0
_TICK_CHARACTER = 7.6  # width of a character in a tick's label on a phone, in units
_LEAST_SPAN = 0.004  # of an axis of a scatter plot, as a share of its values: labels have four digits


@dataclass(frozen=True)
class BarGroup:
    """The two bars of one language."""

    label: str
    dense: float
    pruned: float
    faded: bool = False


@dataclass(frozen=True)
class IntervalRow:
    """A figure of one language, with the interval that it lies in and perhaps a limit."""

    label: str
    value: float
    interval: tuple[float, float]
    limit: float | None = None
    faded: bool = False


@dataclass(frozen=True)
class HeatRow:
    """One row of a heat map; a missing cell is None."""

    label: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Point:
    """One point of a scatter plot; `marked` ones are on its front."""

    label: str
    x: float
    y: float
    marked: bool = False


def uses_log_scale(groups: Iterable[BarGroup]) -> bool:
    """Whether the bars differ too much for a linear axis."""
    values = [value for group in groups for value in (group.dense, group.pruned)]
    return max(values, default=1) > LOG_SCALE_FROM * max(min(values, default=1), 1e-12)


def grouped_bars(groups: Sequence[BarGroup], *, title: str) -> Markup:
    """Two horizontal bars per language, dense above pruned, each with its value.

    The axis starts at 0. If the values differ too much, it is logarithmic and starts at 1, the perplexity of certainty,
    so that a bar's length is the mean loss in nats.
    """
    logarithmic = uses_log_scale(groups)
    top = max((max(group.dense, group.pruned) for group in groups), default=1.0)
    left = _label_width(group.label for group in groups)
    room = WIDTH - left - 62
    bar, gap = 13, 12
    height = len(groups) * (2 * bar + gap) + 4

    def length(value: float) -> float:
        if logarithmic:
            return room * math.log(max(value, 1.0)) / math.log(top) if top > 1 else 0
        return room * value / top if top > 0 else 0

    parts = []
    for position, group in enumerate(groups):
        y = 2 + position * (2 * bar + gap)
        parts.append(_text(left - 8, y + bar + 4, group.label, anchor="end", css="label"))
        for row, (css, value) in enumerate((("dense", group.dense), ("pruned", group.pruned))):
            fade = " faded" if group.faded and css == "pruned" else ""
            parts.append(
                Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="2"/>').format(
                    css + fade, left, _n(y + row * bar), _n(max(length(value), 1)), bar - 1
                )
            )
            parts.append(_text(left + length(value) + 5, y + row * bar + bar - 3, digits(value), css="value"))
    return _svg(height, title, parts)


def intervals(rows: Sequence[IntervalRow], *, title: str, unit: str) -> Markup:
    """A point with its interval for every row, on one axis that includes 0; limits are ticks with a label."""
    if not rows:
        return Markup("")
    values = [0.0, *(value for row in rows for value in (*row.interval, row.value, row.limit) if value is not None)]
    low, high, step = _axis(min(values), max(values))
    left, right, height = _label_width(row.label for row in rows), WIDTH - 66, 26
    bottom = 6 + height * len(rows)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = []
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        parts.append(_line(x(value), 2, x(value), bottom, "zero" if abs(value) < step / 2 else "grid"))
        parts.append(_text(x(value), bottom + 16, f"{value:g}", anchor="middle", css="axis"))
    parts.append(_text(right + 6 + _TICK_CHARACTER * len(f"{high:g}") / 2, bottom + 16, unit, css="axis"))
    for position, row in enumerate(rows):
        y = 6 + height * (position + 0.5)
        css = "pruned faded" if row.faded else "pruned"
        parts.append(_text(left - 8, y + 4, row.label, anchor="end", css="label"))
        if row.limit is not None:
            parts.append(_line(x(row.limit), y - 9, x(row.limit), y + 9, "limit"))
        told = f"{row.label}: {row.value:+.2f} {unit}, from {row.interval[0]:+.2f} to {row.interval[1]:+.2f}"
        start, end = map(x, row.interval)
        parts.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="4" rx="2"><title>{}</title></rect>').format(
                css, _n(start), _n(y - 2), _n(max(end - start, 1)), told
            )
        )
        parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="5"/>').format(css, _n(x(row.value)), _n(y)))
        parts.append(_text(right + 8, y + 4, f"{row.value:+.2f}", css="value"))
    return _svg(bottom + 22, title, parts)


def lines(
    series: Mapping[str, Sequence[float | None]],
    colours: Mapping[str, int],
    *,
    title: str,
    unit: str,
    dashed: Collection[str] = (),
) -> Markup:
    """One line per language over the blocks, labelled at its end; a missing value is a gap.

    Args:
        series: Values per block, by language.
        colours: Which of the style sheet's colours each language has.
        title: What the plot shows, for readers who cannot see it.
        unit: Unit of the values.
        dashed: Languages to draw with dashed lines.
    """
    values = [value for points in series.values() for value in points if value is not None]
    if not values:
        return Markup("")
    low, high, step = _axis(min(values), max(values))
    count = max(len(points) for points in series.values())
    left, right, top, bottom = 34, WIDTH - _label_width(series) - 6, 22, 250
    x_step = (right - left) / max(1, count - 1)

    def x(index: int) -> float:
        return left + index * x_step if count > 1 else (left + right) / 2

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = [_text(2, 11, unit, css="axis")]
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        parts.append(_line(left, y(value), right, y(value), "grid"))
        parts.append(_text(left - 6, y(value) + 4, f"{value:g}", anchor="end", css="axis"))
    parts.extend(_text(x(tick), bottom + 18, str(tick), anchor="middle", css="axis") for tick in _ticks(count))
    parts.append(_text((left + right) / 2, bottom + 34, "block", anchor="middle", css="axis"))

    ends = {}
    for name, points in series.items():
        css = f"s{colours[name]}" + (" dashed" if name in dashed else "")
        for run in _runs(points):
            path = " ".join(f"{_n(x(index))},{_n(y(value))}" for index, value in run)
            parts.append(Markup('<polyline class="curve {}" points="{}"/>').format(css, path))
        marked = [(index, value) for index, value in enumerate(points) if value is not None]
        if count <= 12:
            parts.extend(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(css, _n(x(index)), _n(y(value)))
                for index, value in marked
            )
        if marked:
            ends[name] = (css, x(marked[-1][0]), y(marked[-1][1]))
    places = _spread([end[2] for end in ends.values()], top, bottom)
    for (name, (css, end_x, end_y)), place in zip(ends.items(), places, strict=True):
        parts.append(_line(end_x + 3, end_y, right + 8, place, f"leader {css}"))
        parts.append(_text(right + 11, place + 4, name, css=f"name {css}"))
    return _svg(bottom + 40, title, parts)


def heat_map(
    rows: Sequence[HeatRow],
    *,
    title: str,
    x_label: str,
    full: float = 1.0,
    show: Callable[[float], str] = "{:.0%}".format,
) -> Markup:
    """Values from 0 to `full` as cells, rows by columns; `show` formats the value in cells that are wide enough."""
    columns = max((len(row.values) for row in rows), default=0)
    if columns == 0:
        return Markup("")
    left, cell_height = _label_width(row.label for row in rows), 22
    cell = (WIDTH - left - 2) / columns
    parts = []
    for position, row in enumerate(rows):
        y = 2 + position * cell_height
        parts.append(_text(left - 8, y + 15, row.label, anchor="end", css="label small"))
        for column, value in enumerate(row.values):
            if value is None:
                continue
            depth = min(max(value / full, 0), 1)
            parts.append(
                Markup(
                    '<rect class="cell" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}"><title>{}</title></rect>'
                ).format(
                    _n(left + column * cell), y, _n(max(cell - 1, 0.5)), cell_height - 1, _n(0.06 + 0.94 * depth, 3),
                    f"{row.label}, {x_label} {column}: {show(value)}",
                )
            )  # fmt: skip
            if cell >= 30:
                css = "inside strong" if depth > 0.7 else "inside"
                parts.append(_text(left + (column + 0.5) * cell, y + 15, show(value), anchor="middle", css=css))
    bottom = 2 + len(rows) * cell_height
    parts.extend(
        _text(left + (tick + 0.5) * cell, bottom + 14, str(tick), anchor="middle", css="axis")
        for tick in _ticks(columns)
    )
    parts.append(_text(left + columns * cell / 2, bottom + 30, x_label, anchor="middle", css="axis"))
    return _svg(bottom + 36, title, parts)


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
) -> Markup:
    """Points as discs with their labels; a line joins the marked ones, which are filled.

    An axis whose values differ by more than `WIDE_RATIO` is logarithmic.
    """
    if not points:
        return Markup("")
    y, y_ticks = _scale([point.y for point in points], 258, 34)
    left = 12 + _TICK_CHARACTER * max(len(show_y(tick)) for tick in y_ticks)
    x, x_ticks = _scale([point.x for point in points], left + 14, WIDTH - 30)
    parts = [_text(2, 12, y_label, css="axis")]
    for tick, told in _told_once(y_ticks, show_y):
        parts.append(_line(left, y(tick), WIDTH - 6, y(tick), "grid"))
        parts.append(_text(left - 5, y(tick) + 4, told, anchor="end", css="axis"))
    for tick, told in _told_once(x_ticks, show_x):
        parts.append(_line(x(tick), 22, x(tick), 268, "grid"))
        parts.append(_text(x(tick), 284, told, anchor="middle", css="axis"))
    parts.append(_text((left + WIDTH) / 2, 302, x_label, anchor="middle", css="axis"))
    front = sorted((point.x, point.y) for point in points if point.marked)
    path = " ".join(f"{_n(x(at_x))},{_n(y(at_y))}" for at_x, at_y in front)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(path))
    for point in sorted(points, key=lambda point: point.marked):
        css = "disc marked" if point.marked else "disc"
        told = f"{point.label}: {show_x(point.x)}, {show_y(point.y)}"
        parts.append(
            Markup('<circle class="{}" cx="{}" cy="{}" r="9"><title>{}</title></circle>').format(
                css, _n(x(point.x)), _n(y(point.y)), told
            )
        )
        parts.append(_text(x(point.x), y(point.y) + 4, point.label, anchor="middle", css=css.replace("disc", "letter")))
    return _svg(308, title, parts)


def _svg(height: float, title: str, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    ).format(WIDTH, _n(height), title, Markup("").join(parts))


def _text(x: float, y: float, content: str, *, css: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        _n(x), _n(y), anchor, css, content
    )


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(css, _n(x1), _n(y1), _n(x2), _n(y2))


def _n(value: float, digits: int = 1) -> str:
    """A coordinate, short."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _label_width(labels: Iterable[str]) -> float:
    return min(200, 18 + _LABEL_CHARACTER * max((len(label) for label in labels), default=0))


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Round ends of an axis that covers both values, and the spacing of its four to eight grid lines."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= 6:
            step *= factor
            break
    first, last = math.floor(low / step) * step, math.ceil(high / step) * step
    return (first, last, step) if last > first else (first, first + step, step)


def _scale(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Where an axis that covers the values has each of them, between two places, and its two to seven ticks."""
    low, high = min(values), max(values)
    if low > 0 and high > WIDE_RATIO * low:
        steps = [mantissa * 10.0**power for power in range(-3, 19) for mantissa in (1, 2, 5)]
        first = max(step for step in steps if step <= low)
        last = min(step for step in steps if step >= high)
        ticks = [step for step in steps if first <= step <= last]
        while len(ticks) > _MOST_TICKS:
            ticks = ticks[::2]
        span = math.log(last / first)
        return (lambda value: start + (end - start) * math.log(value / first) / span), ticks
    short = _LEAST_SPAN * max(abs(low), abs(high)) - (high - low)
    if short > 0:
        low, high = low - short / 2, high + short / 2
    first, last, step = _axis(low, high)
    ticks = [first + step * number for number in range(round((last - first) / step) + 1)]
    return (lambda value: start + (end - start) * (value - first) / (last - first)), ticks


def _told_once(ticks: Iterable[float], show: Callable[[float], str]) -> Iterable[tuple[float, str]]:
    """Ticks with their labels, without those that would look like the one before."""
    before = None
    for tick in ticks:
        told = show(tick)
        if told != before:
            yield tick, told
        before = told


def _ticks(count: int) -> list[int]:
    """Indices to label: all if there are few, else every second, fourth, eighth and so on."""
    step = 1
    while count / step > 12:
        step *= 2
    return list(range(0, count, step))


def _runs(points: Sequence[float | None]) -> Iterable[list[tuple[int, float]]]:
    """The stretches of a line between its gaps."""
    run: list[tuple[int, float]] = []
    for index, value in enumerate(points):
        if value is not None:
            run.append((index, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _spread(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move labels apart until none overlap, keeping their order and staying between top and bottom."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    distance = min(_LABEL_HEIGHT, (bottom - top) / max(1, len(places) - 1))
    moved = list(places)
    for above, below in itertools.pairwise(order):
        moved[below] = max(moved[below], moved[above] + distance)
    if order and moved[order[-1]] > bottom:
        moved[order[-1]] = bottom
        for above, below in reversed(list(itertools.pairwise(order))):
            moved[above] = min(moved[above], moved[below] - distance)
    return moved
