#include "api/inspect.h"

#include <algorithm>
#include <map>
#include <optional>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/snapshot_folder.h"
#include "text/tokenizer.h"

namespace siglip {
namespace {

// Extra tensors named in the text form; the JSON form has all.
constexpr std::size_t kMaxNamed = 10;

std::string TowerText(const TowerConfig& tower) {
  return absl::StrCat(tower.num_hidden_layers, " layers, width ", tower.hidden_size, ", ",
                      tower.num_attention_heads, " heads of ", tower.head_dim(), ", MLP ",
                      tower.intermediate_size, ", eps ", tower.layer_norm_eps);
}

std::string ResolutionText(const VisionConfig& vision) {
  if (vision.naflex()) {
    return absl::StrCat("NaFlex, patch ", vision.patch_size, ", positions ", vision.table_side, "x",
                        vision.table_side);
  }
  return absl::StrCat(vision.image_size, " px, patch ", vision.patch_size, " -> ",
                      vision.patches_per_side(), "x", vision.patches_per_side(), " = ",
                      vision.num_patches(), " tokens");
}

// As most files mean it; else every digit, as each changes pixels.
std::string ScaleText(double factor) {
  return factor == 1.0 / 255 ? "1/255" : absl::StrFormat("%.17g", factor);
}

void DescribeConfig(const SiglipConfig& config, InspectReport& report) {
  const VisionConfig& vision = config.vision;
  report.facts.emplace_back("embedding", absl::StrCat("D = ", config.embedding_size()));
  report.facts.emplace_back("vision tower",
                            absl::StrCat(TowerText(vision), "; ", ResolutionText(vision)));
  report.facts.emplace_back(
      "text tower", absl::StrCat(TowerText(config.text), "; vocabulary ", config.text.vocab_size,
                                 ", ", config.text.max_position_embeddings, " positions"));
}

void DescribeWeights(const Checkpoint& checkpoint, InspectReport& report) {
  std::map<std::string, int> dtypes;
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    ++dtypes[tensor.dtype_name];
    bytes += tensor.bytes.size();
  }
  std::vector<std::string> parts;
  for (const auto& [dtype, count] : dtypes) parts.push_back(absl::StrCat(count, " ", dtype));
  report.facts.emplace_back(
      "weights", absl::StrFormat("%d parameters, %.1f MB in %d file(s); tensors: %s",
                                 checkpoint.num_parameters(), static_cast<double>(bytes) * 1e-6,
                                 checkpoint.weight_files().size(), absl::StrJoin(parts, ", ")));
  report.facts.emplace_back("logit", absl::StrCat("scale ", checkpoint.logit_scale(),
                                                  " (before exp), bias ", checkpoint.logit_bias()));
  report.extra_tensors = checkpoint.extra_tensors();
}

// A failure becomes a problem.
template <class T>
std::optional<T> ValueOrProblem(absl::StatusOr<T> value, InspectReport& report) {
  if (value.ok()) return *std::move(value);
  report.problems.emplace_back(value.status().message());
  return std::nullopt;
}

}  // namespace

InspectReport InspectCheckpoint(const std::string& directory) {
  InspectReport report;
  report.directory = directory;
  if (const absl::Status folder = CheckSnapshotFolder(directory); !folder.ok()) {
    report.problems.emplace_back(folder.message());
    return report;
  }
  const auto config = ValueOrProblem(ReadSiglipConfig(directory), report);
  if (config) DescribeConfig(*config, report);
  const bool naflex = config && config->vision.naflex();
  const auto preprocessor = ValueOrProblem(ReadPreprocessorConfig(directory, naflex), report);
  if (preprocessor) {
    const std::string size = naflex ? absl::StrCat("at most ", preprocessor->max_num_patches,
                                                   " patches of ", preprocessor->patch_size, " px")
                                    : absl::StrCat(preprocessor->image_size, " px");
    report.facts.emplace_back(
        "preprocessing",
        absl::StrCat(size, ", ", preprocessor->resample == 2 ? "bilinear" : "bicubic", ", scale ",
                     ScaleText(preprocessor->rescale_factor), ", mean ",
                     absl::StrJoin(preprocessor->image_mean, " "), ", std ",
                     absl::StrJoin(preprocessor->image_std, " ")));
  }
  // Checkpoint::Open reads both files again: when they are bad its error is a repetition.
  if (config && preprocessor) {
    const auto checkpoint = Checkpoint::Open(directory);
    if (checkpoint.ok()) {
      DescribeWeights(*checkpoint, report);
    } else {
      report.problems.emplace_back(checkpoint.status().message());
    }
  }
  const TextConfig text = config ? config->text : TextConfig();
  const auto tokenizer = Tokenizer::Open(directory, text.max_position_embeddings,
                                         config ? text.vocab_size : INT32_MAX);
  if (tokenizer.ok()) {
    report.facts.emplace_back("tokenizer", (*tokenizer)->Describe());
  } else {
    report.problems.emplace_back(tokenizer.status().message());
  }
  return report;
}

std::string InspectReport::Text() const {
  std::string text = absl::StrCat(directory, "\n");
  for (const auto& [name, value] : facts)
    absl::StrAppendFormat(&text, "  %-14s %s\n", name, Printable(value));
  if (!extra_tensors.empty()) {
    const std::size_t named = std::min(extra_tensors.size(), kMaxNamed);
    absl::StrAppendFormat(
        &text, "  %-14s %d not needed: %s%s\n", "extra tensors", extra_tensors.size(),
        Printable(absl::StrJoin(extra_tensors.begin(),
                                extra_tensors.begin() + static_cast<std::ptrdiff_t>(named), ", ")),
        named < extra_tensors.size() ? ", ..." : "");
  }
  for (const std::string& problem : problems)
    absl::StrAppend(&text, "  PROBLEM        ", Printable(problem), "\n");
  absl::StrAppend(&text,
                  ok() ? "complete: it can be served\n" : "incomplete: it cannot be served\n");
  return text;
}

std::string InspectReport::Json() const {
  nlohmann::ordered_json json;
  json["directory"] = directory;
  json["complete"] = ok();
  for (const auto& [name, value] : facts) json["facts"][name] = value;
  json["extra_tensors"] = extra_tensors;
  json["problems"] = problems;
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace siglip
