"""deploy/grafana/siglip.json asks for what a running server exposes, and for nothing else."""

import json
import re
import urllib.request

import pytest

import make_dashboard
from conftest import ROOT

METRIC = re.compile(r"\b((?:nv|siglip)_[a-z0-9_]+)(?:\{([^}]*)\})?")
TARGET_LABELS = {"job", "instance"}  # set by Prometheus


def exposed(text):
    """Metric name -> its labels."""
    found = {}
    for name, labels in re.findall(r"^([a-z_0-9]+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def wrong_parts(dashboard, metrics):
    """Names and labels that the server does not have."""
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [entry["query"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"]
    wrong = []
    for query in queries:
        names = METRIC.findall(query)
        assert names, query
        for name, matchers in names:
            if name not in metrics:
                wrong.append(name)
                continue
            known = metrics[name] | TARGET_LABELS
            wrong += [f"{name}{{{label}}}" for label in re.findall(r'(\w+)=~?"', matchers) if label not in known]
            grouped = re.findall(r"by \(([^)]*)\)", query)
            wrong += [f"{name} by {label}" for group in grouped for label in group.split(", ") if label not in known]
    return wrong


@pytest.fixture(name="metrics", scope="module")
def metrics_fixture(server):
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
        return exposed(answer.read().decode())


def test_the_file_is_what_the_script_writes():
    assert (ROOT / "deploy/grafana/siglip.json").read_text() == make_dashboard.text(), "run tools/make_dashboard.py"


def test_every_panel_shows_metrics_of_the_server(metrics):
    assert not wrong_parts(make_dashboard.dashboard(), metrics)


def test_the_scaling_metric_is_one_of_the_servers(metrics):
    text = (ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text()
    assert set(name for name, _ in METRIC.findall(text)) - {"siglip_pending_requests"} <= set(metrics)


@pytest.mark.parametrize("query, wrong", [
    ("rate(nv_inference_counts[1m])", "nv_inference_counts"),
    ('nv_cpu_utilization{model="a"}', "nv_cpu_utilization{model}"),
    ('sum by (reason) (nv_inference_count{model="a"})', "nv_inference_count by reason")])
def test_a_wrong_panel_is_found(metrics, query, wrong):
    dashboard = {"panels": [{"targets": [{"expr": query}]}], "templating": {"list": []}}
    assert wrong_parts(dashboard, metrics) == [wrong]


def test_panels_do_not_overlap():
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in json.loads(make_dashboard.text())["panels"]]
    assert len(set(places)) == len(places)
