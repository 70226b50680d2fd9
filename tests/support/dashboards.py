"""The generated dashboards as Grafana reads them, and what their queries become once it has filled in its variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring" / "grafana" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
# What Grafana would write in place of its variables in PromQL; the longer name first.
SAMPLES = {
    "$__range_s": "3600",
    "$__range": "1h",
    "$__rate_interval": "1m",
    "$namespace": ".*",
    "$instance": ".*",
}


class Expression(NamedTuple):
    """A query of Prometheus, as it is written; `legend` is empty for that of a variable."""

    dashboard: str
    title: str
    text: str
    legend: str = ""


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something: all but the titles of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[Expression]:
    """Every query of Prometheus: of panels, and of variables."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                if "expr" in target:
                    yield Expression(name, panel["title"], target["expr"], target["legendFormat"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query" and variable["datasource"]["type"] == "prometheus":
                (text,) = re.findall(r"label_values\((.*), \w+\)", variable["query"])
                yield Expression(name, f"${variable['name']}", text)


def filled_in(text: str) -> str:
    """PromQL that Prometheus understands, for an hour and for all namespaces and replicas."""
    for variable, value in SAMPLES.items():
        text = text.replace(variable, value)
    return text


def sql_filled_in(text: str, values: Mapping[str, list[str]]) -> str:
    """SQL for all times, with variables that have these values."""
    text = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN '2000-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'", text)
    for name, chosen in values.items():
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in chosen)
        text = text.replace(f"${{{name}:sqlstring}}", quoted)
    assert "$" not in text, text
    return text
