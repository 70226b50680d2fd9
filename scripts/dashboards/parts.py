"""What both dashboards are made of: panels of one look, and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    dashboard,
    heatmap,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models

PROMETHEUS = "prometheus"
POSTGRESQL = "grafana-postgresql-datasource"
GREEN, YELLOW, RED = "green", "yellow", "red"

Panel = Builder[models.Panel]
Steps = list[models.Threshold]


def bad_above(red: float, yellow: float | None = None) -> Steps:
    """Colours of a figure that ought to be low."""
    return _steps(GREEN, [(yellow, YELLOW), (red, RED)])


def bad_below(red: float, yellow: float | None = None) -> Steps:
    """Colours of a figure that ought to be high."""
    return _steps(RED, [(red, GREEN)] if yellow is None else [(red, YELLOW), (yellow, GREEN)])


def source(kind: str) -> models.DataSourceRef:
    """The data source that the reader chose at the top of the dashboard."""
    return models.DataSourceRef(type_val=kind, uid="${datasource}")


class Query(Dataquery):
    """A query of either kind, as Grafana keeps it; the SDK has no type for those of PostgreSQL."""

    def __init__(self, kind: str, **content: object) -> None:
        self.source = source(kind)
        self.ref_id = ""
        self._content = content

    def to_json(self) -> dict[str, object]:
        """The target of a panel."""
        return {"refId": self.ref_id, "datasource": self.source, "editorMode": "code", **self._content}


def promql(expression: str, legend: str = "", *, shape: str = "time_series", now: bool = False) -> Query:
    """A query of Prometheus, over the period or for its end. Shapes are time_series, table and heatmap."""
    return Query(PROMETHEUS, expr=expression, legendFormat=legend, format=shape, instant=now, range=not now)


def sql(text: str, *, shape: str = "table") -> Query:
    """A query of the job store. As a time_series it has the columns time, metric and value."""
    return Query(POSTGRESQL, rawQuery=True, rawSql=text, format=shape)


def number(*queries: Query, steps: Steps | None = None, empty: str = "none", **look: Any) -> Panel:
    """A number that is coloured by what it means."""
    panel = stat.Panel().reduce_options(_last()).no_value(empty).graph_mode(common_models.BigValueGraphMode.NONE)
    panel = panel.color_mode(
        common_models.BigValueColorMode.BACKGROUND if steps else common_models.BigValueColorMode.NONE
    )
    return _dress(panel, queries, steps=steps, **{"width": 4, "height": 3, **look})


def lines(
    *queries: Query, steps: Steps | None = None, stacked: bool = False, sparse: bool = False, log: int = 0, **look: Any
) -> Panel:
    """Lines over time; with steps, a dashed line at each.

    Args:
        queries: what is drawn.
        steps: thresholds.
        stacked: whether the lines add up, as areas.
        sparse: whether there are few points, to be seen and joined.
        log: base of a logarithmic axis; 0 for a linear one.
        look: see `_dress`.
    """
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(30 if stacked else 5)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .scale_distribution(_scale(log))
    )
    if not log:
        panel = panel.axis_soft_min(0)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if sparse:
        panel = panel.show_points(common_models.VisibilityMode.ALWAYS).point_size(7).span_nulls(True)
    if steps:
        panel = panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    return _dress(panel, queries, steps=steps, **look)


def cells(query: Query, **look: Any) -> Panel:
    """A histogram over time, of buckets that Prometheus counts; `unit` is that of the buckets."""
    panel = (
        heatmap.Panel()
        .color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Blues").steps(32))
        .y_axis(heatmap.YAxisConfig().unit(look["unit"]))
        .cell_gap(1)
    )
    return _dress(panel, [query], **look)


def bars(query: Query, steps: Steps | None = None, *, rows: bool = False, **look: Any) -> Panel:
    """A horizontal bar for each series, or with `rows` for each row of a table, named by its text."""
    panel = (
        bargauge.Panel()
        .orientation(common_models.VizOrientation.HORIZONTAL)
        .display_mode(common_models.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().values(True).calcs([]).fields("") if rows else _last())
        .min(0)
    )
    return _dress(panel, [query], steps=steps, **look)


def columns(query: Query, x: str, *, log: int = 0, **look: Any) -> Panel:
    """Groups of columns: one for each row of a table, named by the column `x`."""
    panel = barchart.Panel().x_field(x).scale_distribution(_scale(log)).show_value(common_models.VisibilityMode.NEVER)
    return _dress(panel, [query], **look)


def rows(
    query: Query,
    *,
    hide: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    **look: Any,
) -> Panel:
    """A table. `units` are by the name of the column that is shown."""
    panel = table.Panel()
    if hide or rename:
        arranged = {"excludeByName": dict.fromkeys(hide, True), "renameByName": dict(rename or {})}
        panel = panel.with_transformation(models.DataTransformerConfig(id_val="organize", options=arranged))
    for name, unit in (units or {}).items():
        panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return _dress(panel, [query], **look)


def chosen_source(kind: str, name: str, uid: str) -> dashboard.DatasourceVariable:
    """The variable for the data source; where there is none of this uid, Grafana takes the first of its kind."""
    current = models.VariableOption(text=name, value=uid)
    return dashboard.DatasourceVariable("datasource").label("Data source").type(kind).current(current)


def chosen_value(name: str, label: str, kind: str, query: str) -> dashboard.QueryVariable:
    """A variable with the values that a query finds, the first of them chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(source(kind))
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.DISABLED)
    )


def board_of(name: str, title: str, about: str) -> dashboard.Dashboard:
    """A dashboard without panels, with links to the others."""
    link = dashboard.DashboardLink("Secateur").type(models.DashboardLinkType.DASHBOARDS).tags(["secateur"])
    return (
        dashboard.Dashboard(title)
        .uid(f"secateur-{name}")
        .description(about)
        .tags(["secateur"])
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(link.keep_time(True))
    )


def with_panels(board: dashboard.Dashboard, sections: Mapping[str, Sequence[Panel]]) -> models.Dashboard:
    """Lay panels out, section by section, and number them."""
    for name, panels in sections.items():
        board = board.with_row(dashboard.Row(name))
        for panel in panels:
            board = board.with_panel(panel)
    built = board.build()
    for number_, panel_ in enumerate(built.panels or [], start=1):
        panel_.id_val = number_
    return built


def _dress(
    panel: Any,
    queries: Sequence[Query],
    *,
    title: str,
    about: str,
    unit: str,
    width: int = 8,
    height: int = 8,
    alert: str = "",
    steps: Steps | None = None,
) -> Panel:
    """What every panel has.

    Args:
        panel: the builder.
        queries: what it shows.
        title: what it is.
        about: what it means and what to do.
        unit: as Grafana calls it.
        width: of 24 columns.
        height: in rows of 30 pixels.
        alert: the alert that looks at the same; its runbook is named.
        steps: what its value means.
    """
    if alert:
        about += f"\n\nAlert: {alert}. What to do: `deploy/runbooks/{alert}.md`."
    panel = panel.title(title).description(about).unit(unit).span(width).height(height)
    for letter, query in zip("ABCDEF", queries, strict=False):
        query.ref_id = letter
        panel = panel.with_target(_Ready(query)).datasource(query.source)
    if steps:
        panel = panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    dressed: Panel = panel
    return dressed


class _Ready(Builder[Dataquery]):
    """The builder of a query that is there already."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def build(self) -> Dataquery:
        """The query."""
        return self._query


def _steps(base: str, changes: Sequence[tuple[float | None, str]]) -> Steps:
    changes = [(value, colour) for value, colour in changes if value is not None]
    return [models.Threshold(value=value, color=colour) for value, colour in ((None, base), *changes)]


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)


def _scale(log: int) -> common.ScaleDistributionConfig:
    if log:
        return common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(log)
    return common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LINEAR)
