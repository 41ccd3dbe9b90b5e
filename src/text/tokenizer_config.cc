#include <cstdint>
#include <exception>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/sentencepiece_tokenizer.h"

namespace siglip {
namespace {

using nlohmann::json;

// A text, or an AddedToken written as an object.
absl::Status ReadToken(const json& root, const char* key, const std::string& source,
                       std::string& content) {
  const auto found = root.find(key);
  if (found == root.end() || found->is_null()) return absl::OkStatus();
  if (found->is_string()) {
    content = found->get<std::string>();
    return absl::OkStatus();
  }
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    content = (*found)["content"].get<std::string>();
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": \"", key, "\": expected a string or an object with \"content\""));
}

absl::StatusOr<AddedToken> ReadAddedToken(const std::string& id, const json& value,
                                          const std::string& source) {
  const auto bad = [&](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": added_tokens_decoder[\"", id, "\"]: ", what));
  };
  AddedToken token;
  // Absent fields have the defaults of the tokenizers library, not of the class.
  token.lstrip = token.rstrip = token.special = false;
  if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos) {
    return bad("expected an id as key");
  }
  token.id = std::stoll(id);
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    return bad("expected an object with \"content\"");
  }
  token.content = value["content"].get<std::string>();
  for (auto [key, flag] : {std::pair<const char*, bool*>{"lstrip", &token.lstrip},
                           {"rstrip", &token.rstrip},
                           {"special", &token.special}}) {
    if (!value.contains(key)) continue;
    if (!value[key].is_boolean()) return bad("expected true or false");
    *flag = value[key].get<bool>();
  }
  if (value.contains("single_word") && value["single_word"] == true) {
    return bad("\"single_word\": true is not supported");
  }
  return token;
}

absl::Status ReadMaxLength(const json& root, const std::string& source,
                           SiglipTokenizerConfig& config) {
  const auto found = root.find("model_max_length");
  if (found == root.end() || found->is_null()) return absl::OkStatus();
  // "No limit" is written as 10^30.
  const double length = found->is_number() ? found->get<double>() : 0;
  if (!(length >= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": \"model_max_length\": expected a number from 1"));
  }
  config.model_max_length = length < 1e15 ? static_cast<std::int64_t>(length) : INT64_MAX;
  return absl::OkStatus();
}

absl::Status ReadSide(const json& root, const char* key, const std::string& source,
                      std::optional<TextSide>& side) {
  const auto found = root.find(key);
  if (found == root.end()) return absl::OkStatus();
  if (*found != "left" && *found != "right") {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": \"", key, "\": expected \"left\" or \"right\""));
  }
  side = *found == "left" ? TextSide::kLeft : TextSide::kRight;
  return absl::OkStatus();
}

absl::Status ReadFlag(const json& root, const char* key, const std::string& source, bool& flag) {
  const auto found = root.find(key);
  if (found == root.end()) return absl::OkStatus();
  if (!found->is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": \"", key, "\": expected true or false"));
  }
  flag = found->get<bool>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SiglipTokenizerConfig> ParseSiglipTokenizerConfig(std::string_view text,
                                                                 const std::string& source,
                                                                 SiglipTokenizerConfig defaults) {
  json root;
  try {
    root = json::parse(text.begin(), text.end());
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", error.what()));
  }
  if (!root.is_object()) return absl::InvalidArgumentError(source + ": expected a JSON object");
  SiglipTokenizerConfig config = std::move(defaults);
  SIGLIP_RETURN_IF_ERROR(ReadToken(root, "eos_token", source, config.eos_token));
  SIGLIP_RETURN_IF_ERROR(ReadToken(root, "unk_token", source, config.unk_token));
  SIGLIP_RETURN_IF_ERROR(ReadToken(root, "pad_token", source, config.pad_token));
  SIGLIP_RETURN_IF_ERROR(ReadMaxLength(root, source, config));
  SIGLIP_RETURN_IF_ERROR(ReadSide(root, "padding_side", source, config.padding_side));
  SIGLIP_RETURN_IF_ERROR(ReadSide(root, "truncation_side", source, config.truncation_side));
  SIGLIP_RETURN_IF_ERROR(ReadFlag(root, "do_lower_case", source, config.do_lower_case));
  SIGLIP_RETURN_IF_ERROR(
      ReadFlag(root, "split_special_tokens", source, config.split_special_tokens));
  const auto added = root.find("added_tokens_decoder");
  if (added != root.end() && added->is_object()) {
    for (const auto& [id, value] : added->items()) {
      SIGLIP_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(id, value, source));
      config.added_tokens.push_back(std::move(token));
    }
  }
  return config;
}

}  // namespace siglip
