#include "checkpoint/json_fields.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace siglip {
namespace {

using nlohmann::json;

// Enough to recognise the value by.
constexpr std::size_t kMaxShownBytes = 60;

template <class T>
std::string RangeText(const char* type, T min, T max) {
  return absl::StrCat(type, " in ", min, "..", max);
}

}  // namespace

std::string ShortDump(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

JsonFields::JsonFields(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) Fail("expected a JSON object, got " + ShortDump(object));
}

const json* JsonFields::Find(const char* key) const {
  if (!status_.ok()) return nullptr;
  const auto it = object_.find(key);
  return it == object_.end() ? nullptr : &*it;
}

bool JsonFields::Has(const char* key) const {
  const json* found = Find(key);
  return found != nullptr && !found->is_null();
}

void JsonFields::Fail(const std::string& what) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what));
}

void JsonFields::FailKey(const char* key, const std::string& expected, const json& got) {
  Fail(absl::StrCat("\"", key, "\": expected ", expected, ", got ", ShortDump(got)));
}

void JsonFields::Read(const char* key, std::int64_t& value, std::int64_t min, std::int64_t max) {
  const json* found = Find(key);
  if (found == nullptr) return;
  const bool fits = found->is_number_integer() &&
                    (!found->is_number_unsigned() || found->get<std::uint64_t>() <= INT64_MAX);
  if (!fits || found->get<std::int64_t>() < min || found->get<std::int64_t>() > max) {
    return FailKey(key, RangeText("an integer", min, max), *found);
  }
  value = found->get<std::int64_t>();
}

void JsonFields::Read(const char* key, double& value, double min, double max) {
  const json* found = Find(key);
  if (found == nullptr) return;
  const double number = found->is_number() ? found->get<double>() : min - 1;
  if (!(number >= min && number <= max)) {
    return FailKey(key, RangeText("a number", min, max), *found);
  }
  value = number;
}

void JsonFields::Read(const char* key, float& value, float min, float max) {
  const json* found = Find(key);
  if (found != nullptr && !found->is_number_float()) {
    return FailKey(key, "a number with a point or an exponent", *found);
  }
  double wide = static_cast<double>(value);
  Read(key, wide, static_cast<double>(min), static_cast<double>(max));
  value = static_cast<float>(wide);
}

void JsonFields::Read(const char* key, bool& value) {
  const json* found = Find(key);
  if (found == nullptr) return;
  if (!found->is_boolean()) return FailKey(key, "true or false", *found);
  value = found->get<bool>();
}

void JsonFields::Read(const char* key, std::string& value) {
  const json* found = Find(key);
  if (found == nullptr) return;
  if (!found->is_string()) return FailKey(key, "a string", *found);
  value = found->get<std::string>();
}

}  // namespace siglip
