"""deploy/: every file is read by the program or the schema that it is written for."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import helm_python
import kubernetes_validate
import pytest
import yaml

import kserve_schema
import render_chart
from conftest import ROOT, owners

DEPLOY = ROOT / "deploy"
BIN = pathlib.Path(sys.executable).parent
OLDEST = "1.27"  # as Chart.yaml says
NEWEST = kserve_schema.KUBERNETES
MODEL = {"model": {"volume": {"hostPath": {"path": "/srv/models", "type": "Directory"}}, "path": "so400m"}}
VALUES = {
    "defaults": {},
    "gpu": yaml.safe_load((DEPLOY / "helm/siglip/values-gpu.yaml").read_text()),
    "without": {"autoscaling": {"enabled": False}, "cache": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "everything": {
        **MODEL,
        "image": {"repository": "images.example/siglip", "tag": "v1", "pullSecrets": [{"name": "pull"}]},
        "server": {"extraArgs": ["--log-verbose=1"]}, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "disruptionBudget": {"maxUnavailable": "50%"},
        "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}},
        "podAnnotations": {"a": "b"}, "podLabels": {"team": "search"},
        "networkPolicy": {"clients": [], "scrapers": []}},
}


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def check_kubernetes(text):
    found = documents(text)
    for document in found:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(document, version, strict=True)
    return found


def pod_of(text):
    return next(d for d in documents(text) if d["kind"] == "Deployment")["spec"]["template"]["spec"]


def options_of(binary):
    """Option names of `siglip serve --help`."""
    text = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z0-9-]+", text))


@pytest.mark.parametrize("case", VALUES)
def test_the_chart_renders_what_kubernetes_takes(case):
    kinds = {document["kind"] for document in check_kubernetes(render_chart.render(VALUES[case]))}
    optional = {"HorizontalPodAutoscaler", "NetworkPolicy"}
    assert kinds == {"Deployment", "Service", "PodDisruptionBudget"} | (set() if case == "without" else optional)


@pytest.mark.parametrize("values", [
    {"replica": 2}, {"server": {"precision": "int4"}}, {"server": {"device": "gpu"}}, {"server": {"memoryMiB": {"inputs": "1Gi"}}}, {"server": {"drainDelaySeconds": "10"}},
    {"model": {"path": "/so400m"}}, {"disruptionBudget": {"minAvailable": 1}}, {"autoscaling": {"target": 32}}], ids=str)
def test_wrong_values_are_refused(values):
    with pytest.raises(helm_python.HelmError):
        render_chart.render(values)


def test_helm_lints_the_chart():
    report = helm_python.lint(str(DEPLOY / "helm/siglip"))
    assert "[ERROR]" not in str(report) and "[WARNING]" not in str(report), report


@pytest.mark.parametrize("variant", render_chart.VARIANTS)
def test_plain_manifests_are_the_charts(variant):
    text = (DEPLOY / f"kubernetes/{variant}.yaml").read_text()
    assert text == render_chart.plain_manifests(variant), "run tools/render_chart.py"
    check_kubernetes(text)


def test_the_rest_of_kubernetes():
    rule = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    for text in (render_chart.render({}), (DEPLOY / "kserve/autoscaler.yaml").read_text()):
        autoscaler = next(d for d in check_kubernetes(text) if d["kind"] == "HorizontalPodAutoscaler")
        assert autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_model_is_copied_where_the_pods_look():
    """By the same user, through a pod that may write."""
    claim, copy = check_kubernetes((DEPLOY / "kubernetes/model-volume.yaml").read_text())
    server = pod_of(render_chart.render({}))
    mounted, volume = (next(v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "model")
                       for pod in (server, copy["spec"]))
    assert mounted == {**volume, "readOnly": True} and volume["claimName"] == claim["metadata"]["name"]
    assert copy["spec"]["containers"][0]["image"] == server["containers"][0]["image"]
    assert {**copy["spec"]["securityContext"], "fsGroupChangePolicy": "OnRootMismatch"} == server["securityContext"]


def test_pods_drain_before_they_are_killed():
    for values in ({}, {"server": {"drainDelaySeconds": 20, "exitTimeoutSeconds": 100}}):
        pod = pod_of(render_chart.render(values))
        options = dict(argument.split("=", 1) for argument in pod["containers"][0]["args"][1:])
        delay, drain = int(options["--drain-delay-secs"]), int(options["--exit-timeout-secs"])
        probe = pod["containers"][0]["readinessProbe"]
        assert delay > probe["periodSeconds"] * probe["failureThreshold"]
        assert pod["terminationGracePeriodSeconds"] > delay + drain


def test_numbers_reach_the_program_as_it_reads_them():
    """Numbers of a file of values are floats to Helm, which prints large ones as 2e+06."""
    server = {"maxInflightRequests": 2_000_000, "exitTimeoutSeconds": 3_000_000}
    options = dict(argument.split("=", 1) for argument in pod_of(render_chart.render({"server": server}))["containers"][0]["args"][1:])
    assert options["--max-inflight-requests"] == "2000000" and options["--exit-timeout-secs"] == "3000000"


BATCH = 32  # max_batch_size of the towers


@pytest.mark.parametrize("variant", ["cpu", "gpu", "kserve"])
def test_what_a_pod_has_accepted_is_answered_before_it_ends(variant):
    """With so400m, by docs/scaling.md. And the queue that the autoscaler looks at can become as long as its target."""
    scaling = (ROOT / "docs/scaling.md").read_text()
    if variant == "kserve":
        found = documents("---\n".join(path.read_text() for path in sorted((DEPLOY / "kserve").glob("*.yaml"))))
        predictor = next(d for d in found if d["kind"] == "InferenceService")["spec"]["predictor"]
        pod = next(d for d in found if d["kind"] == "ServingRuntime")["spec"]
        grace = predictor["terminationGracePeriodSeconds"]
    else:
        found = documents((DEPLOY / f"kubernetes/{variant}.yaml").read_text())
        pod = next(d for d in found if d["kind"] == "Deployment")["spec"]["template"]["spec"]
        grace = pod["terminationGracePeriodSeconds"]
    container = pod["containers"][0]
    options = dict(argument.split("=", 1) for argument in container["args"][1:])
    if variant == "gpu":
        rate = float(re.search(r"^\| 1 GPU and 16 cores, so400m \(assumed\) \| (\d+) \|", scaling, re.MULTILINE)[1])
    else:
        core_seconds = float(re.search(r"of ([0-9.]+) core-seconds of so400m", scaling)[1])
        rate = int(container["resources"]["requests"]["cpu"]) / core_seconds
    accepted = int(options["--max-inflight-requests"])
    assert accepted / rate <= int(options["--exit-timeout-secs"])
    balancers = (DEPLOY / "haproxy/haproxy.cfg").read_text() + (DEPLOY / "envoy/envoy.yaml").read_text()
    waits = [int(seconds) for seconds in re.findall(r"^  timeout server (\d+)s$|siglip_\w+, timeout: (\d+)s", balancers, re.MULTILINE)
             for seconds in seconds if seconds not in ("", "0")]
    assert len(waits) == 3 and accepted / rate <= min(waits), "a balancer gives up what the pod has accepted"
    if variant == "kserve":
        assert accepted / rate <= predictor["timeout"], "KServe gives up what the pod has accepted"
    assert int(options["--drain-delay-secs"]) + int(options["--exit-timeout-secs"]) < grace
    target = next(d for d in found if d["kind"] == "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["target"]
    assert int(target["averageValue"]) + BATCH < accepted, "while a batch runs, no more than the rest can wait"


def test_the_cache_holds_every_checkpoint():
    """In int16 and float32: a checkpoint whose int16 fails its self-check leaves both. Sizes: docs/models.md."""
    rows = re.findall(r"^\| siglip.*\| ([0-9.]+) GB \| ([0-9.]+) GB \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    wanted = max(float(fp32) + float(int16) for fp32, int16 in rows) * 1e9
    runtime = yaml.safe_load((DEPLOY / "kserve/serving-runtime.yaml").read_text())
    for pod in (pod_of(render_chart.render({})), runtime["spec"]):
        cache = next(volume for volume in pod["volumes"] if volume["name"] == "cache")
        assert int(cache["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30 >= wanted


LARGEST_PICTURE = 1.6e9  # bytes: of Pillow's limit of pixels; one that is larger than its share is decoded alone
PROCESS = 2**30  # the program, its decode workers, what the heap does not give back


@pytest.mark.parametrize("pod", [
    pod_of(render_chart.render({})), pod_of((DEPLOY / "kubernetes/cpu.yaml").read_text()),
    pod_of((DEPLOY / "kubernetes/gpu.yaml").read_text()),
    yaml.safe_load((DEPLOY / "kserve/serving-runtime.yaml").read_text())["spec"]], ids=["chart", "cpu", "gpu", "kserve"])
def test_no_client_can_have_a_pod_killed_for_its_memory(pod):
    """Beside the float32 weights of so400m, which `auto` takes where int16 fails its self-check. Sizes: docs/models.md."""
    options = dict(argument.split("=", 1) for argument in pod["containers"][0]["args"][1:])
    held = sum(int(options[f"--{name}"]) * times for name, times in (
        ("max-inflight-input-bytes", 1), ("max-inflight-output-bytes", 1), ("http-max-buffered-size", 2),
        ("grpc-memory-quota", 1))) + max(int(options["--max-decode-bytes"]), LARGEST_PICTURE)
    models = (ROOT / "docs/models.md").read_text()
    weights = max(map(float, re.findall(r"^\| siglip2?-so400m.*\| ([0-9.]+) GB \| [0-9.]+ GB \|", models, re.MULTILINE))) * 1e9
    limit = int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert held + weights + PROCESS <= limit


def test_gpus_are_asked_for_and_found():
    pod = pod_of((DEPLOY / "kubernetes/gpu.yaml").read_text())
    resources = pod["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] and pod["tolerations"]
    assert "nvidia.com/gpu" not in (DEPLOY / "kubernetes/cpu.yaml").read_text()


def test_kserve():
    checker = kserve_schema.Checker()
    files = [DEPLOY / "kserve/serving-runtime.yaml", DEPLOY / "kserve/inference-service.yaml"]
    runtime, service = (yaml.safe_load(path.read_text()) for path in files)
    checker.check(runtime)
    checker.check(service)
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    formats = [entry["name"] for entry in runtime["spec"]["supportedModelFormats"]]
    assert service["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats
    # KServe's own autoscaler has nothing but CPU and memory, and its pods are scraped by what their annotations say.
    assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "external"
    autoscaler = yaml.safe_load((DEPLOY / "kserve/autoscaler.yaml").read_text())["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == service["metadata"]["name"] + "-predictor"
    chart = next(d for d in documents(render_chart.render({})) if d["kind"] == "Deployment")["spec"]["template"]
    assert chart["metadata"]["annotations"].items() <= runtime["spec"]["annotations"].items()


@pytest.mark.parametrize("path, key, value, message", [
    ("serving-runtime.yaml", "supportedFormats", [], "got supportedFormats"),
    ("serving-runtime.yaml", "multiModel", "no", "expected bool"),
    ("serving-runtime.yaml", "containers", [{"nam": "x"}], "nam"),
    ("inference-service.yaml", "predictor", {"model": {"modelFormat": "siglip"}}, "expected fields of V1beta1ModelFormat"),
    ("inference-service.yaml", "predictor", {"minReplica": 1}, "got minReplica")])
def test_the_kserve_checker_finds(path, key, value, message):
    document = yaml.safe_load((DEPLOY / "kserve" / path).read_text())
    document["spec"][key] = value
    with pytest.raises(kserve_schema.SchemaError, match=message):
        kserve_schema.Checker().check(document)


def test_every_option_is_one_of_the_servers(binary):
    known = options_of(binary)
    runtime = yaml.safe_load((DEPLOY / "kserve/serving-runtime.yaml").read_text())
    pods = [pod_of(render_chart.render(values)) for values in VALUES.values()] + [runtime["spec"]]
    for pod in pods:
        for argument in pod["containers"][0]["args"][1:]:
            assert argument.split("=")[0] in known


def test_the_image_has_the_libraries_that_the_binary_names(binary):
    """Debian's packages of what readelf lists, but for the ones that every image has."""
    needed = re.findall(r"NEEDED.*\[(.+)\]", subprocess.run(["readelf", "-dW", binary], capture_output=True, text=True,
                                                            check=True).stdout)
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    where = dict(re.findall(r"^\s*(\S+) \(libc6,x86-64.*\) => (\S+)$", cache, re.MULTILINE))
    # Parquet is not in the image.
    files = [pathlib.Path(where[library]).resolve().name for library in needed
             if not re.match(r"lib(arrow|parquet)\.so|ld-linux", library)]
    listed = (DEPLOY / "container/runtime-packages.txt").read_text().splitlines()
    # Roots of certificates are no library: libcurl reads them.
    wanted = owners(files) - {"libc6", "libgcc-s1"} | {"ca-certificates"}
    assert {line for line in listed if not line.startswith("#")} == wanted


PODS = {"chart": pod_of(render_chart.render({})), "gpu": pod_of((DEPLOY / "kubernetes/gpu.yaml").read_text()),
        "kserve": yaml.safe_load((DEPLOY / "kserve/serving-runtime.yaml").read_text())["spec"]}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_are_of_the_image(pod):
    """User, group, ports, program and folders of the container file."""
    text = (DEPLOY / "container/Containerfile").read_text()
    container, = pod["containers"]
    context = pod.get("securityContext", {}) | container["securityContext"]
    user, group = str(context["runAsUser"]), str(context.get("runAsGroup", context["runAsUser"]))
    for last in re.findall(r"^USER (\d+:\d+)$", text, re.MULTILINE):
        assert last == f"{user}:{group}"
    assert re.search(rf"groupadd .*--gid {group} (\S+) .*\n.*useradd .*--uid {user} --gid \1 ", text)
    options = dict(argument.split("=", 1) for argument in container["args"][1:])
    ports = [options.get(f"--{name}-port", number) for name, number in zip(
        ("http", "grpc", "metrics"), re.search(r"^EXPOSE (\d+) (\d+) (\d+)$", text, re.MULTILINE).groups())]
    assert {str(entry["containerPort"]) for entry in container["ports"]} <= set(ports)
    assert 'ENTRYPOINT ["siglip"]' in text and "command" not in container and container["args"][0] == "serve"
    cache = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "cache")
    assert cache == options["--cache-dir"] and re.search(rf"install -d -o siglip -g siglip {cache}$", text, re.MULTILINE)


def test_a_changed_source_leaves_the_images_packages():
    """Layers up to the packages see nothing but their list and what reads it."""
    stage = re.search(r"AS tools\n(.*?)^RUN (\S+)", (DEPLOY / "container/Containerfile").read_text(), re.DOTALL | re.MULTILINE)
    assert re.findall(r"^COPY (.+) \S+$", stage[1], re.MULTILINE) == [f"{stage[2]} tools/setup/debian-packages.txt"]


def test_container_file(tmp_path):
    """hadolint's rules, and that what .dockerignore lets in is enough to configure and has all inputs of the program."""
    path = DEPLOY / "container/Containerfile"
    done = subprocess.run([BIN / "hadolint", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE):
        for source in sources.split():
            assert source == "." or any(pathlib.PurePath(source).is_relative_to(entry) for entry in let_in), source
    for entry in let_in:
        (tmp_path / entry).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / entry).is_dir() else shutil.copy
        copy(ROOT / entry, tmp_path / entry)
    configure = re.search(r"^RUN (cmake --preset release [^&]+)", path.read_text(), re.MULTILINE)[1].strip(" \\\n")
    done = subprocess.run(configure, shell=True, cwd=tmp_path, env={**os.environ, "COMMIT": "none"}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    inputs = subprocess.run(["ninja", "-C", tmp_path / "build/release", "-t", "inputs", "siglip"], check=True,
                            capture_output=True, text=True).stdout.splitlines()
    sources = [name for name in inputs if name.startswith(str(tmp_path)) and "/build/" not in name]
    assert sources and [name for name in sources if not pathlib.Path(name).exists()] == []
