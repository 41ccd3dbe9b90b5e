// `siglip classify`: zero-shot classification of image files.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/embedding_writer.h"
#include "cli/image_files.h"
#include "cli/image_pipeline.h"
#include "cli/model_flags.h"
#include "cli/report.h"
#include "cli/zero_shot.h"

namespace siglip::cli {
namespace {

struct ClassifyFlags {
  ModelFlags model;
  std::vector<std::string> paths;
  std::string labels;
  std::vector<std::string> templates;
  int top = 5;
  bool json = false;
};

constexpr int kBarColumns = 30;

void PrintTable(const std::string& path, const ZeroShotClassifier& classifier,
                const std::vector<double>& probabilities, const std::vector<std::size_t>& order) {
  std::size_t width = 0;
  for (const std::size_t i : order) width = std::max(width, classifier.labels()[i].size());
  std::printf("%s\n", path.c_str());
  for (const std::size_t i : order) {
    const auto filled = static_cast<std::size_t>(probabilities[i] * kBarColumns + 0.5);
    std::printf("  %-*s  %6.2f %%  %s\n", static_cast<int>(width), classifier.labels()[i].c_str(),
                100 * probabilities[i], std::string(filled, '#').c_str());
  }
}

void PrintJson(const std::string& path, const ZeroShotClassifier& classifier,
               const std::vector<double>& probabilities, const std::vector<std::size_t>& order) {
  std::string line = absl::StrCat("{\"image\":", JsonString(path), ",\"labels\":[");
  for (std::size_t k = 0; k < order.size(); ++k) {
    absl::StrAppend(&line, k > 0 ? "," : "",
                    "{\"label\":", JsonString(classifier.labels()[order[k]]), ",\"probability\":");
    AppendJsonFloat(static_cast<float>(probabilities[order[k]]), line);
    line += '}';
  }
  std::printf("%s]}\n", line.c_str());
}

absl::StatusOr<std::vector<std::string>> ParseLabels(const std::string& list) {
  std::vector<std::string> labels;
  const std::vector<std::string> parts = absl::StrSplit(list, ',', absl::SkipWhitespace());
  for (const std::string& part : parts) {
    labels.emplace_back(absl::StripAsciiWhitespace(part));
  }
  if (labels.empty()) return absl::InvalidArgumentError("--labels: expected label,label,...");
  return labels;
}

// Returns how many files failed.
absl::StatusOr<std::size_t> ClassifyAll(const ClassifyFlags& flags,
                                        const std::vector<std::string>& files) {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> labels, ParseLabels(flags.labels));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  SIGLIP_ASSIGN_OR_RETURN(const ZeroShotClassifier classifier,
                          ZeroShotClassifier::Create(*model, std::move(labels), flags.templates));
  std::size_t num_failed = 0;
  const auto print = [&](std::size_t i, const absl::Status& status,
                         std::span<const float> embedding) {
    if (!status.ok()) {
      ++num_failed;
      std::cerr << "failed: " << files[i] << ": " << status.message() << '\n';
      return;
    }
    const std::vector<double> probabilities = classifier.Probabilities(embedding);
    std::vector<std::size_t> order(probabilities.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return probabilities[a] > probabilities[b];
    });
    order.resize(std::min(order.size(), static_cast<std::size_t>(flags.top)));
    (flags.json ? PrintJson : PrintTable)(files[i], classifier, probabilities, order);
  };
  SIGLIP_RETURN_IF_ERROR(EmbedImageFiles(*model, files, PipelineOptions{}, print));
  return num_failed;
}

int Classify(const ClassifyFlags& flags) {
  const auto files = ExpandImagePaths(flags.paths);
  if (!files.ok()) return Fail(files.status());
  const auto num_failed = ClassifyAll(flags, *files);
  if (!num_failed.ok()) return Fail(num_failed.status());
  if (*num_failed == 0) return kSuccess;
  return *num_failed == files->size() ? kFailure : kSomeFailed;
}

}  // namespace

void AddClassifyCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<ClassifyFlags>();
  flags->templates = {"A photo of {text}."};
  CLI::App* command = app.add_subcommand(
      "classify", "Zero-shot classification: SigLIP's sigmoid probability of each label");
  AddModelFlags(*command, flags->model, true);
  command->add_option("paths", flags->paths, "Image files and folders")->required();
  command->add_option("--labels", flags->labels, "label,label,...")->required();
  command
      ->add_option("--template", flags->templates,
                   "Text around the label, with {text}; repeatable, then averaged")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->capture_default_str();
  command->add_option("--top", flags->top, "Labels shown per image")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object per image");
  command->callback([flags, &run] { run = [flags] { return Classify(*flags); }; });
}

}  // namespace siglip::cli
