#pragma once

// Typed reading of JSON objects with errors that name the key, what was expected and what came.

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"

namespace siglip {

// Reads fields of one object. The first error stays; later reads do nothing. Confined to one
// thread.
class JsonFields {
 public:
  // `where` starts every message: "config.json: vision_config". Borrows `object`.
  JsonFields(const nlohmann::json& object, std::string where);

  // An absent key leaves `value` as it is; null is of the wrong type, as in transformers' configs.
  void Read(const char* key, std::int64_t& value, std::int64_t min, std::int64_t max);
  // Python's float: a number with a point or an exponent.
  void Read(const char* key, float& value, float min, float max);
  void Read(const char* key, double& value, double min, double max);
  void Read(const char* key, bool& value);
  void Read(const char* key, std::string& value);

  // Whether it is there and not null.
  bool Has(const char* key) const;
  // An error of the caller's own about this object.
  void Fail(const std::string& what);

  const absl::Status& status() const { return status_; }

 private:
  // A null pointer if the key is absent, or an error happened before.
  const nlohmann::json* Find(const char* key) const;
  void FailKey(const char* key, const std::string& expected, const nlohmann::json& got);

  const nlohmann::json& object_;
  const std::string where_;
  absl::Status status_;
};

// A short form of a value for messages.
std::string ShortDump(const nlohmann::json& value);

}  // namespace siglip
