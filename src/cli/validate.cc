// `siglip validate`: the accuracy table of a checkpoint or a running server on an ImageNet folder.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/host_port.h"
#include "base/status_macros.h"
#include "bulk/row_format.h"
#include "cli/choices.h"
#include "cli/commands.h"
#include "cli/embedder.h"
#include "cli/embedding_cache.h"
#include "cli/help_format.h"
#include "cli/input_flags.h"
#include "cli/model_flags.h"
#include "cli/output_places.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/validation.h"
#include "cli/validation_report.h"
#include "eval/imagenet_folder.h"
#include "eval/templates.h"

namespace siglip::cli {
namespace {

struct ValidateFlags {
  ModelFlags model;
  ServerTarget server;
  std::string data;
  ValidationOptions options;
  PipelineOptions pipeline;
  std::string cache;
  std::string html;
  std::string json;
  std::string predictions;
  std::string embeddings;
  std::string failures;
  bool quiet = false;
};

absl::Status CheckFlags(const ValidateFlags& flags) {
  if (flags.model.directory.empty() && flags.server.url.empty()) {
    return absl::InvalidArgumentError("expected either --model DIR or --url HOST:PORT");
  }
  if (!flags.server.url.empty()) {
    SIGLIP_RETURN_IF_ERROR(ParseHostPort(flags.server.url).status());
  }
  if (flags.options.unpadded && !flags.server.url.empty()) {
    return absl::InvalidArgumentError("--no-padding: a server always pads; use --model");
  }
  if (!flags.predictions.empty() && !absl::EndsWith(flags.predictions, ".csv") &&
      !absl::EndsWith(flags.predictions, ".jsonl")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--predictions ", flags.predictions, ": expected a name that ends in .csv or .jsonl"));
  }
  for (const std::string& text_template : flags.options.templates) {
    SIGLIP_RETURN_IF_ERROR(CheckTemplate(text_template));
  }
  return absl::OkStatus();
}

absl::Status CheckPlaces(const ValidateFlags& flags) {
  std::vector<std::string> outputs = {flags.json, flags.predictions, flags.html, flags.failures};
  SIGLIP_RETURN_IF_ERROR(CheckOutputFolder(flags.embeddings));
  std::error_code error;
  // Of a folder that is still to be made no file is another output.
  if (std::filesystem::is_directory(flags.embeddings, error)) {
    for (std::string& file : EmbeddingFiles(flags.options, flags.embeddings)) {
      outputs.push_back(std::move(file));
    }
  }
  return CheckOutputPlaces(outputs, {}, {});
}

absl::StatusOr<Validation> RunValidation(const ValidateFlags& flags) {
  SIGLIP_RETURN_IF_ERROR(Usage(CheckPlaces(flags)));
  SIGLIP_ASSIGN_OR_RETURN(ImagenetFolder folder, OpenImagenetFolder(flags.data));
  std::unique_ptr<Model> model;
  std::unique_ptr<Embedder> embedder;
  if (flags.server.url.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(model, Model::Open(flags.model.directory, flags.model.options));
    embedder = MakeModelEmbedder(*model, flags.pipeline);
  } else {
    SIGLIP_ASSIGN_OR_RETURN(embedder, ConnectEmbedder(flags.server));
  }
  std::unique_ptr<EmbeddingCache> cache;
  if (!flags.cache.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(const std::string identity, Fingerprint(*embedder));
    SIGLIP_ASSIGN_OR_RETURN(
        cache, EmbeddingCache::Open(flags.cache, identity, embedder->embedding_size()));
    std::cerr << "cache " << flags.cache << ": " << cache->size() << " embeddings\n";
  }
  return Validate(*embedder, cache.get(), std::move(folder), flags.options);
}

// Each that was asked for, whatever becomes of the others; what fails is printed.
int WriteReports(const ValidateFlags& flags, const Validation& validation) {
  int exit_code = kSuccess;
  const auto wrote = [&exit_code](const absl::Status& status) {
    if (!status.ok()) exit_code = Fail(status);
  };
  if (!flags.json.empty()) wrote(WriteOutputFile(flags.json, ValidationJson(validation)));
  if (!flags.predictions.empty()) {
    const bool csv = absl::EndsWith(flags.predictions, ".csv");
    wrote(WriteOutputFile(flags.predictions,
                          csv ? PredictionsCsv(validation) : PredictionsJsonl(validation)));
  }
  if (!flags.embeddings.empty()) wrote(SaveEmbeddings(validation, flags.embeddings));
  if (!flags.html.empty()) wrote(WriteOutputFile(flags.html, ValidationHtml(validation)));
  if (!flags.failures.empty()) {
    std::string lines;
    for (const FailedItem& item : validation.failures) {
      lines += bulk::FailureLine(item.name, item.error);
    }
    wrote(WriteOutputFile(flags.failures, lines));
  }
  return exit_code;
}

int RunValidate(const ValidateFlags& flags) {
  if (const absl::Status status = CheckFlags(flags); !status.ok()) return Fail(Usage(status));
  const auto validation = RunValidation(flags);
  if (!validation.ok()) return Fail(validation.status());
  std::cout << MarkdownTable(*validation) << '\n' << SummaryText(*validation) << std::flush;
  for (const FailedItem& item : validation->failures) {
    SayFailed(item.name, item.error);
  }
  if (const int exit_code = WriteReports(flags, *validation); exit_code != kSuccess) {
    return exit_code;
  }
  if (validation->failures.empty()) return kSuccess;
  std::cerr << validation->failures.size() << " images failed and were left out\n";
  return kSomeFailed;
}

void AddSourceFlags(CLI::App& command, ValidateFlags& flags) {
  BeginGroup(command, "A server in place of --model");
  CLI::Option* url = command
                         .add_option("--url", flags.server.url,
                                     "HOST:PORT of a running server, instead of --model and what "
                                     "goes with it; IPv6 with brackets or without. TLS and "
                                     "API keys are not spoken")
                         ->type_name("SERVER");
  command.add_option("--protocol", flags.server.protocol, "grpc or http")
      ->check(CLI::IsMember({"grpc", "http"}))
      ->capture_default_str();
  command.add_option("--concurrency", flags.server.concurrency, "Clients of the server at once")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  // The server has what they say already.
  const std::vector<CLI::Option*> others = command.get_options();
  AddModelFlags(command, flags.model, false);
  for (CLI::Option* option : command.get_options()) {
    if (std::find(others.begin(), others.end(), option) == others.end()) url->excludes(option);
  }
  AddPipelineFlags(command, flags.pipeline);
}

void AddReportFlags(CLI::App& command, ValidateFlags& flags) {
  BeginGroup(command, kOutputHeading);
  const auto add = [&command](const char* name, std::string& path, const char* text) {
    command.add_option(name, path, text)->type_name("FILE");
  };
  add("--html", flags.html, "Write a self-contained report with plots");
  add("--json", flags.json, "Write the table, classes and failures as JSON");
  add("--predictions", flags.predictions, "Write every prediction: FILE.csv or FILE.jsonl");
  add("--failures", flags.failures, "Write the images that failed, as JSON lines");
  command
      .add_option("--save-embeddings", flags.embeddings,
                  "Folder for all embeddings as .npy, so that scikit-learn can be given them")
      ->type_name("DIR");
  command.add_flag("-q,--quiet", flags.quiet, "No progress bar");
}

}  // namespace

void AddValidateCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<ValidateFlags>();
  flags->options.templates = PublishedTemplates();
  CLI::App* command = app.add_subcommand(
      "validate", "Few-shot and zero-shot accuracy on an ImageNet folder, as scikit-learn's kNN");
  BeginGroup(*command, "What is measured");
  command
      ->add_option("--data", flags->data,
                   "Folder with train/<label>/, valid/<label>/ and LOC_synset_mapping.txt")
      ->type_name("DIR")
      ->required();
  AddRepeatable(*command, "--template", flags->options.templates,
                "Prompt with {text} or {label}; repeatable")
      ->default_str("the three of the published table, docs/validation.md");
  command->add_flag("--no-padding", flags->options.unpadded,
                    "Also a row whose texts are not padded (SigLIP was trained with padding)");
  command->add_option("-k,--neighbors", flags->options.k, "Neighbours that vote")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--cache", flags->cache,
                   "Folder of embeddings that later runs take up, also after a kill")
      ->type_name("DIR");
  AddReportFlags(*command, *flags);
  AddSourceFlags(*command, *flags);
  command->footer("Exit code 3: done, but some images failed and were left out.");
  command->callback([flags, &run] {
    run = [flags] {
      flags->options.show_progress = !flags->quiet;
      flags->options.threads = flags->model.options.num_threads;
      return RunValidate(*flags);
    };
  });
}

}  // namespace siglip::cli
