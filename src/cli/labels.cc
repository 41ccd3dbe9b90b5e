#include "cli/labels.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/byte_order_mark.h"
#include "base/file_map.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "bulk/row_format.h"

namespace siglip::cli {
namespace {

// A million labels of a line each; this only bounds a wrong file.
constexpr std::uint64_t kMaxLabelsBytes = 64u << 20;
// A few lines; this only bounds a wrong file.
constexpr std::uint64_t kMaxTemplatesBytes = 1 << 20;
constexpr int kBarColumns = 30;
constexpr std::size_t kSynsetChars = 9;

// The lines of a text file that are not blank, without what editors put around them.
absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path,
                                                   std::uint64_t max_bytes) {
  SIGLIP_ASSIGN_OR_RETURN(std::string text, ReadInputFile(path, max_bytes));
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  for (std::string& line : lines) {
    if (line.ends_with('\r')) line.pop_back();
  }
  return lines;
}

// The stripped, non-empty ones of `parts`.
absl::StatusOr<std::vector<std::string>> CheckedLabels(const std::vector<std::string>& parts,
                                                       const std::string& where) {
  std::vector<std::string> labels;
  std::set<std::string> seen;
  for (const std::string& part : parts) {
    std::string label(absl::StripAsciiWhitespace(part));
    if (label.empty()) continue;
    if (!seen.insert(label).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": expected every label once, got \"", label, "\" twice"));
    }
    labels.push_back(std::move(label));
  }
  if (labels.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": expected labels, got none"));
  }
  return labels;
}

// n, eight digits, and white space or nothing: "n01440764 tench".
bool HasSynset(std::string_view label) {
  return label.size() >= kSynsetChars && label[0] == 'n' &&
         std::all_of(label.begin() + 1, label.begin() + kSynsetChars,
                     [](unsigned char c) { return absl::ascii_isdigit(c); }) &&
         (label.size() == kSynsetChars || absl::ascii_isspace(label[kSynsetChars]));
}

// "tench" for "n01440764 tench". Classes of one name stay apart: the real list has two cranes.
absl::StatusOr<std::vector<std::string>> WithoutSynsets(const std::vector<std::string>& labels,
                                                        const std::string& where) {
  std::vector<std::string> names;
  std::map<std::string, int> times;
  for (const std::string& label : labels) {
    names.emplace_back(absl::StripLeadingAsciiWhitespace(label.substr(kSynsetChars)));
    if (names.back().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": expected a synset and a name, got only \"", label, "\""));
    }
    ++times[names.back()];
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (times[names[i]] > 1) {
      absl::StrAppend(&names[i], " (", labels[i].substr(0, kSynsetChars), ")");
    }
  }
  return names;
}

class TableWriter final : public AnswerWriter {
 public:
  std::string Image(std::string_view name, const std::vector<ScoredLabel>& labels) override {
    std::size_t width = 0;
    for (const ScoredLabel& label : labels) {
      width = std::max(width, Printable(label.label).size());
    }
    std::string text = Printable(name) + "\n";
    for (const ScoredLabel& label : labels) {
      const auto filled = static_cast<std::size_t>(label.probability * kBarColumns + 0.5);
      absl::StrAppendFormat(&text, "  %-*s  %6.2f %%  %s\n", static_cast<int>(width),
                            Printable(label.label), 100 * label.probability,
                            std::string(filled, '#'));
    }
    return text;
  }
};

std::string JsonObject(std::string_view name, const std::vector<ScoredLabel>& labels) {
  std::string text = absl::StrCat("{\"image\":", bulk::JsonString(name), ",\"labels\":[");
  for (std::size_t k = 0; k < labels.size(); ++k) {
    absl::StrAppend(&text, k > 0 ? "," : "", "{\"label\":", bulk::JsonString(labels[k].label),
                    ",\"probability\":");
    bulk::AppendJsonFloat(static_cast<float>(labels[k].probability), text);
    text += '}';
  }
  return text + "]}";
}

class JsonlWriter final : public AnswerWriter {
 public:
  std::string Image(std::string_view name, const std::vector<ScoredLabel>& labels) override {
    return JsonObject(name, labels) + '\n';
  }
};

class JsonWriter final : public AnswerWriter {
 public:
  std::string Begin() override { return "["; }
  std::string Image(std::string_view name, const std::vector<ScoredLabel>& labels) override {
    std::string text = absl::StrCat(first_ ? "\n" : ",\n", JsonObject(name, labels));
    first_ = false;
    return text;
  }
  std::string End() override { return "\n]\n"; }

 private:
  bool first_ = true;
};

std::string CsvField(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  return absl::StrCat("\"", absl::StrReplaceAll(std::string(text), {{"\"", "\"\""}}), "\"");
}

class CsvWriter final : public AnswerWriter {
 public:
  std::string Begin() override { return "image,rank,label,probability\n"; }
  std::string Image(std::string_view name, const std::vector<ScoredLabel>& labels) override {
    std::string text;
    for (std::size_t k = 0; k < labels.size(); ++k) {
      absl::StrAppend(&text, CsvField(name), ",", k + 1, ",", CsvField(labels[k].label), ",");
      bulk::AppendJsonFloat(static_cast<float>(labels[k].probability), text);
      text += '\n';
    }
    return text;
  }
};

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseLabels(std::string_view list) {
  return CheckedLabels(absl::StrSplit(std::string(list), ','), "--labels");
}

absl::StatusOr<std::vector<std::string>> ReadLabels(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> lines, ReadLines(path, kMaxLabelsBytes));
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> labels, CheckedLabels(lines, path));
  if (!std::all_of(labels.begin(), labels.end(), HasSynset)) return labels;
  return WithoutSynsets(labels, path);
}

absl::StatusOr<std::vector<std::string>> ReadTemplates(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> lines, ReadLines(path, kMaxTemplatesBytes));
  if (!lines.empty()) return lines;
  return absl::InvalidArgumentError(absl::StrCat(path, ": expected templates, got none"));
}

std::unique_ptr<AnswerWriter> AnswerWriter::Create(std::string_view format) {
  if (format == "table") return std::make_unique<TableWriter>();
  if (format == "json") return std::make_unique<JsonWriter>();
  if (format == "csv") return std::make_unique<CsvWriter>();
  return std::make_unique<JsonlWriter>();
}

}  // namespace siglip::cli
