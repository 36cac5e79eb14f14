"""Writes the Grafana dashboard "Landbridge job", in the classic model, which files can provision.

python deploy/grafana/dashboard.py            write dashboards/job.json
python deploy/grafana/dashboard.py --check    exit 1 if it is not what would be written
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PATH = pathlib.Path(__file__).parent / "dashboards" / "job.json"

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, SKY, GREEN, ORANGE, RED = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"


@dataclasses.dataclass(frozen=True)
class Query:
    expr: str
    legend: str
    color: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    description: str
    """What is shown, what is good, what to do when it is not."""
    unit: str
    kind: str
    width: int
    height: int
    queries: Sequence[Query]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def stat(title: str, description: str, unit: str, query: Query, **defaults: Any) -> Panel:
    """One number, the last one there is."""
    return Panel(
        *(title, description, unit, "stat", 4, 4, [query]),
        defaults={"color": {"mode": "thresholds"}, "noValue": "unknown", **defaults},
        options={
            "colorMode": "value",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    )


def curve(
    title: str, description: str, unit: str, queries: Sequence[Query], *, stacked: bool = False
) -> Panel:
    """Lines over time."""
    custom = {
        "lineWidth": 2,
        "fillOpacity": 30 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none"},
    }
    return Panel(
        *(title, description, unit, "timeseries", 12, 8, queries),
        defaults={"color": {"mode": "palette-classic"}, "custom": custom, "noValue": "no data"},
        options={
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def of_job(metric: str) -> str:
    return f'landbridge_{metric}{{job="$job"}}'


def rate(selector: str) -> str:
    return f"rate({selector}[$__rate_interval])"


def step_seconds(quantile: float) -> str:
    buckets = rate(of_job("job_step_duration_seconds_bucket"))
    return f"histogram_quantile({quantile}, sum by (le) ({buckets}))"


def mean_seconds(histogram: str) -> str:
    return f"{rate(of_job(f'{histogram}_sum'))} / {rate(of_job(f'{histogram}_count'))}"


def thresholds(*steps: tuple[float | None, str]) -> dict[str, Any]:
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": color} for value, color in steps],
    }


def mapping(texts: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    options = {value: {"text": text, "color": color} for value, (text, color) in texts.items()}
    return [{"type": "value", "options": options}]


NAME = Panel(
    *("Job", "Name of the job chosen above; its id begins with the time of submission."),
    *("none", "stat", 4, 4, [Query(of_job("job_info"), "{{name}}")]),
    defaults={"noValue": "no job"},
    options={"colorMode": "none", "graphMode": "none", "textMode": "name"},
)

PANELS = (
    NAME,
    stat(
        "Progress",
        "Steps that all pods have applied, of the steps the job wants.",
        "percentunit",
        Query(f"{of_job('job_step')} / {of_job('job_target_steps')}", "progress"),
        thresholds=thresholds((None, BLUE), (1.0, GREEN)),
    ),
    stat(
        "Loss now",
        "Loss of the last step, in nats per token. The curve below tells more than one number.",
        "none",
        Query(of_job("job_loss"), "loss"),
        decimals=3,
        thresholds=thresholds((None, BLUE)),
    ),
    stat(
        "Tokens/s now",
        "Tokens trained on per second, by all pods together.",
        "short",
        Query(rate(of_job("job_tokens_total")), "tokens/s"),
        thresholds=thresholds((None, BLUE)),
    ),
    stat(
        "MFU now",
        "Model FLOP/s over the peak of all devices. Unknown where the peak of a device is: a "
        "number without its denominator would be a guess.",
        "percentunit",
        Query(of_job("job_mfu_ratio"), "MFU"),
        decimals=1,
        thresholds=thresholds((None, BLUE)),
    ),
    stat(
        "Pods up",
        "Pods all of whose hosts are attached with their accelerators initialised, of the pods "
        "the controller knows. If one is missing, see its log and the page Pods of the dashboard.",
        "percentunit",
        Query("sum(landbridge_pod_up) / count(landbridge_pod_up)", "up"),
        thresholds=thresholds((None, RED), (1.0, GREEN)),
    ),
    curve(
        "Loss",
        "Loss of the last step. It should fall, fast at first. A spike that does not come down "
        "again, or a flat line from the start, is worth a look at the learning rate and the data. "
        "The held-out loss is that of the last evaluation; if it rises while the other falls, the "
        "model learns the text by heart. A red line is a rewind.",
        "none",
        [
            Query(of_job("job_loss"), "loss", BLUE),
            Query(of_job("job_evaluation_loss"), "held-out loss", ORANGE),
        ],
    ),
    curve(
        "Tokens per second",
        "Tokens trained on per second by all pods together. Steady is good; a fall without a "
        "change of the batch means a slower step: compare with the step time and the link.",
        "short",
        [Query(rate(of_job("job_tokens_total")), "tokens/s", BLUE)],
    ),
    curve(
        "Utilisation",
        "MFU: the FLOPs the model needs over the peak of all devices. HFU counts recomputation "
        "too. PaLM reached 46% and 58%. Absent where the peak of a device is unknown.",
        "percentunit",
        [
            Query(of_job("job_mfu_ratio"), "MFU", BLUE),
            Query(of_job("job_hfu_ratio"), "HFU", SKY),
        ],
    ),
    curve(
        "Step time",
        "Time of a step, of its slowest pod. Quantiles are as fine as the histogram's buckets; the "
        "mean is exact. A 95th percentile far above the median points to a straggler or the link.",
        "s",
        [
            Query(mean_seconds("job_step_duration_seconds"), "mean", BLUE),
            Query(step_seconds(0.5), "median", SKY),
            Query(step_seconds(0.95), "95th percentile", ORANGE),
        ],
    ),
    curve(
        "Link",
        "Bytes per second from pod to pod, of all jobs. A full exchange sends every gradient once "
        "a step, so the rate follows the step time; one direction below the other is a bad link. "
        "While anything is under way it is what the link carries: where the two meet, it is full.",
        "Bps",
        [
            Query(
                f"sum by (src, dst) ({rate('landbridge_link_bytes_total')})", "{{src}} to {{dst}}"
            ),
            Query(
                "sum by (src, dst) (landbridge_link_bandwidth_bytes_per_second)",
                "{{src}} to {{dst}}, while sending",
            ),
        ],
    ),
    curve(
        "Round trip",
        "Time of a small message from pod to pod and back, the least of the last few. It should be "
        "level; a climb without more bytes is another user of the link, or a longer way.",
        "s",
        [Query("max by (src, dst) (landbridge_link_rtt_seconds)", "{{src}} to {{dst}}")],
    ),
    curve(
        "Exchange of a second",
        "Seconds of exchange in each second: exposed, which steps waited for, and hidden behind "
        "computation. Exposed should be near nothing; else see exchange.overlap, exchange.dtype "
        "and exchange.mode, and the rate of the link beside.",
        "percentunit",
        [
            Query(rate(of_job("link_exposed_seconds_total")), "exposed", RED),
            Query(rate(of_job("link_hidden_seconds_total")), "hidden", GREEN),
        ],
    ),
    curve(
        "Encoding",
        "How many times less than float32 the gradients of the job took, and the norm of what "
        "that lost and carries on. The norm should level off; one that climbs for good says that "
        "exchange.dtype is too coarse for the job. No norm where nothing is lost.",
        "none",
        [
            Query(of_job("job_compression_ratio"), "compression", BLUE),
            Query(of_job("job_residual_norm"), "residual norm", ORANGE),
        ],
    ),
    curve(
        "Sent again",
        "Chunks per second that were lost, broken or stuck and sent again, from pod to pod. None "
        "is good; a steady few cost little; many are a link that loses packets.",
        "short",
        [
            Query(
                f"sum by (src, dst) ({rate('landbridge_link_retries_total')})",
                "{{src}} to {{dst}}",
            )
        ],
    ),
    curve(
        "Where the time goes",
        "Share of each second since admission by what it went into, once that is known. "
        "Productive should be nearly all of it; exposed exchange is time that steps waited for "
        "the link, rework steps that had been run before.",
        "percentunit",
        [Query(f"sum by (category) ({rate(of_job('job_time_seconds_total'))})", "{{category}}")],
        stacked=True,
    ),
    curve(
        "Held-out text",
        "Bits that the model needs for a byte of text it was not trained on, at the last "
        "evaluation. Comparable between tokenizers, unlike the loss. Empty without train.eval.",
        "none",
        [Query(of_job("job_bits_per_byte"), "bits per byte", ORANGE)],
    ),
    curve(
        "Checkpoints",
        "Time from the end of a step until a pod's share of its checkpoint was on disk, and for "
        "how long training stood still for it. Stalls near the first say that the disk is too "
        "slow for checkpoint.every; failures are events of the job.",
        "s",
        [
            Query(mean_seconds("checkpoint_save_seconds"), "until on disk", SKY),
            Query(mean_seconds("checkpoint_stall_seconds"), "stall", RED),
        ],
    ),
    dataclasses.replace(
        curve(
            "Interruptions",
            "How often the job had to recover, by what went wrong, and how many steps it ran again "
            "for it. PodLost with no step run again is a pod that was healed; Spike is a rewind. "
            "Many of one cause say where to look; events of the job have the reasons.",
            "short",
            [
                Query(f"sum by (cause) ({of_job('job_recoveries_total')})", "{{cause}}"),
                Query(of_job("job_steps_recomputed_total"), "steps run again", RED),
            ],
        ),
        width=24,
    ),
    Panel(
        "Pods",
        "Whether all hosts of a pod are attached with their accelerators initialised. A pod that "
        "was down for a moment was started again by its launcher.",
        *("none", "state-timeline", 24, 5, [Query("landbridge_pod_up", "{{pod}}")]),
        defaults={
            "color": {"mode": "thresholds"},
            "mappings": mapping({"0": ("down", RED), "1": ("up", GREEN)}),
            "noValue": "no pods",
            "thresholds": thresholds((None, RED), (1.0, GREEN)),
        },
        options={"mergeValues": True, "showValue": "never", "legend": {"showLegend": True}},
    ),
)


def annotations() -> list[dict[str, Any]]:
    """Marks across all curves."""
    return [
        {
            "name": "Rewinds",
            "datasource": DATASOURCE,
            "enable": True,
            "iconColor": RED,
            "expr": f"changes({of_job('job_rewinds_total')}[$__rate_interval]) > 0",
            "step": "10s",
            "titleFormat": "rewind",
            "textFormat": "Back to a checkpoint and past the batches around a loss spike.",
        }
    ]


def variables() -> list[dict[str, Any]]:
    jobs = "label_values(landbridge_job_info, job)"
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "current": {"text": "Prometheus", "value": "landbridge-prometheus"},
        },
        {
            "name": "job",
            "label": "Job",
            "type": "query",
            "datasource": DATASOURCE,
            "definition": jobs,
            "query": {"query": jobs, "refId": "job"},
            "refresh": 2,
            # Ids sort by time of submission: the newest job first.
            "sort": 2,
            "includeAll": False,
            "multi": False,
        },
    ]


def panel_json(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, **panel.defaults},
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": query.legend},
                    "properties": [
                        {"id": "color", "value": {"mode": "fixed", "fixedColor": query.color}}
                    ],
                }
                for query in panel.queries
                if query.color
            ],
        },
        "options": panel.options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """Panels in rows from left to right, as many in a row as fit."""
    panels: list[dict[str, Any]] = []
    x, y, height = 0, 0, 0
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > COLUMNS:
            x, y, height = 0, y + height, 0
        panels.append(panel_json(number, panel, x, y))
        x, height = x + panel.width, max(height, panel.height)
    return {
        "uid": "landbridge-job",
        "title": "Landbridge job",
        "description": "One training job, its pods and the link between them.",
        "tags": ["landbridge"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": annotations()},
        "templating": {"list": variables()},
        "panels": panels,
    }


def main(arguments: Sequence[str]) -> int:
    text = json.dumps(dashboard(), indent=2) + "\n"
    if list(arguments) == ["--check"]:
        if PATH.read_text() == text:
            return 0
        sys.stderr.write(f"{PATH} is not current; run python deploy/grafana/dashboard.py\n")
        return 1
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
