#pragma once

// Label lists of `siglip classify`, and how its answers are written.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip::cli {

// label,label,...: white space around each is dropped, empty ones too. InvalidArgument if none is
// left or one is there twice.
absl::StatusOr<std::vector<std::string>> ParseLabels(std::string_view list);

// One label a line. If every line is like ImageNet's LOC_synset_mapping.txt ("n01440764 tench,
// Tinca tinca"), the label is what follows the id. Errors as above, naming the file.
absl::StatusOr<std::vector<std::string>> ReadLabels(const std::string& path);

// One template a line; a byte order mark, the '\r' of lines that end with "\r\n", and blank lines
// are no part of any. InvalidArgument, naming the file, if none is left.
absl::StatusOr<std::vector<std::string>> ReadTemplates(const std::string& path);

struct ScoredLabel {
  std::string_view label;
  double probability = 0;
};

// Writes one image's labels at a time, best first, as one of: table, json (one array of all
// images), jsonl (one object per image), csv (image, rank, label, probability; RFC 4180). Confined
// to one thread.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  // REQUIRES: `format` is one of the four.
  static std::unique_ptr<AnswerWriter> Create(std::string_view format);
  // All return text for stdout.
  virtual std::string Begin() { return ""; }
  virtual std::string Image(std::string_view name, const std::vector<ScoredLabel>& labels) = 0;
  virtual std::string End() { return ""; }
};

}  // namespace siglip::cli
