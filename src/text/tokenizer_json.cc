#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <simdjson.h>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/gemma_tokenizer.h"

namespace siglip {
namespace {

// 34 MB with a million strings are read at each start, so not with the JSON library of the other
// files.
using json = simdjson::dom::element;

constexpr const char* kUnderline = "\xe2\x96\x81";  // U+2581, the mark of a space

// The file's name and a place in it, for errors.
class Place {
 public:
  Place(std::string source, std::string key) : source_(std::move(source)), key_(std::move(key)) {}
  Place At(std::string_view key) const { return {source_, key_ + "." + std::string(key)}; }
  Place At(std::size_t i) const { return {source_, absl::StrCat(key_, "[", i, "]")}; }
  absl::Status Expected(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": ", key_, ": expected ", what));
  }

 private:
  std::string source_, key_;
};

// Nothing if it is absent or null in the file, or `value` is no object.
std::optional<json> Find(const json& value, std::string_view key) {
  json found;
  if (value[key].get(found) != simdjson::SUCCESS || found.is_null()) return std::nullopt;
  return found;
}

std::optional<std::string_view> FindText(const json& value, std::string_view key) {
  const std::optional<json> found = Find(value, key);
  std::string_view text;
  if (!found || found->get(text) != simdjson::SUCCESS) return std::nullopt;
  return text;
}

std::optional<simdjson::dom::array> FindArray(const json& value, std::string_view key) {
  const std::optional<json> found = Find(value, key);
  simdjson::dom::array array;
  if (!found || found->get(array) != simdjson::SUCCESS) return std::nullopt;
  return array;
}

std::string TypeOf(const json& value) { return std::string(FindText(value, "type").value_or("")); }

absl::StatusOr<std::int64_t> ReadId(const std::optional<json>& value, const Place& place) {
  std::uint64_t id = 0;
  if (!value || value->get(id) != simdjson::SUCCESS || id > std::uint64_t{INT32_MAX}) {
    return place.Expected("an id from 0 to 2147483647");
  }
  return static_cast<std::int64_t>(id);
}

absl::Status ReadBool(const json& object, const char* key, const Place& place, bool& value) {
  const std::optional<json> found = Find(object, key);
  if (!found || found->get(value) == simdjson::SUCCESS) return absl::OkStatus();
  return place.At(key).Expected("true or false");
}

absl::StatusOr<AddedToken> ReadJsonAddedToken(const json& value, const Place& place) {
  AddedToken token;
  const std::optional<std::string_view> content = FindText(value, "content");
  if (!content) return place.Expected("an object with \"content\"");
  token.content = *content;
  SIGLIP_ASSIGN_OR_RETURN(token.id, ReadId(Find(value, "id"), place.At("id")));
  bool single_word = false;
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "lstrip", place, token.lstrip));
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "rstrip", place, token.rstrip));
  if (Find(value, "normalized")) {
    SIGLIP_RETURN_IF_ERROR(ReadBool(value, "normalized", place, token.normalized.emplace()));
  }
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "special", place, token.special));
  SIGLIP_RETURN_IF_ERROR(ReadBool(value, "single_word", place, single_word));
  if (single_word) return place.At("single_word").Expected("false");
  if (token.content.size() > kMaxAddedTokenBytes) {
    return place.At("content").Expected(absl::StrCat("at most ", kMaxAddedTokenBytes, " bytes"));
  }
  return token;
}

// {"pattern": {"String": " "}}
bool IsOfSpaces(const json& step) {
  const std::optional<json> pattern = Find(step, "pattern");
  return pattern && FindText(*pattern, "String") == " ";
}

// Lowercase is what the class puts in front anyway.
absl::Status CheckNormalizer(const json& root, const Place& place) {
  std::vector<json> steps;
  if (const std::optional<json> normalizer = Find(root, "normalizer")) {
    if (const auto sequence = FindArray(*normalizer, "normalizers")) {
      for (const json step : *sequence) steps.push_back(step);
    } else {
      steps.push_back(*normalizer);
    }
  }
  if (!steps.empty() && TypeOf(steps[0]) == "Lowercase") steps.erase(steps.begin());
  if (steps.size() == 1 && TypeOf(steps[0]) == "Replace" && IsOfSpaces(steps[0]) &&
      FindText(steps[0], "content") == kUnderline) {
    return absl::OkStatus();
  }
  return place.Expected(absl::StrCat("Gemma's: Replace \" \" by \"", kUnderline, "\""));
}

// Gemma's splits at spaces, of which its normalizer has left none.
absl::Status CheckPreTokenizer(const json& root, const Place& place) {
  const std::optional<json> step = Find(root, "pre_tokenizer");
  if (!step || (TypeOf(*step) == "Split" && IsOfSpaces(*step))) return absl::OkStatus();
  return place.Expected("none, or Gemma's: Split at \" \"");
}

// ["a", "b"], or as older files write it "a b".
bool ReadMerge(const json& merge, std::pair<std::string, std::string>& pair) {
  std::string_view left, right;
  simdjson::dom::array both;
  if (merge.get(both) == simdjson::SUCCESS) {
    if (both.size() != 2 || both.at(0).get(left) != simdjson::SUCCESS ||
        both.at(1).get(right) != simdjson::SUCCESS) {
      return false;
    }
  } else {
    if (merge.get(left) != simdjson::SUCCESS) return false;
    const std::size_t space = left.find(' ');
    if (space == std::string_view::npos || left.find(' ', space + 1) != std::string_view::npos) {
      return false;
    }
    right = left.substr(space + 1);
    left = left.substr(0, space);
  }
  pair = {std::string(left), std::string(right)};
  return true;
}

absl::Status ReadMerges(const simdjson::dom::array& merges, const Place& place,
                        BpeModel::Options& options) {
  for (const json merge : merges) {
    std::pair<std::string, std::string>& pair = options.merges.emplace_back();
    if (!ReadMerge(merge, pair)) {
      return place.At(options.merges.size() - 1)
          .Expected("two pieces, as an array or with a space between them");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& root, const Place& place, BpeModel::Options& options) {
  const std::optional<json> model = Find(root, "model");
  if (!model || !model->is_object()) return place.Expected("an object");
  // Old files do not say it.
  if (const std::string type = TypeOf(*model); type != "BPE" && !type.empty()) {
    return place.At("type").Expected(absl::StrCat("BPE (SigLIP 2), got ", type));
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (Find(*model, key) && FindText(*model, key) != "") return place.At(key).Expected("none");
  }
  if (const std::optional<json> dropout = Find(*model, "dropout")) {
    double share = 1;
    if (dropout->get(share) != simdjson::SUCCESS || share != 0) {
      return place.At("dropout").Expected("none");
    }
  }
  // byte_fallback, fuse_unk, ignore_merges and unk_token are not read by the class, which has its
  // own.
  const std::optional<json> vocabulary = Find(*model, "vocab");
  simdjson::dom::object pieces;
  if (!vocabulary || vocabulary->get(pieces) != simdjson::SUCCESS) {
    return place.At("vocab").Expected("an object of pieces and ids");
  }
  for (const auto& [piece, value] : pieces) {
    const absl::StatusOr<std::int64_t> id = ReadId(value, place);
    if (!id.ok()) return place.At("vocab").At(piece).Expected("an id from 0 to 2147483647");
    options.vocabulary.emplace_back(piece, static_cast<BpeModel::Id>(*id));
  }
  const auto merges = FindArray(*model, "merges");
  if (!merges) return place.At("merges").Expected("an array");
  return ReadMerges(*merges, place.At("merges"), options);
}

// The ids of a special token that a template names.
absl::Status AppendSpecialToken(const json& processor, std::string_view name, const Place& place,
                                std::vector<std::int64_t>& ids) {
  const std::optional<json> tokens = Find(processor, "special_tokens");
  const std::optional<json> token = tokens ? Find(*tokens, name) : std::nullopt;
  const auto values = token ? FindArray(*token, "ids") : std::nullopt;
  if (!values) return place.At("special_tokens").At(name).Expected("an object with \"ids\"");
  for (const json value : *values) {
    SIGLIP_ASSIGN_OR_RETURN(const std::int64_t id, ReadId(value, place.At("special_tokens")));
    ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const json& root, const Place& place, TokenizerJson& result) {
  const std::optional<json> processor = Find(root, "post_processor");
  if (!processor) return absl::OkStatus();
  const auto single = FindArray(*processor, "single");
  if (TypeOf(*processor) != "TemplateProcessing" || !single) {
    return place.Expected(absl::StrCat("none or TemplateProcessing, got ", TypeOf(*processor)));
  }
  bool after_text = false;
  for (const json part : *single) {
    if (Find(part, "Sequence") && !after_text) {
      after_text = true;
      continue;
    }
    const std::optional<json> special = Find(part, "SpecialToken");
    const auto name = special ? FindText(*special, "id") : std::nullopt;
    if (!name) return place.At("single").Expected("special tokens around one text");
    SIGLIP_RETURN_IF_ERROR(
        AppendSpecialToken(*processor, *name, place, after_text ? result.suffix : result.prefix));
  }
  if (!after_text) return place.At("single").Expected("special tokens around one text");
  return absl::OkStatus();
}

// Of "padding" and "truncation" only the side counts: whether and how far is decided here.
absl::Status ReadDirection(const json& root, const char* key, const std::string& source,
                           std::optional<TextSide>& side) {
  const std::optional<json> settings = Find(root, key);
  if (!settings) return absl::OkStatus();
  const auto direction = FindText(*settings, "direction");
  if (direction != "Left" && direction != "Right") {
    return Place(source, key).At("direction").Expected("Left or Right");
  }
  side = direction == "Left" ? TextSide::kLeft : TextSide::kRight;
  return absl::OkStatus();
}

// Borrows from `parser`.
absl::StatusOr<json> ParseRoot(std::string_view text, const std::string& source,
                               simdjson::dom::parser& parser) {
  if (text.empty())
    return absl::InvalidArgumentError(source + ": expected a JSON object, got no bytes");
  json root;
  if (const auto error = parser.parse(text.data(), text.size()).get(root);
      error != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", simdjson::error_message(error)));
  }
  if (!root.is_object()) return absl::InvalidArgumentError(source + ": expected a JSON object");
  return root;
}

absl::StatusOr<std::vector<AddedToken>> ReadJsonAddedTokens(const json& root,
                                                            const std::string& source) {
  const Place place(source, "added_tokens");
  const auto added = FindArray(root, "added_tokens");
  if (!added) return place.Expected("an array");
  std::vector<AddedToken> tokens;
  for (const json value : *added) {
    SIGLIP_ASSIGN_OR_RETURN(AddedToken token, ReadJsonAddedToken(value, place.At(tokens.size())));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokensOfTokenizerJson(std::string_view text,
                                                                        const std::string& source) {
  simdjson::dom::parser parser;
  SIGLIP_ASSIGN_OR_RETURN(const json root, ParseRoot(text, source, parser));
  return ReadJsonAddedTokens(root, source);
}

absl::StatusOr<TokenizerJson> ParseTokenizerJson(std::string_view text, const std::string& source) {
  simdjson::dom::parser parser;
  SIGLIP_ASSIGN_OR_RETURN(const json root, ParseRoot(text, source, parser));
  TokenizerJson result;
  SIGLIP_RETURN_IF_ERROR(ReadModel(root, Place(source, "model"), result.model));
  SIGLIP_RETURN_IF_ERROR(CheckNormalizer(root, Place(source, "normalizer")));
  SIGLIP_RETURN_IF_ERROR(CheckPreTokenizer(root, Place(source, "pre_tokenizer")));
  SIGLIP_RETURN_IF_ERROR(ReadPostProcessor(root, Place(source, "post_processor"), result));
  SIGLIP_RETURN_IF_ERROR(ReadDirection(root, "padding", source, result.padding_side));
  SIGLIP_RETURN_IF_ERROR(ReadDirection(root, "truncation", source, result.truncation_side));
  if (Find(root, "added_tokens")) {
    SIGLIP_ASSIGN_OR_RETURN(result.added_tokens, ReadJsonAddedTokens(root, source));
  }
  return result;
}

}  // namespace siglip
