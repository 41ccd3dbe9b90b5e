// `siglip classify`: zero-shot classification of images in any number.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/zero_shot.h"
#include "base/absl_view.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/row_format.h"
#include "cli/choices.h"
#include "cli/commands.h"
#include "cli/help_format.h"
#include "cli/image_pipeline.h"
#include "cli/input_flags.h"
#include "cli/labels.h"
#include "cli/model_flags.h"
#include "cli/output_places.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace siglip::cli {
namespace {

struct ClassifyFlags {
  ModelFlags model;
  InputFlags inputs;
  std::string labels;
  std::string labels_file;
  std::vector<std::string> templates;
  std::string templates_file;
  std::string format;  // "" = table on a terminal, else jsonl
  bool json = false;
  std::string failures;
  int top = 5;
  PipelineOptions pipeline;
};

absl::StatusOr<std::vector<std::string>> AllLabels(const ClassifyFlags& flags) {
  return flags.labels_file.empty() ? ParseLabels(flags.labels) : ReadLabels(flags.labels_file);
}

absl::StatusOr<std::vector<ScoredLabel>> BestLabels(const ZeroShotClassifier& classifier,
                                                    std::span<const float> embedding, int top) {
  const std::vector<double> probabilities = classifier.Probabilities(embedding);
  if (!std::all_of(probabilities.begin(), probabilities.end(),
                   [](double p) { return std::isfinite(p); })) {
    return absl::DataLossError(
        "expected finite probabilities, got NaN: is the checkpoint damaged?");
  }
  std::vector<std::size_t> order(probabilities.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t count = std::min(order.size(), static_cast<std::size_t>(top));
  // Equal ones in the order of the labels.
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
      [&](std::size_t a, std::size_t b) {
        return probabilities[a] != probabilities[b] ? probabilities[a] > probabilities[b] : a < b;
      });
  std::vector<ScoredLabel> best;
  for (std::size_t k = 0; k < count; ++k) {
    best.push_back({classifier.labels()[order[k]], probabilities[order[k]]});
  }
  return best;
}

std::string FormatOf(const ClassifyFlags& flags) {
  if (flags.json) return "jsonl";
  if (!flags.format.empty()) return flags.format;
  return StdoutIsTerminal() ? "table" : "jsonl";
}

absl::Status Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size()) return absl::OkStatus();
  return absl::ResourceExhaustedError("stdout: writing failed (disk full, or reader gone?)");
}

struct Counts {
  std::uint64_t classified = 0;
  std::uint64_t failed = 0;
};

absl::StatusOr<Counts> ClassifyAll(const ClassifyFlags& flags) {
  SIGLIP_RETURN_IF_ERROR(Usage(CheckTemplates(flags.templates)));
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> labels, Usage(AllLabels(flags)));
  if (flags.inputs.paths.empty() && flags.inputs.files_from.empty()) {
    return Usage(
        absl::InvalidArgumentError("nothing to classify: name images, folders or --files-from"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const bulk::JobItems items, Usage(ListItems(flags.inputs)));
  const std::string lists[] = {flags.inputs.files_from, flags.labels_file, flags.templates_file};
  SIGLIP_RETURN_IF_ERROR(
      Usage(CheckOutputPlaces(std::span(&flags.failures, 1), lists, items.inputs)));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  SIGLIP_ASSIGN_OR_RETURN(const ZeroShotClassifier classifier,
                          ZeroShotClassifier::Create(*model, std::move(labels), flags.templates));
  const std::unique_ptr<AnswerWriter> writer = AnswerWriter::Create(FormatOf(flags));
  Counts counts;
  std::string failures;
  const auto answer = [&](const bulk::Item& item, absl::Status status,
                          std::span<const float> embedding) {
    if (status.ok()) {
      const auto best = BestLabels(classifier, embedding, flags.top);
      if (best.ok()) {
        ++counts.classified;
        return Print(writer->Image(item.name, *best));
      }
      status = best.status();
    }
    ++counts.failed;
    SayFailed(item.name, std::string(status.message()));
    if (!flags.failures.empty()) {
      failures += bulk::FailureLine(item.name, StdView(status.message()));
    }
    return absl::OkStatus();
  };
  SIGLIP_RETURN_IF_ERROR(Print(writer->Begin()));
  const auto source = bulk::OpenItems(items, bulk::Shard{}, bulk::Position{});
  SIGLIP_RETURN_IF_ERROR(EmbedItems(*model, *source, flags.pipeline, answer));
  SIGLIP_RETURN_IF_ERROR(Print(writer->End()));
  if (std::fflush(stdout) != 0) return absl::ErrnoToStatus(errno, "stdout");
  if (!flags.failures.empty()) {
    SIGLIP_RETURN_IF_ERROR(WriteOutputFile(flags.failures, failures));
  }
  return counts;
}

int Classify(ClassifyFlags flags) {
  if (!flags.templates_file.empty()) {
    auto templates = Usage(ReadTemplates(flags.templates_file));
    if (!templates.ok()) return Fail(templates.status());
    flags.templates = *std::move(templates);
  }
  const auto counts = ClassifyAll(flags);
  if (!counts.ok()) return Fail(counts.status());
  if (counts->failed == 0) return kSuccess;
  std::cerr << counts->failed << " of " << counts->failed + counts->classified << " images failed"
            << (flags.failures.empty() ? "" : ", listed in " + flags.failures) << '\n';
  return counts->classified == 0 ? kFailure : kSomeFailed;
}

void AddLabelFlags(CLI::App& command, ClassifyFlags& flags) {
  CLI::Option_group* labels = command.add_option_group("Labels");
  labels->add_option("--labels", flags.labels, "Labels with commas between them")
      ->type_name("LABEL,...");
  labels
      ->add_option("--labels-file", flags.labels_file,
                   "One label a line, or ImageNet's LOC_synset_mapping.txt")
      ->type_name("FILE");
  labels->require_option(1);
  BeginGroup(command, "Texts around the labels");
  CLI::Option* text_template =
      AddRepeatable(command, "--template", flags.templates,
                    "Text around the label, with {text}; repeatable, then averaged")
          ->default_str(flags.templates.front());
  command.add_option("--templates-from", flags.templates_file, "A file of templates, one a line")
      ->type_name("FILE")
      ->excludes(text_template);
}

}  // namespace

void AddClassifyCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<ClassifyFlags>();
  flags->templates = {"A photo of {text}."};
  CLI::App* command = app.add_subcommand(
      "classify", "Zero-shot classification: SigLIP's sigmoid probability of each label");
  AddLabelFlags(*command, *flags);
  AddInputFlags(*command, flags->inputs);
  BeginGroup(*command, kOutputHeading);
  command->add_option("--top", flags->top, "Labels shown per image")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  CLI::Option* const format =
      command
          ->add_option("--format", flags->format,
                       "table, json, jsonl or csv; default: table on a terminal, else jsonl")
          ->check(CLI::IsMember({"table", "json", "jsonl", "csv"}));
  command->add_flag("--json", flags->json, "The same as --format jsonl")->excludes(format);
  command->add_option("--failures", flags->failures, "Where to list images that failed, as jsonl")
      ->type_name("FILE");
  AddModelFlags(*command, flags->model, true);
  AddPipelineFlags(*command, flags->pipeline);
  command->footer(
      "Exit code 3: done, but some images failed and are listed. See docs/classify.md.");
  command->callback([flags, &run] { run = [flags] { return Classify(*flags); }; });
}

}  // namespace siglip::cli
