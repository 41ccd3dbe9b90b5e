"""tools/sbom.py writes what CycloneDX's schema takes, and leaves no list of parts out."""

import copy
import importlib.util
import json
import pathlib
import re
import subprocess

import jsonschema
import pytest
import referencing

import sbom
from conftest import ROOT, owners


@pytest.fixture(name="document", scope="module")
def document_fixture():
    return sbom.document()


@pytest.fixture(name="validator", scope="module")
def validator_fixture():
    folder = pathlib.Path(importlib.util.find_spec("cyclonedx").submodule_search_locations[0]) / "schema/_res"

    def read(uri):
        return referencing.Resource.from_contents(json.loads((folder / pathlib.PurePosixPath(uri).name).read_text()))

    schema = read("bom-1.6.SNAPSHOT.schema.json").contents
    return jsonschema.Draft7Validator(schema, registry=referencing.Registry(retrieve=read))


def test_the_schema_takes_it(document, validator):
    assert not [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize("change", [
    lambda d: d.update(specVersion=1.6), lambda d: d["components"][0].pop("name"),
    lambda d: d["components"][0].update(scope="needed"), lambda d: d.update(serialNumber="1"),
    lambda d: d["metadata"]["component"].update(licenses=[{"license": {"id": "Apache 2"}}])])
def test_the_schema_finds(document, validator, change):
    broken = copy.deepcopy(document)
    change(broken)
    assert list(validator.iter_errors(broken))


def test_references_are_unique_and_known(document):
    references = [row["bom-ref"] for row in document["components"]]
    assert len(set(references)) == len(references)
    assert set(document["dependencies"][0]["dependsOn"]) <= set(references)


def test_every_library_that_is_loaded_is_listed(document, binary):
    """Owners of what the dynamic loader finds, Parquet's apart."""
    loaded = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    files = [pathlib.Path(path).resolve().name for path in re.findall(r"=> (/\S+)", loaded) if ".venv" not in path]
    listed = {row["name"] for row in document["components"] if row["scope"] == "required"}
    assert owners(files) <= listed


def test_every_requirement_is_listed(document):
    listed = {row["purl"] for row in document["components"] if "purl" in row}
    for path in (ROOT / "tools/setup").glob("requirements-*.txt"):
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)\S*==(\S+)", path.read_text(), re.MULTILINE):
            assert f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}" in listed


def test_two_runs_are_equal(document):
    assert sbom.document() == document
