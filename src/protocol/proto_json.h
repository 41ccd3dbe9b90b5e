#pragma once

// A protobuf message as JSON the way Triton's HTTP door prints it: the proto's own names, primitive
// fields with their default values, empty lists and maps, 64-bit integers as numbers.

#include <string>

#include <google/protobuf/message.h>

namespace siglip {

void AppendProtoJson(const google::protobuf::Message& message, std::string& json);
std::string ProtoJson(const google::protobuf::Message& message);

}  // namespace siglip
