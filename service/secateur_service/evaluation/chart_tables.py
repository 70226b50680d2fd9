"""The figures of a chart as a table below it, for those who cannot see it and those who want the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup


def with_table(chart: Markup, title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Markup:
    """A chart with a table that opens on demand; an empty chart stays empty.

    Args:
        chart: As `charts` draws it.
        title: What the table is called for readers who cannot see where it stands.
        columns: Headings, that of the rows' names first.
        rows: The name and the cells of each.
    """
    if not chart:
        return chart
    head = Markup("").join(Markup('<th scope="col"><bdi>{}</bdi></th>').format(column) for column in columns)
    body = Markup("").join(
        Markup('<tr><th scope="row"><bdi>{}</bdi></th>{}</tr>').format(
            name, Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
        )
        for name, cells in rows
    )
    return chart + Markup(
        '<details class="figures"><summary>Figures</summary>'
        '<div class="scroll" tabindex="0" role="region" aria-label="{}">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div></details>"
    ).format(title, head, body)


def with_blocks(
    chart: Markup, title: str, series: Mapping[str, Sequence[float | None]], show: Callable[[float], str]
) -> Markup:
    """A chart over the blocks with its table: a row for each block, a column for each series."""
    count = max((len(values) for values in series.values()), default=0)
    rows = [
        (str(block), ["–" if values[block] is None else show(values[block] or 0.0) for values in series.values()])
        for block in range(count)
    ]
    return with_table(chart, title, ["Block", *series], rows)
