"""Checks KServe's resources against the tables in the classes of its Python SDK (PyPI: kserve)."""

import importlib
import importlib.util
import json
import pathlib
import re
import sys
import types

import jsonschema
import kubernetes_validate
import referencing

KUBERNETES = "1.37"  # whose types KServe's refer to
DEFINITIONS = (pathlib.Path(kubernetes_validate.__file__).parent /
               f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict/_definitions.json")
SIMPLE = {"str": str, "int": int, "bool": bool}


class SchemaError(AssertionError):
    """A field that KServe or Kubernetes does not know, or whose value has another type."""


def load_models():
    """kserve.models without the SDK's own __init__, which wants servers and clouds."""
    folder = pathlib.Path(importlib.util.find_spec("kserve").submodule_search_locations[0])
    for name, path in (("kserve", folder), ("kserve.models", folder / "models")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    sys.modules["kserve.configuration"] = types.ModuleType("kserve.configuration")
    sys.modules["kserve.configuration"].Configuration = object


load_models()


class Checker:
    def __init__(self):
        definitions = json.loads(DEFINITIONS.read_text())
        self.core = definitions["$defs"]
        resource = referencing.Resource.from_contents(definitions)
        self.registry = referencing.Registry().with_resource("urn:core", resource)

    def check(self, document):
        version = document["apiVersion"].rsplit("/", 1)[1]
        self.check_value(document, version.capitalize() + document["kind"], document["kind"])

    def check_value(self, value, kind, where):
        if kind in SIMPLE:
            self.require(isinstance(value, SIMPLE[kind]), where, f"expected {kind}, got {value!r}")
        elif found := re.fullmatch(r"list\[(.+)\]", kind):
            self.require(isinstance(value, list), where, f"expected a list, got {value!r}")
            for index, inner in enumerate(value):
                self.check_value(inner, found[1], f"{where}[{index}]")
        elif found := re.fullmatch(r"dict\(str, (.+)\)", kind):
            for key, inner in value.items():
                self.check_value(inner, found[1], f"{where}.{key}")
        elif re.match("V1(alpha|beta)", kind):
            self.check_own(value, kind, where)
        else:
            self.check_core(value, kind, where)

    def check_own(self, value, kind, where):
        self.require(isinstance(value, dict), where, f"expected fields of {kind}, got {value!r}")
        module = re.sub("(?<=.)([A-Z])", r"_\1", kind).lower()
        table = getattr(importlib.import_module(f"kserve.models.{module}"), kind)
        fields = {table.attribute_map[field]: inner for field, inner in table.openapi_types.items()}
        for key, inner in value.items():
            self.require(key in fields, where, f"expected one of {sorted(fields)}, got {key}")
            self.check_value(inner, fields[key], f"{where}.{key}")

    def check_core(self, value, kind, where):
        name = kind.removeprefix("V1")
        full = next((full for full in self.core if full.endswith((f".core.v1.{name}", f".meta.v1.{name}"))), None)
        self.require(full, where, f"no definition of {kind}")
        schema = {"$ref": f"urn:core#/$defs/{full}"}
        try:
            jsonschema.Draft202012Validator(schema, registry=self.registry).validate(value)
        except jsonschema.ValidationError as error:
            raise SchemaError(f"{where}: {error.message}") from error

    @staticmethod
    def require(condition, where, message):
        if not condition:
            raise SchemaError(f"{where}: {message}")
