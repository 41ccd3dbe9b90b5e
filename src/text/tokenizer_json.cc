#include <exception>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/gemma_tokenizer.h"

namespace siglip {
namespace {

using nlohmann::json;

constexpr const char* kUnderline = "\xe2\x96\x81";  // U+2581, the mark of a space

// The file's name and a place in it, for errors.
class Place {
 public:
  Place(std::string source, std::string key) : source_(std::move(source)), key_(std::move(key)) {}
  Place At(const std::string& key) const { return {source_, key_ + "." + key}; }
  Place At(std::size_t i) const { return {source_, absl::StrCat(key_, "[", i, "]")}; }
  absl::Status Expected(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": ", key_, ": expected ", what));
  }

 private:
  std::string source_, key_;
};

// Null if it is absent or null in the file.
const json* Find(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TypeOf(const json& object) {
  const json* type = Find(object, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : std::string();
}

absl::StatusOr<std::int64_t> ReadId(const json* value, const Place& place) {
  if (value == nullptr || !value->is_number_unsigned() || *value > std::uint64_t{INT32_MAX}) {
    return place.Expected("an id from 0 to 2147483647");
  }
  return value->get<std::int64_t>();
}

absl::Status ReadBool(const json& object, const char* key, const Place& place, bool& value) {
  const json* found = Find(object, key);
  if (found == nullptr) return absl::OkStatus();
  if (!found->is_boolean()) return place.At(key).Expected("true or false");
  value = found->get<bool>();
  return absl::OkStatus();
}

absl::StatusOr<JsonAddedToken> ReadAddedToken(const json& value, const Place& place) {
  JsonAddedToken token;
  const json* content = Find(value, "content");
  if (content == nullptr || !content->is_string()) {
    return place.Expected("an object with \"content\"");
  }
  token.content = content->get<std::string>();
  SIGLIP_ASSIGN_OR_RETURN(token.id, ReadId(Find(value, "id"), place.At("id")));
  bool single_word = false;
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "lstrip", place, token.lstrip));
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "rstrip", place, token.rstrip));
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "normalized", place, token.normalized));
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "single_word", place, single_word));
  if (single_word) return place.At("single_word").Expected("false");
  return token;
}

bool IsSpaceToUnderline(const json& normalizer) {
  const json* pattern = Find(normalizer, "pattern");
  const json* content = Find(normalizer, "content");
  return TypeOf(normalizer) == "Replace" && pattern != nullptr &&
         *pattern == json{{"String", " "}} && content != nullptr && *content == kUnderline;
}

// Lowercase is what the class puts in front anyway.
absl::Status CheckNormalizer(const json& root, const Place& place) {
  const json* normalizer = Find(root, "normalizer");
  json steps = json::array();
  if (normalizer != nullptr) {
    const json* sequence = Find(*normalizer, "normalizers");
    if (TypeOf(*normalizer) == "Sequence" && sequence != nullptr && sequence->is_array()) {
      steps = *sequence;
    } else {
      steps.push_back(*normalizer);
    }
  }
  if (!steps.empty() && TypeOf(steps[0]) == "Lowercase") steps.erase(0);
  if (steps.size() == 1 && IsSpaceToUnderline(steps[0])) return absl::OkStatus();
  return place.Expected(absl::StrCat("Gemma's: Replace \" \" by \"", kUnderline, "\""));
}

// Gemma's splits at spaces, of which its normalizer has left none.
absl::Status CheckPreTokenizer(const json& root, const Place& place) {
  const json* pre_tokenizer = Find(root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) return absl::OkStatus();
  const json* pattern = Find(*pre_tokenizer, "pattern");
  if (TypeOf(*pre_tokenizer) == "Split" && pattern != nullptr &&
      *pattern == json{{"String", " "}}) {
    return absl::OkStatus();
  }
  return place.Expected("none, or Gemma's: Split at \" \"");
}

absl::Status ReadMerges(const json& merges, const Place& place, BpeModel::Options& options) {
  if (!merges.is_array()) return place.Expected("an array");
  options.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const json& merge = merges[i];
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      options.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return place.At(i).Expected("two pieces, as an array or with a space between them");
    }
    options.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& root, const Place& place, BpeModel::Options& options) {
  const json* model = Find(root, "model");
  if (model == nullptr || !model->is_object()) return place.Expected("an object");
  // Old files do not say it.
  if (const std::string type = TypeOf(*model); type != "BPE" && !type.empty()) {
    return place.At("type").Expected(absl::StrCat("BPE (SigLIP 2), got ", type));
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const json* value = Find(*model, key);
    if (value != nullptr && *value != "" && *value != 0) return place.At(key).Expected("none");
  }
  options.byte_fallback = options.fuse_unk = false;  // defaults of the library
  SIGLIP_RETURN_IF_ERROR(ReadBool(*model, "byte_fallback", place, options.byte_fallback));
  SIGLIP_RETURN_IF_ERROR(ReadBool(*model, "fuse_unk", place, options.fuse_unk));
  SIGLIP_RETURN_IF_ERROR(ReadBool(*model, "ignore_merges", place, options.ignore_merges));
  if (const json* unk = Find(*model, "unk_token")) {
    if (!unk->is_string()) return place.At("unk_token").Expected("a string");
    options.unk_token = unk->get<std::string>();
  }
  const json* vocabulary = Find(*model, "vocab");
  if (vocabulary == nullptr || !vocabulary->is_object()) {
    return place.At("vocab").Expected("an object of pieces and ids");
  }
  options.vocabulary.reserve(vocabulary->size());
  for (const auto& [piece, value] : vocabulary->items()) {
    SIGLIP_ASSIGN_OR_RETURN(const std::int64_t id, ReadId(&value, place.At("vocab").At(piece)));
    options.vocabulary.emplace_back(piece, static_cast<BpeModel::Id>(id));
  }
  const json* merges = Find(*model, "merges");
  if (merges == nullptr) return place.At("merges").Expected("an array");
  return ReadMerges(*merges, place.At("merges"), options);
}

// The ids of a special token that a template names.
absl::Status AppendSpecialToken(const json& processor, const std::string& name, const Place& place,
                                std::vector<std::int64_t>& ids) {
  const json* tokens = Find(processor, "special_tokens");
  const json* token = tokens == nullptr ? nullptr : Find(*tokens, name.c_str());
  const json* values = token == nullptr ? nullptr : Find(*token, "ids");
  if (values == nullptr || !values->is_array()) {
    return place.At("special_tokens").At(name).Expected("an object with \"ids\"");
  }
  for (const json& value : *values) {
    SIGLIP_ASSIGN_OR_RETURN(const std::int64_t id, ReadId(&value, place.At("special_tokens")));
    ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const json& root, const Place& place, TokenizerJson& result) {
  const json* processor = Find(root, "post_processor");
  if (processor == nullptr) return absl::OkStatus();
  const json* single = Find(*processor, "single");
  if (TypeOf(*processor) != "TemplateProcessing" || single == nullptr || !single->is_array()) {
    return place.Expected(absl::StrCat("none or TemplateProcessing, got ", TypeOf(*processor)));
  }
  bool after_text = false;
  for (const json& part : *single) {
    if (Find(part, "Sequence") != nullptr && !after_text) {
      after_text = true;
      continue;
    }
    const json* special = Find(part, "SpecialToken");
    const json* name = special == nullptr ? nullptr : Find(*special, "id");
    if (name == nullptr || !name->is_string()) {
      return place.At("single").Expected("special tokens around one text");
    }
    SIGLIP_RETURN_IF_ERROR(AppendSpecialToken(*processor, name->get<std::string>(), place,
                                              after_text ? result.suffix : result.prefix));
  }
  if (!after_text) return place.At("single").Expected("special tokens around one text");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerJson> ParseTokenizerJson(std::string_view text, const std::string& source) {
  json root;
  try {
    root = json::parse(text.begin(), text.end());
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", error.what()));
  }
  if (!root.is_object()) return absl::InvalidArgumentError(source + ": expected a JSON object");
  TokenizerJson result;
  SIGLIP_RETURN_IF_ERROR(ReadModel(root, Place(source, "model"), result.model));
  SIGLIP_RETURN_IF_ERROR(CheckNormalizer(root, Place(source, "normalizer")));
  SIGLIP_RETURN_IF_ERROR(CheckPreTokenizer(root, Place(source, "pre_tokenizer")));
  SIGLIP_RETURN_IF_ERROR(ReadPostProcessor(root, Place(source, "post_processor"), result));
  if (const json* added = Find(root, "added_tokens")) {
    const Place place(source, "added_tokens");
    if (!added->is_array()) return place.Expected("an array");
    for (std::size_t i = 0; i < added->size(); ++i) {
      SIGLIP_ASSIGN_OR_RETURN(JsonAddedToken token, ReadAddedToken((*added)[i], place.At(i)));
      result.added_tokens.push_back(std::move(token));
    }
  }
  return result;
}

}  // namespace siglip
