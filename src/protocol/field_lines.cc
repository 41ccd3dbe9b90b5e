#include "protocol/field_lines.h"

#include "protocol/text.h"

namespace siglip {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// What tells an element of a repeated field from the others; empty if nothing does.
std::string NameOf(const Message& element) {
  for (const char* name : {"name", "key"}) {
    const FieldDescriptor* const field = element.GetDescriptor()->FindFieldByName(name);
    if (field == nullptr || field->is_repeated() ||
        field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
      continue;
    }
    return element.GetReflection()->GetString(element, field);
  }
  return {};
}

// Of the first field within; 0 if it has none.
int FirstLine(const Message& message, const TextFormat::ParseInfoTree* tree) {
  int first = 0;
  for (int f = 0; tree != nullptr && f < message.GetDescriptor()->field_count(); ++f) {
    const FieldDescriptor* const field = message.GetDescriptor()->field(f);
    const int line = tree->GetLocation(field, field->is_repeated() ? 0 : -1).line + 1;
    if (line > 0 && (first == 0 || line < first)) first = line;
  }
  return first;
}

void AddLines(const Message& message, const TextFormat::ParseInfoTree& tree,
              const std::string& prefix, std::map<std::string, int>& lines);

void AddNested(const Message& message, const TextFormat::ParseInfoTree* tree,
               const std::string& path, std::map<std::string, int>& lines) {
  if (tree != nullptr) AddLines(message, *tree, path + ".", lines);
}

void AddLines(const Message& message, const TextFormat::ParseInfoTree& tree,
              const std::string& prefix, std::map<std::string, int>& lines) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  for (int f = 0; f < message.GetDescriptor()->field_count(); ++f) {
    const FieldDescriptor* const field = message.GetDescriptor()->field(f);
    const bool repeated = field->is_repeated();
    const int count = repeated ? reflection.FieldSize(message, field) : 1;
    const std::string path = Concat(prefix, field->name());
    if (repeated && count == 0) continue;
    const int first = tree.GetLocation(field, repeated ? 0 : -1).line + 1;
    if (first < 1) continue;  // not in the text
    lines.emplace(path, first);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!repeated) {
      AddNested(reflection.GetMessage(message, field), tree.GetTreeForNested(field, -1), path,
                lines);
      continue;
    }
    // Elements of one list, [ {}, {} ], have one place together.
    const bool has_each = tree.GetLocation(field, count - 1).line >= 0;
    for (int i = 0; i < count; ++i) {
      const Message& element = reflection.GetRepeatedMessage(message, field, i);
      const TextFormat::ParseInfoTree* const inner = tree.GetTreeForNested(field, i);
      const int line = has_each ? tree.GetLocation(field, i).line + 1 : FirstLine(element, inner);
      const std::string name = NameOf(element);
      if (!name.empty() && line > 0) lines.emplace(Concat(path, ".", name), line);
      // Within one of several a path would not say of which.
      if (count == 1) AddNested(element, inner, path, lines);
    }
  }
}

}  // namespace

std::map<std::string, int> FieldLines(const Message& message,
                                      const TextFormat::ParseInfoTree& tree) {
  std::map<std::string, int> lines;
  AddLines(message, tree, "", lines);
  return lines;
}

}  // namespace siglip
