#!/usr/bin/env python3
"""The list of parts of siglip, as CycloneDX 1.6 JSON: `python3 tools/sbom.py > siglip.cdx.json`.

Debian's packages, with the versions that are installed here, from the lists in tools/setup/ and deploy/container/ and what
they depend on; PyPI's from requirements-*.txt; the demo checkpoint. Run where it was built: two runs there are equal.
scope: required = in the program or its image; optional = Parquet; excluded = builds and tests only.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent


def names_in(path):
    return [line.strip() for line in (ROOT / path).read_text().splitlines() if line.strip() and not line.startswith("#")]


def installed_packages():
    """Name -> {version, source, depends} of dpkg, native architecture first."""
    rows = subprocess.run(
        ["dpkg-query", "-W", "-f=${binary:Package}\t${Version}\t${source:Package}\t${Architecture}\t${Pre-Depends}, "
         "${Depends}\t${Provides}\n"], capture_output=True, text=True, check=True).stdout
    packages, provided = {}, {}
    for line in rows.splitlines():
        name, version, source, architecture, depends, provides = line.split("\t")
        name = name.split(":")[0]
        packages.setdefault(name, {"version": version, "source": source, "architecture": architecture,
                                   "depends": re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9.+-]+)", depends)})
        for virtual in re.findall(r"[a-z0-9][a-z0-9.+-]+(?= *(?:\(|,|$))", provides):
            provided.setdefault(virtual, name)
    return packages, provided


def closure(names, packages, provided):
    """Names and all that they depend on, as installed."""
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        name = name if name in packages else provided.get(name)
        if name and name not in seen:
            seen.add(name)
            todo += packages[name]["depends"]
    return seen


def debian_component(name, package, scope, how):
    version = urllib.parse.quote(package["version"], safe="+~")
    return {"type": "library", "bom-ref": f"deb:{name}", "name": name, "version": package["version"], "scope": scope,
            "purl": f"pkg:deb/debian/{urllib.parse.quote(name, safe='+')}@{version}?arch={package['architecture']}&distro=debian-12",
            "properties": [{"name": "siglip:how", "value": how}, {"name": "siglip:source", "value": package["source"]}]}


def debian_components():
    packages, provided = installed_packages()
    runtime = closure(names_in("deploy/container/runtime-packages.txt"), packages, provided)
    listed = names_in("tools/setup/debian-packages.txt")
    missing = [name for name in listed if name not in packages]
    if missing:
        sys.exit(f"not installed: {' '.join(missing)}; tools/setup/install.sh debian")
    rows = [debian_component(name, packages[name], "required", "linked at run time") for name in sorted(runtime)]
    for name in sorted(set(listed) - runtime):
        # Of -dev packages headers, and libprotobuf's archive, are compiled in.
        rows.append(debian_component(name, packages[name], *(("required", "compiled in") if name.endswith("-dev") else
                                                             ("excluded", "builds and tests"))))
    return rows


def pypi_components():
    found = {}
    for path in sorted((ROOT / "tools/setup").glob("requirements-*.txt")):
        environment = path.stem.removeprefix("requirements-")
        for line in names_in(path.relative_to(ROOT)):
            name, version = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", line).groups()
            name = re.sub(r"[-_.]+", "-", name).lower()
            row = found.setdefault((name, version), {
                "type": "library", "bom-ref": f"pypi:{name}@{version}", "name": name, "version": version,
                "scope": "optional" if name == "pyarrow" else "excluded", "purl": f"pkg:pypi/{name}@{version}",
                "properties": []})
            row["properties"].append({"name": "siglip:environment", "value": environment})
            if digest := re.search(r"--hash=sha256:([0-9a-f]{64})", line):
                row["hashes"] = [{"alg": "SHA-256", "content": digest[1]}]
    return [found[key] for key in sorted(found)]


def model_component():
    path = ROOT / "models/demo/model.safetensors"
    return {"type": "machine-learning-model", "bom-ref": "model:demo", "name": "siglip-demo", "scope": "optional",
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]}


def document():
    version = re.search(r"project\(siglip VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]
    components = [*debian_components(), *pypi_components(), model_component()]
    needed = [row["bom-ref"] for row in components if row["scope"] != "excluded"]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([version, components], sort_keys=True))
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "siglip", "name": "siglip", "version": version,
                                   "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
        "dependencies": [{"ref": "siglip", "dependsOn": needed}],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    print()
