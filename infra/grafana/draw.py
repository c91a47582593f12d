"""Draw the dashboard of the metrics: `python infra/grafana/draw.py > infra/grafana/dashboard.json`.

A test holds the file to what this makes of the metrics in the code. Import it into the Grafana that
reads from your Prometheus; both find Ray's metrics as Ray's own documentation says.
"""

import json
from collections.abc import Sequence
from typing import Any

from whylens.cluster import metrics
from whylens.cluster.metrics import EXPORTED, Metric

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WITHIN = '{run=~"$run", stage=~"$stage"}'
# Panels, two in a row: a title and what it shows.
PANELS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("Units", (metrics.DONE, metrics.PLANNED)),
    ("Queue", (metrics.WAITING,)),
    ("Rate", (metrics.RATE,)),
    ("Time left", (metrics.LEFT,)),
    ("Failures and retries", (metrics.FAILED, metrics.RETRIED)),
    ("GPU use", (metrics.GPU_USE,)),
    ("GPU memory", (metrics.GPU_MEMORY, metrics.GPU_TOTAL)),
)
COLUMNS, WIDTH, HEIGHT = 2, 12, 8


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "whylens",
        "uid": "whylens",
        "schemaVersion": 39,
        "tags": ["whylens", "ray"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [_source(), _variable("run"), _variable("stage")]},
        "panels": [_panel(place, title, shown) for place, (title, shown) in enumerate(PANELS)],
    }


def _panel(place: int, title: str, shown: Sequence[Metric]) -> dict[str, Any]:
    row, column = divmod(place, COLUMNS)
    labels = "{{run}} {{stage}}" + (" {{host}} {{pid}}" if "pid" in shown[0].labels else "")
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": title,
        "description": ". ".join(metric.help for metric in shown),
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": shown[0].unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": f"{EXPORTED}{metric.name}{WITHIN}",
                "legendFormat": f"{labels}: {metric.help}",
            }
            for number, metric in enumerate(shown)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({EXPORTED}{metrics.PLANNED.name}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
