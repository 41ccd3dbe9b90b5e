#include "protocol/proto_json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/reflection.h>

#include "base/json_text.h"
#include "protocol/json_writer.h"

namespace siglip {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// One reader for singular fields (index -1) and elements of repeated ones.
class FieldValue {
 public:
  FieldValue(const Message& message, const FieldDescriptor& field, int index)
      : message_(message), reflection_(*message.GetReflection()), field_(field), index_(index) {}

  void Append(std::string& json) const {
    switch (field_.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        AppendJsonInt(Get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32), json);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        AppendJsonInt(Get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64), json);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        AppendJsonUint(Get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32), json);
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        AppendJsonUint(Get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64), json);
        break;
      case FieldDescriptor::CPPTYPE_FLOAT:
        AppendJsonFloat(Get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat), json);
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        AppendJsonDouble(Get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble), json);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        json += Get(&Reflection::GetBool, &Reflection::GetRepeatedBool) ? "true" : "false";
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        AppendJsonString(Get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum)->name(), json);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        AppendJsonString(Text(), json);
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        AppendProtoJson(index_ < 0 ? reflection_.GetMessage(message_, &field_)
                                   : reflection_.GetRepeatedMessage(message_, &field_, index_),
                        json);
        break;
    }
  }

  // The key of a map entry, which JSON wants as a string.
  void AppendAsKey(std::string& json) const {
    if (field_.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      Append(json);
      return;
    }
    json += '"';
    Append(json);
    json += '"';
  }

 private:
  template <class T>
  T Get(T (Reflection::*singular)(const Message&, const FieldDescriptor*) const,
        T (Reflection::*repeated)(const Message&, const FieldDescriptor*, int) const) const {
    if (index_ < 0) return (reflection_.*singular)(message_, &field_);
    return (reflection_.*repeated)(message_, &field_, index_);
  }

  std::string Text() const {
    return index_ < 0 ? reflection_.GetString(message_, &field_)
                      : reflection_.GetRepeatedString(message_, &field_, index_);
  }

  const Message& message_;
  const Reflection& reflection_;
  const FieldDescriptor& field_;
  const int index_;
};

void AppendMapEntry(const Message& entry, std::string& json) {
  const auto& fields = *entry.GetDescriptor();
  FieldValue(entry, *fields.field(0), -1).AppendAsKey(json);
  json += ':';
  FieldValue(entry, *fields.field(1), -1).Append(json);
}

void AppendRepeated(const Message& message, const FieldDescriptor& field, std::string& json) {
  const Reflection& reflection = *message.GetReflection();
  json += field.is_map() ? '{' : '[';
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    if (i != 0) json += ',';
    if (field.is_map()) {
      AppendMapEntry(reflection.GetRepeatedMessage(message, &field, i), json);
    } else {
      FieldValue(message, field, i).Append(json);
    }
  }
  json += field.is_map() ? '}' : ']';
}

bool IsPrinted(const Message& message, const FieldDescriptor& field) {
  const bool chosen = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE ||
                      field.real_containing_oneof() != nullptr;
  return field.is_repeated() || !chosen || message.GetReflection()->HasField(message, &field);
}

}  // namespace

void AppendProtoJson(const Message& message, std::string& json) {
  const auto& descriptor = *message.GetDescriptor();
  json += '{';
  bool first = true;
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (!IsPrinted(message, field)) continue;
    if (!first) json += ',';
    first = false;
    AppendJsonString(field.name(), json);
    json += ':';
    if (field.is_repeated()) {
      AppendRepeated(message, field, json);
    } else {
      FieldValue(message, field, -1).Append(json);
    }
  }
  json += '}';
}

std::string ProtoJson(const Message& message) {
  std::string json;
  AppendProtoJson(message, json);
  return json;
}

}  // namespace siglip
