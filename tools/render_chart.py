#!/usr/bin/env python3
"""Writes deploy/kubernetes/{cpu,gpu}.yaml: what the chart gives for a release `siglip`, for whoever has no Helm.

    .venv/deploy/bin/python tools/render_chart.py

Helm's own engine renders (PyPI: helm-python-sdk).
"""

import pathlib

import helm_python
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/siglip"
VARIANTS = {"cpu": [], "gpu": [CHART / "values-gpu.yaml"]}


def render(values, name="siglip"):
    """The manifests as text, one document after the other. Raises helm_python.HelmError: values that the schema
    refuses, templates that fail."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(values))
        files = chart.render(values, name=name, namespace="default")
    texts = [text.strip() for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return "\n---\n".join(text for text in texts if text) + "\n"


def plain_manifests(variant):
    values = {}
    for path in VARIANTS[variant]:
        values.update(yaml.safe_load(path.read_text()))
    header = f"# Made from deploy/helm/siglip by tools/render_chart.py ({variant}); change the chart, not this file.\n"
    # Nobody's release: what Helm writes about itself is left out.
    text = render(values).replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
    return header + text


def main():
    for variant in VARIANTS:
        (ROOT / f"deploy/kubernetes/{variant}.yaml").write_text(plain_manifests(variant))


if __name__ == "__main__":
    main()
