#include "text/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "checkpoint/json.h"
#include "checkpoint/json_fields.h"

namespace siglip {
namespace {

using nlohmann::json;

// transformers' SPECIAL_TOKENS_ATTRIBUTES, in its order.
constexpr std::array<std::string_view, 7> kTokenNames = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
constexpr std::size_t kBos = 0, kEos = 1, kUnk = 2, kPad = 4, kMask = 6;

// A file's name and a place in it, for errors.
struct ConfigPlace {
  std::string text;
  ConfigPlace At(const std::string& key) const { return {absl::StrCat(text, ": \"", key, "\"")}; }
  absl::Status Expected(const std::string& what, const json& got) const {
    return absl::InvalidArgumentError(
        absl::StrCat(text, ": expected ", what, ", got ", ShortDump(got)));
  }
};

AddedToken SpecialToken(std::string content) {
  AddedToken token;
  token.content = std::move(content);
  token.special = true;
  return token;
}

bool IsTyped(const json& value) {
  const auto type = value.is_object() ? value.find("__type") : value.end();
  return value.is_object() && type != value.end() && *type == "AddedToken";
}

absl::Status ReadTokenFlag(const json& object, const char* key, const ConfigPlace& place,
                           bool& flag) {
  const auto found = object.find(key);
  if (found == object.end()) return absl::OkStatus();
  if (!found->is_boolean()) return place.At(key).Expected("true or false", *found);
  flag = found->get<bool>();
  return absl::OkStatus();
}

// A string, which is special, or an AddedToken written as an object.
absl::StatusOr<AddedToken> ReadTokenValue(const json& value, const ConfigPlace& place) {
  AddedToken token;
  if (value.is_string()) {
    token = SpecialToken(value.get<std::string>());
  } else {
    const auto content = value.is_object() ? value.find("content") : value.end();
    if (!value.is_object() || content == value.end() || !content->is_string()) {
      return place.Expected("a string or an object with \"content\"", value);
    }
    token.content = content->get<std::string>();
    SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(value, "special", place, token.special));
    bool single_word = false;
    SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(value, "lstrip", place, token.lstrip));
    SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(value, "rstrip", place, token.rstrip));
    if (value.contains("normalized")) {
      SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(value, "normalized", place, token.normalized.emplace()));
    }
    SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(value, "single_word", place, single_word));
    if (single_word) return place.At("single_word").Expected("false", true);
  }
  if (token.content.size() > kMaxAddedTokenBytes) {
    return place.Expected(absl::StrCat("at most ", kMaxAddedTokenBytes, " bytes"), value);
  }
  return token;
}

// The tokens that the files name, from which a class makes those that it finds in a text.
class NamedTokens {
 public:
  explicit NamedTokens(TokenizerKind kind) {
    const bool siglip = kind == TokenizerKind::kSiglip;
    named_[kEos] = SpecialToken(siglip ? "</s>" : "<eos>");
    named_[kUnk] = SpecialToken("<unk>");
    named_[kPad] = SpecialToken(siglip ? "</s>" : "<pad>");
    if (siglip) return;
    named_[kBos] = SpecialToken("<bos>");
    named_[kMask] = SpecialToken("<mask>");
  }

  // Of tokenizer_config.json, then of special_tokens_map.json, which counts more.
  absl::Status ReadConfig(const json& root, const ConfigPlace& place) {
    for (const auto& [key, value] : root.items()) {
      SIGLIP_RETURN_IF_ERROR(ReadNamed(key, value, IsTyped(value), place.At(key)));
    }
    const json extra = root.value("extra_special_tokens", json());
    const auto additional = root.find("additional_special_tokens");
    extra_given_ = root.contains("extra_special_tokens") || additional != root.end();
    const bool additional_counts = additional != root.end() && (extra.is_null() || extra.empty());
    SIGLIP_RETURN_IF_ERROR(ReadExtra(
        additional_counts ? *additional : extra,
        place.At(additional_counts ? "additional_special_tokens" : "extra_special_tokens")));
    return ReadOfModel(root, place);
  }

  absl::Status ReadSpecialTokensMap(const json& root, const ConfigPlace& place) {
    for (const auto& [key, value] : root.items()) {
      SIGLIP_RETURN_IF_ERROR(ReadNamed(key, value, value.is_object(), place.At(key)));
    }
    if (root.contains("extra_special_tokens")) {
      return ReadExtra(root["extra_special_tokens"], place.At("extra_special_tokens"));
    }
    if (extra_given_ || !root.contains("additional_special_tokens")) return absl::OkStatus();
    return ReadExtra(root["additional_special_tokens"], place.At("additional_special_tokens"));
  }

  // The named and the extra tokens that a file names; without those whose names are the model's
  // own.
  std::set<std::string> Contents() const {
    std::set<std::string> contents;
    for (std::size_t i = 0; i < named_.size(); ++i) {
      if (in_file_[i] && named_[i]) contents.insert(named_[i]->content);
    }
    for (const AddedToken& token : extra_) contents.insert(token.content);
    return contents;
  }

  absl::Status Fill(const ConfigPlace& place, TokenizerConfig& config) const {
    config.eos_token = named_[kEos]->content;
    config.unk_token = named_[kUnk]->content;
    config.pad_token = named_[kPad]->content;
    std::vector<AddedToken>& tokens = config.special_tokens;
    for (const auto& token : named_) {
      if (token) tokens.push_back(*token);
    }
    std::set<std::string> listed;
    for (const AddedToken& added : config.added_tokens) listed.insert(added.content);
    std::string without_id;
    for (const auto& [name, token] : of_model_) {
      tokens.push_back(token);
      if (listed.contains(token.content)) continue;
      // The order of an object's keys is not kept here, and ids that the class gives follow it.
      if (!without_id.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat(place.text, ": \"", without_id, "\" and \"", name,
                         "\": expected in added_tokens_decoder, as there are several"));
      }
      without_id = name;
    }
    for (AddedToken& token : tokens) token.special = true;
    config.num_named = tokens.size();
    tokens.insert(tokens.end(), extra_.begin(), extra_.end());
    return absl::OkStatus();
  }

 private:
  // `is_object`: an object counts as a token even if its name is the model's own.
  absl::Status ReadNamed(const std::string& key, const json& value, bool is_object,
                         const ConfigPlace& place) {
    const auto name = std::find(kTokenNames.begin(), kTokenNames.end(), key);
    if (name == kTokenNames.end()) {
      if (!key.ends_with("_token") || (!value.is_string() && !is_object)) return absl::OkStatus();
      SIGLIP_ASSIGN_OR_RETURN(of_model_[key], ReadTokenValue(value, place));
      return absl::OkStatus();
    }
    const auto i = static_cast<std::size_t>(name - kTokenNames.begin());
    if (value.is_null() && i != kEos && i != kUnk && i != kPad) {
      named_[i].reset();
      return absl::OkStatus();
    }
    SIGLIP_ASSIGN_OR_RETURN(named_[i], ReadTokenValue(value, place));
    in_file_[i] = true;
    return absl::OkStatus();
  }

  // What transformers 5 writes beside the same tokens under their own names, which take its place.
  absl::Status ReadOfModel(const json& root, const ConfigPlace& place) {
    constexpr const char* kKey = "model_specific_special_tokens";
    const json tokens = root.value(kKey, json());
    if (tokens.is_null() || !of_model_.empty()) return absl::OkStatus();
    if (!tokens.is_object())
      return place.At(kKey).Expected("an object of names and tokens", tokens);
    for (const auto& [name, token] : tokens.items()) {
      SIGLIP_ASSIGN_OR_RETURN(of_model_[name], ReadTokenValue(token, place.At(kKey).At(name)));
    }
    return absl::OkStatus();
  }

  // A list, or an object of names and tokens.
  absl::Status ReadExtra(const json& value, const ConfigPlace& place) {
    if (value.is_null()) return absl::OkStatus();
    if (!value.is_object() && !value.is_array()) {
      return place.Expected("an array or an object of tokens", value);
    }
    if (value.is_object()) extra_given_ = false;
    for (const auto& [key, one] : value.items()) {
      SIGLIP_ASSIGN_OR_RETURN(AddedToken token, ReadTokenValue(one, place.At(key)));
      if (value.is_object()) {
        of_model_[key] = std::move(token);
      } else {
        extra_.push_back(std::move(token));
      }
    }
    return absl::OkStatus();
  }

  std::array<std::optional<AddedToken>, kTokenNames.size()> named_;
  std::array<bool, kTokenNames.size()> in_file_ = {};
  std::map<std::string, AddedToken> of_model_;  // "image_token" for instance
  std::vector<AddedToken> extra_;
  bool extra_given_ = false;  // in tokenizer_config.json, be it an empty list
};

// An id as the key of an object.
absl::StatusOr<std::int64_t> ReadIdText(const std::string& id, const ConfigPlace& place) {
  if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string::npos) {
    return place.Expected("an id as key", id);
  }
  return std::stoll(id);
}

// Later ones of the same id take the place of earlier ones; by id.
void SortById(std::vector<AddedToken>& tokens) {
  std::map<std::int64_t, AddedToken> by_id;
  for (AddedToken& token : tokens) by_id[token.id] = std::move(token);
  tokens.clear();
  for (auto& [id, token] : by_id) tokens.push_back(std::move(token));
}

absl::Status ReadAddedTokensDecoder(const json& value, const ConfigPlace& place,
                                    std::vector<AddedToken>& tokens) {
  if (!value.is_object()) return place.Expected("an object of ids and tokens", value);
  for (const auto& [id, one] : value.items()) {
    if (!one.is_object()) return place.At(id).Expected("an object with \"content\"", one);
    SIGLIP_ASSIGN_OR_RETURN(AddedToken token, ReadTokenValue(one, place.At(id)));
    SIGLIP_ASSIGN_OR_RETURN(token.id, ReadIdText(id, place.At(id)));
    tokens.push_back(std::move(token));
  }
  SortById(tokens);
  return absl::OkStatus();
}

// The oldest form: tokens and their ids.
absl::Status ReadAddedTokensJson(const json& root, const ConfigPlace& place,
                                 const std::set<std::string>& special,
                                 std::vector<AddedToken>& tokens) {
  for (const auto& [content, id] : root.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > INT32_MAX) {
      return place.At(content).Expected("an id from 0 to 2147483647", id);
    }
    SIGLIP_ASSIGN_OR_RETURN(AddedToken token, ReadTokenValue(content, place.At(content)));
    token.id = id.get<std::int64_t>();
    token.special = special.contains(content);
    token.normalized = !token.special;
    tokens.push_back(std::move(token));
  }
  std::set<std::int64_t> ids;
  for (const AddedToken& token : tokens) {
    // Which one counts would depend on the order in the file.
    if (!ids.insert(token.id).second)
      return place.At(token.content).Expected("an id of its own", token.id);
  }
  SortById(tokens);
  return absl::OkStatus();
}

absl::Status ReadMaxLength(const json& root, const ConfigPlace& place, TokenizerConfig& config) {
  const bool old_name = config.kind == TokenizerKind::kSiglip2 &&
                        !root.contains("model_max_length") && root.contains("max_len");
  const char* key = old_name ? "max_len" : "model_max_length";
  const auto found = root.find(key);
  if (found == root.end()) return absl::OkStatus();
  if (found->is_null()) {
    config.model_max_length = INT64_MAX;
    return absl::OkStatus();
  }
  // "No limit" is written as 10^30.
  const double length = found->is_number() ? found->get<double>() : 0;
  if (!(length >= 1)) return place.At(key).Expected("a number from 1", *found);
  config.model_max_length = length < 1e15 ? static_cast<std::int64_t>(length) : INT64_MAX;
  return absl::OkStatus();
}

absl::Status ReadSide(const json& root, const char* key, const ConfigPlace& place,
                      std::optional<TextSide>& side) {
  const auto found = root.find(key);
  if (found == root.end()) return absl::OkStatus();
  if (*found != "left" && *found != "right") {
    return place.At(key).Expected("\"left\" or \"right\"", *found);
  }
  side = *found == "left" ? TextSide::kLeft : TextSide::kRight;
  return absl::OkStatus();
}

absl::Status ReadSettings(const json& root, const ConfigPlace& place, TokenizerConfig& config) {
  SIGLIP_RETURN_IF_ERROR(ReadMaxLength(root, place, config));
  SIGLIP_RETURN_IF_ERROR(ReadSide(root, "padding_side", place, config.padding_side));
  SIGLIP_RETURN_IF_ERROR(ReadSide(root, "truncation_side", place, config.truncation_side));
  SIGLIP_RETURN_IF_ERROR(
      ReadTokenFlag(root, "split_special_tokens", place, config.split_special_tokens));
  if (config.kind == TokenizerKind::kSiglip2) return absl::OkStatus();
  SIGLIP_RETURN_IF_ERROR(ReadTokenFlag(root, "do_lower_case", place, config.do_lower_case));
  // Sampling, for instance.
  const json arguments = root.value("sp_model_kwargs", json());
  if (arguments.is_null() || arguments.empty()) return absl::OkStatus();
  return place.At("sp_model_kwargs").Expected("none", arguments);
}

absl::StatusOr<json> ParseObject(const std::string& text, const ConfigPlace& place) {
  SIGLIP_ASSIGN_OR_RETURN(json root, ParseStrictJson(text, place.text));
  if (!root.is_object()) return place.Expected("a JSON object", root);
  return root;
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(const TokenizerFiles& files,
                                                     TokenizerKind kind) {
  TokenizerConfig config;
  config.kind = kind;
  if (kind == TokenizerKind::kSiglip2) config.model_max_length = INT64_MAX;
  const ConfigPlace place{files.directory + "/tokenizer_config.json"};
  NamedTokens named(kind);
  if (files.tokenizer_config) {
    SIGLIP_ASSIGN_OR_RETURN(const json root, ParseObject(*files.tokenizer_config, place));
    SIGLIP_RETURN_IF_ERROR(ReadSettings(root, place, config));
    SIGLIP_RETURN_IF_ERROR(named.ReadConfig(root, place));
    const char* key = "added_tokens_decoder";
    config.has_added_tokens_decoder = root.contains(key);
    if (config.has_added_tokens_decoder) {
      SIGLIP_RETURN_IF_ERROR(ReadAddedTokensDecoder(root[key], place.At(key), config.added_tokens));
    }
  }
  if (files.special_tokens_map && !config.has_added_tokens_decoder) {
    const ConfigPlace map_place{files.directory + "/special_tokens_map.json"};
    SIGLIP_ASSIGN_OR_RETURN(const json root, ParseObject(*files.special_tokens_map, map_place));
    SIGLIP_RETURN_IF_ERROR(named.ReadSpecialTokensMap(root, map_place));
  }
  if (files.added_tokens && !config.has_added_tokens_decoder) {
    const ConfigPlace added_place{files.directory + "/added_tokens.json"};
    SIGLIP_ASSIGN_OR_RETURN(const json root, ParseObject(*files.added_tokens, added_place));
    SIGLIP_RETURN_IF_ERROR(
        ReadAddedTokensJson(root, added_place, named.Contents(), config.added_tokens));
  }
  SIGLIP_RETURN_IF_ERROR(named.Fill(place, config));
  return config;
}

TokenizerConfig DefaultTokenizerConfig(TokenizerKind kind) {
  return *ParseTokenizerConfig({}, kind);
}

void AddTokensOfTokenizerJson(std::vector<AddedToken> tokens, TokenizerConfig& config) {
  if (config.has_added_tokens_decoder) return;
  config.added_tokens.insert(config.added_tokens.end(), std::make_move_iterator(tokens.begin()),
                             std::make_move_iterator(tokens.end()));
  SortById(config.added_tokens);
}

}  // namespace siglip
