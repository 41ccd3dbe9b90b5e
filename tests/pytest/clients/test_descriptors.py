"""Our .proto files against the descriptors compiled into tritonclient: every message, field, number, type and method
of theirs, of those that ours have too."""

import subprocess

import pytest
from google.protobuf import descriptor_pb2

from tritonclient.grpc import model_config_pb2, service_pb2

from conftest import ROOT

PROTO = ROOT / "src" / "protocol" / "proto"


def messages(nested, prefix=""):
    """{full name: message} of a list of DescriptorProto and what is within them."""
    found = {}
    for message in nested:
        name = f"{prefix}{message.name}"
        found[name] = message
        found |= messages(message.nested_type, f"{name}.")
    return found


def fields(message):
    """{name: what the wire depends on}. A map's entry and an enum are types of their own, told by name."""
    return {field.name: (field.number, field.type, field.label, field.type_name.removeprefix("."),
                         bool(field.HasField("oneof_index"))) for field in message.field}


def enums(file):
    found = {enum.name: enum for enum in file.enum_type}
    for name, message in messages(file.message_type).items():
        found |= {f"{name}.{enum.name}": enum for enum in message.enum_type}
    return {name: {value.name: value.number for value in enum.value} for name, enum in found.items()}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    target = tmp_path_factory.mktemp("descriptors") / "all.bin"
    subprocess.run(["protoc", f"-I{PROTO}", f"--descriptor_set_out={target}", "grpc_service.proto",
                    "model_config.proto"], check=True)
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    return {file.name: file for file in descriptors.file}


def theirs(module):
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


@pytest.mark.parametrize("name, module", [("grpc_service.proto", service_pb2),
                                          ("model_config.proto", model_config_pb2)])
def test_messages_and_enums_are_tritonclients(ours, name, module):
    own, other = ours[name], theirs(module)
    assert own.package == other.package == "inference"
    mine, reference = messages(own.message_type), messages(other.message_type)
    assert sorted(mine) == sorted(reference)
    for message in reference:
        assert fields(mine[message]) == fields(reference[message]), message
    assert enums(own) == enums(other)


def test_methods_are_tritonclients(ours):
    own, other = ours["grpc_service.proto"].service[0], theirs(service_pb2).service[0]
    assert own.name == other.name

    def methods(service):
        return {m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in service.method}
    assert methods(own) == methods(other)


def test_the_comparison_sees_a_changed_number(ours):
    changed = descriptor_pb2.FileDescriptorProto()
    changed.CopyFrom(ours["grpc_service.proto"])
    message = messages(changed.message_type)["ModelInferRequest"]
    before = fields(message)
    message.field[0].number += 100
    assert fields(message) != before
