#!/usr/bin/env python3
"""Writes deploy/grafana/siglip.json, the dashboard of docs/deploy.md: `python3 tools/make_dashboard.py`.

Metrics are Triton's, so it shows a stock Triton as well; a test asks a running server for every name.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
WHERE = 'job=~"$job",instance=~"$instance"'
MODEL = WHERE + ',model=~"$model"'


def rate(name, by="model", extra=""):
    return f"sum by ({by}) (rate({name}{{{MODEL}{extra}}}[$__rate_interval]))"


def mean_ms(name):
    return f"{rate(name)} / {rate('nv_inference_request_success')} / 1000"


# Title, unit, what to look for, [(expression, legend)].
PANELS = [
    ("Items per second", "ops", "Of the engine's models an item is one image or text.",
     [(rate("nv_inference_count"), "{{model}}")]),
    ("Failed requests per second", "ops", "REJECTED: queues or memory are full. CANCELED: clients gave up. BACKEND: bad "
     "input, or the model failed.",
     [(rate("nv_inference_request_failure", "model, reason") + " > 0", "{{model}} {{reason}}")]),
    ("Waiting requests", "short", "What the autoscaler looks at. Growing: too few servers.",
     [(f"sum by (model) (nv_inference_pending_request_count{{{MODEL}}})", "{{model}}")]),
    ("Mean time of a request", "ms", "From arrival to answer.",
     [(mean_ms("nv_inference_request_duration_us"), "{{model}}")]),
    ("Mean time in a queue", "ms", "Against the panel beside it: the share that more servers would save.",
     [(mean_ms("nv_inference_queue_duration_us"), "{{model}}")]),
    ("Mean time of computing", "ms", "Of the batch that a request rode in.",
     [(mean_ms("nv_inference_compute_infer_duration_us"), "{{model}}")]),
    ("Mean time around computing", "ms", "Inputs prepared, outputs handed over.",
     [(mean_ms("nv_inference_compute_input_duration_us"), "{{model}} input"),
      (mean_ms("nv_inference_compute_output_duration_us"), "{{model}} output")]),
    ("Mean batch", "short", "Items per execution. At max_batch_size the engine is the bottleneck; at 1 it is idle in part.",
     [(f"{rate('nv_inference_count')} / {rate('nv_inference_exec_count')}", "{{model}}")]),
    ("Items per second by server", "ops", "Uneven: the balancer sends by connection, not by request.",
     [(rate("nv_inference_count", "instance"), "{{instance}}")]),
    ("CPU in use", "percentunit", "Of the machine, other processes included.",
     [(f"nv_cpu_utilization{{{WHERE}}}", "{{instance}}")]),
    ("Memory in use", "percentunit", "Of the machine, other processes included.",
     [(f"nv_cpu_memory_used_bytes{{{WHERE}}} / nv_cpu_memory_total_bytes{{{WHERE}}}", "{{instance}}")]),
    ("GPU in use", "percentunit", "Near 1 says busy, not full: look at the mean batch. Empty without a GPU.",
     [(f"nv_gpu_utilization{{{WHERE}}}", "{{instance}} {{gpu_uuid}}")]),
    ("GPU power", "percentunit", "Of the GPU's limit. At the limit its clocks fall.",
     [(f"nv_gpu_power_usage{{{WHERE}}} / nv_gpu_power_limit{{{WHERE}}}", "{{instance}} {{gpu_uuid}}")]),
    ("Seconds to load a model", "s", "Packing weights is most of it: --cache-dir.",
     [(f"max by (model) (nv_model_load_duration_secs{{{MODEL}}})", "{{model}}")]),
    ("Versions", "short", "Servers by version: two during a roll-out.",
     [(f"count by (version) (siglip_build_info{{{WHERE}}})", "{{version}}")]),
]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(index, title, unit, description, targets):
    return {
        "id": index + 1, "type": "timeseries", "title": title, "description": description, "datasource": SOURCE,
        "gridPos": {"x": index % 3 * 8, "y": index // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
                    for number, (expression, legend) in enumerate(targets)],
    }


def variable(name, query):
    return {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "includeAll": True,
            "multi": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}


def dashboard():
    labels = [("job", ""), ("instance", '{job=~"$job"}'), ("model", f"{{{WHERE}}}")]
    return {
        "uid": "siglip", "title": "SigLIP serving", "tags": ["siglip", "triton"], "schemaVersion": 39, "version": 1,
        "editable": True, "refresh": "10s", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            *(variable(name, f"label_values(nv_inference_count{where}, {name})") for name, where in labels)]},
        "panels": [panel(index, *row) for index, row in enumerate(PANELS)],
    }


def text():
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    (ROOT / "deploy/grafana/siglip.json").write_text(text())
