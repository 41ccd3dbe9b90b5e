#pragma once

// Where the fields of a message stand in the text that it was read from.

#include <map>
#include <string>

#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>

namespace siglip {

// Path of a field -> its line, from 1: "max_batch_size", "dynamic_batching.priority_levels". Of a
// repeated field the first one's; one with a name or key has its own beside it, "input.X" and
// "parameters.step". `tree` is what the parser wrote of `message`, which nobody changed since.
std::map<std::string, int> FieldLines(const google::protobuf::Message& message,
                                      const google::protobuf::TextFormat::ParseInfoTree& tree);

}  // namespace siglip
