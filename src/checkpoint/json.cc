#include "checkpoint/json.h"

#include <cstdint>
#include <exception>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

using nlohmann::json;

// Real files nest less than 10 deep; this keeps the parser's recursion far from the stack's end.
constexpr std::size_t kMaxDepth = 64;

// Builds the document through nlohmann's own DOM builder and watches keys and depth on the way.
class StrictBuilder final : public json::json_sax_t {
 public:
  explicit StrictBuilder(json& result) : builder_(result, false) {}

  bool null() override { return builder_.null(); }
  bool boolean(bool value) override { return builder_.boolean(value); }
  bool number_integer(json::number_integer_t value) override {
    return builder_.number_integer(value);
  }
  bool number_unsigned(json::number_unsigned_t value) override {
    return builder_.number_unsigned(value);
  }
  bool number_float(json::number_float_t value, const std::string& text) override {
    return builder_.number_float(value, text);
  }
  bool string(std::string& value) override { return builder_.string(value); }
  bool binary(json::binary_t& value) override { return builder_.binary(value); }
  bool start_object(std::size_t elements) override {
    if (!Descend()) return false;
    keys_.emplace_back();
    return builder_.start_object(elements);
  }
  bool key(std::string& name) override {
    if (!keys_.back().insert(name).second) {
      error_ = absl::StrCat("duplicate key \"", name, "\"");
      return false;
    }
    return builder_.key(name);
  }
  bool end_object() override {
    --depth_;
    keys_.pop_back();
    return builder_.end_object();
  }
  bool start_array(std::size_t elements) override {
    return Descend() && builder_.start_array(elements);
  }
  bool end_array() override {
    --depth_;
    return builder_.end_array();
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    error_ = absl::StrCat("not valid JSON at byte ", position);
    return false;
  }

  const std::string& error() const { return error_; }

 private:
  bool Descend() {
    if (++depth_ <= kMaxDepth) return true;
    error_ = absl::StrCat("nested deeper than ", kMaxDepth);
    return false;
  }

  nlohmann::detail::json_sax_dom_parser<json> builder_;
  std::vector<std::set<std::string>> keys_;
  std::size_t depth_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(std::string_view text, const std::string& source) {
  json result;
  StrictBuilder builder(result);
  try {
    if (json::sax_parse(text.begin(), text.end(), &builder)) return result;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", error.what()));
  }
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", builder.error()));
}

absl::StatusOr<json> ReadJsonFile(const std::string& path, std::uint64_t max_bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, max_bytes));
  return ParseStrictJson(text, path);
}

}  // namespace siglip
