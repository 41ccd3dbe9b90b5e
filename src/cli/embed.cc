// `siglip embed`: images and texts in any number -> .npy, .jsonl or .parquet.

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/normalize_row.h"
#include "base/status_macros.h"
#include "bulk/fingerprint.h"
#include "bulk/listing.h"
#include "bulk/output.h"
#include "checkpoint/fingerprint.h"
#include "cli/choices.h"
#include "cli/commands.h"
#include "cli/help_format.h"
#include "cli/image_pipeline.h"
#include "cli/input_flags.h"
#include "cli/job_engine.h"
#include "cli/model_flags.h"
#include "cli/output_places.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "cli/version.h"
#include "image/preprocess.h"

namespace siglip::cli {
namespace {

struct EmbedFlags {
  ModelFlags model;
  InputFlags inputs;
  std::vector<std::string> texts;
  std::string texts_from;
  std::string shard = "1/1";
  bulk::OutputOptions output;
  bool normalize = false;
  PipelineOptions pipeline;
  int commit_every = 1000;
  bool quiet = false;
};

// What a kill may cost, besides --commit-every items.
constexpr std::chrono::seconds kCommitInterval{10};
// More failures than these are only in their file.
constexpr std::uint64_t kShownFailures = 20;

absl::StatusOr<bulk::JobItems> ListAll(const EmbedFlags& flags) {
  const bool lists = !flags.inputs.files_from.empty() || !flags.texts_from.empty();
  if (flags.inputs.paths.empty() && flags.texts.empty() && !lists) {
    return absl::InvalidArgumentError("nothing to embed: name images, folders, lists or --text");
  }
  if (flags.inputs.files_from == "-" && flags.texts_from == "-") {
    return absl::InvalidArgumentError(
        "standard input can be one list: --files-from or --texts-from");
  }
  SIGLIP_ASSIGN_OR_RETURN(bulk::JobItems items, ListItems(flags.inputs));
  for (const std::string& text : flags.texts) items.texts.Add(text);
  if (!flags.texts_from.empty()) {
    SIGLIP_RETURN_IF_ERROR(bulk::ReadNameList(flags.texts_from, '\n', items.texts));
  }
  return items;
}

absl::Status CheckPlaces(const EmbedFlags& flags, const bulk::JobItems& items) {
  SIGLIP_RETURN_IF_ERROR(bulk::CheckOutputName(flags.output.path));
  const std::string lists[] = {flags.inputs.files_from, flags.texts_from};
  return CheckOutputPlaces(bulk::OutputFiles(flags.output), lists, items.inputs);
}

// All that the rows depend on.
absl::StatusOr<nlohmann::ordered_json> DescribeJob(const EmbedFlags& flags, const ModelInfo& info,
                                                   const bulk::JobItems& items) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string checkpoint,
                          CheckpointFingerprint(flags.model.directory));
  return nlohmann::ordered_json{
      {"siglip_version", VersionNumber()},
      {"commit", VersionCommit()},
      {"codecs", CodecVersions()},
      {"checkpoint_sha256", checkpoint},
      {"engine", JobEngine(info.engine)},
      {"image_size", info.image_size},
      {"max_patches", info.max_patches},
      {"pillow", flags.model.options.pillow},
      {"max_pixels", info.pixels.max_pixels},
      {"embedding_size", info.embedding_size},
      {"dtype", flags.output.dtype == bulk::DType::kFloat32 ? "float32" : "float16"},
      {"normalized", flags.normalize},
      {"shard", flags.shard},
      {"inputs", items.inputs.size() + items.texts.size()},
      {"inputs_sha256", bulk::ItemsFingerprint(items)}};
}

// Among rows on a terminal a bar would stand in their lines.
bool ShowsProgress(const EmbedFlags& flags) {
  const bool rows_on_stdout = flags.output.path.empty() || flags.output.path == "-";
  return !flags.quiet && !(rows_on_stdout && StdoutIsTerminal());
}

// Rows and failures on their way from the pipeline to the output.
class Collector {
 public:
  Collector(const EmbedFlags& flags, bulk::Output& output, Progress& progress)
      : flags_(flags), output_(output), progress_(progress) {}

  absl::Status Add(const bulk::Item& item, const absl::Status& status,
                   std::span<const float> embedding) {
    progress_.Advance();
    if (!status.ok()) {
      Show(item, status);
      SIGLIP_RETURN_IF_ERROR(output_.AddFailure(item.name, StdView(status.message())));
    } else {
      row_.assign(embedding.begin(), embedding.end());
      if (flags_.normalize) NormalizeRow(row_);
      SIGLIP_RETURN_IF_ERROR(output_.AddRow(item.kind, item.name, row_));
    }
    const auto now = std::chrono::steady_clock::now();
    if (++uncommitted_ < flags_.commit_every && now - last_commit_ < kCommitInterval) {
      return absl::OkStatus();
    }
    uncommitted_ = 0;
    last_commit_ = now;
    return output_.Commit(item.next);
  }

 private:
  void Show(const bulk::Item& item, const absl::Status& status) {
    if (!output_.failures_path().empty() && ++shown_ > kShownFailures) return;
    if (ShowsProgress(flags_) && StderrIsTerminal()) std::cerr << '\n';  // below the bar
    SayFailed(item.name, std::string(status.message()));
  }

  const EmbedFlags& flags_;
  bulk::Output& output_;
  Progress& progress_;
  std::vector<float> row_;
  std::uint64_t shown_ = 0;
  int uncommitted_ = 0;
  std::chrono::steady_clock::time_point last_commit_ = std::chrono::steady_clock::now();
};

absl::Status EmbedRest(const EmbedFlags& flags, Model& model, const bulk::JobItems& items,
                       const bulk::Shard& shard, bulk::Output& output) {
  const bulk::OutputCounts& before = output.counts();
  const std::uint64_t done = before.image_rows + before.text_rows + before.failures;
  if (done > 0 && !flags.quiet) std::cerr << "going on after " << done << " items\n";
  const bulk::ShardSize size = bulk::SizeOf(items, shard);
  Progress progress({.what = "items",
                     .total = size.archives > 0 ? 0 : size.items,
                     .done = done,
                     .quiet = !ShowsProgress(flags)});
  Collector collector(flags, output, progress);
  const auto source = bulk::OpenItems(items, shard, output.start());
  SIGLIP_RETURN_IF_ERROR(EmbedItems(
      model, *source, flags.pipeline,
      [&](const bulk::Item& item, const absl::Status& status, std::span<const float> embedding) {
        return collector.Add(item, status, embedding);
      }));
  return output.Finish();
}

// What the job came to, in words and as an exit code.
int Report(const bulk::Output& output) {
  const bulk::OutputCounts& counts = output.counts();
  const std::uint64_t rows = counts.image_rows + counts.text_rows;
  if (counts.failures == 0) return kSuccess;
  const std::string& list = output.failures_path();
  std::cerr << counts.failures << " of " << rows + counts.failures << " items failed"
            << (list.empty() ? "" : ", listed in " + list) << '\n';
  return rows == 0 ? kFailure : kSomeFailed;
}

absl::StatusOr<int> EmbedAll(const EmbedFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(const bulk::Shard shard, Usage(ParseShard(flags.shard)));
  SIGLIP_ASSIGN_OR_RETURN(const bulk::JobItems items, Usage(ListAll(flags)));
  SIGLIP_RETURN_IF_ERROR(Usage(CheckPlaces(flags, items)));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  SIGLIP_ASSIGN_OR_RETURN(const nlohmann::ordered_json job,
                          DescribeJob(flags, model->info(), items));
  bulk::OutputOptions options = flags.output;
  options.width = model->info().embedding_size;
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<bulk::Output> output,
                          bulk::Output::Open(options, job, {{"model", flags.model.directory}}));
  if (!output->finished()) {
    SIGLIP_RETURN_IF_ERROR(EmbedRest(flags, *model, items, shard, *output));
  } else if (!flags.quiet) {
    std::cerr << options.path << " is complete already\n";
  }
  return Report(*output);
}

int Embed(const EmbedFlags& flags) {
  const absl::StatusOr<int> exit_code = EmbedAll(flags);
  return exit_code.ok() ? *exit_code : Fail(exit_code.status());
}

void AddOutputFlags(CLI::App& command, EmbedFlags& flags) {
  BeginGroup(command, kOutputHeading);
  command
      .add_option("-o,--output", flags.output.path,
                  "FILE.npy ([N,D], names beside it), FILE.parquet or FILE.jsonl; default: jsonl "
                  "on stdout")
      ->type_name("FILE");
  command
      .add_option("--dtype", flags.output.dtype, "float32, or float16 (rounded to nearest even)")
      ->transform(OneOf<bulk::DType>(
          {{"float32", bulk::DType::kFloat32}, {"float16", bulk::DType::kFloat16}}))
      ->type_name("TYPE")
      ->default_str("float32");
  command.add_flag("--normalize", flags.normalize, "Scale every row to length 1");
  command.add_flag("--overwrite", flags.output.overwrite,
                   "Begin a stopped job anew instead of going on; a finished OUTPUT is replaced "
                   "either way");
  command.add_flag("--keep-finished", flags.output.keep_finished,
                   "Do nothing if OUTPUT is there, finished, and of this very job (names of inputs "
                   "count, not contents)");
  command
      .add_option("--failures", flags.output.failures_path,
                  "Where to list items that failed; default: OUTPUT.failures.jsonl")
      ->type_name("FILE");
  command
      .add_option("--commit-every", flags.commit_every,
                  "What is done is kept every N items, and every 10 s: a stopped job goes on from "
                  "there")
      ->check(CLI::Range(1, 1'000'000'000))
      ->capture_default_str();
  command.add_flag("-q,--quiet", flags.quiet, "No progress");
}

}  // namespace

void AddEmbedCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<EmbedFlags>();
  CLI::App* command = app.add_subcommand(
      "embed", "Embed images and texts in any number: one row per item, not normalised");
  AddInputFlags(*command, flags->inputs);
  AddRepeatable(*command, "--text", flags->texts,
                "A text to embed; repeatable; rows follow the images'");
  command
      ->add_option("--texts-from", flags->texts_from,
                   "A file of texts, one a line; - = standard input")
      ->type_name("FILE");
  command
      ->add_option("--shard", flags->shard,
                   "K/N: only the K-th of N shares of the items, so that N machines share a job")
      ->type_name("K/N")
      ->capture_default_str();
  AddOutputFlags(*command, *flags);
  AddModelFlags(*command, flags->model, true);
  AddPipelineFlags(*command, flags->pipeline);
  command->footer(
      "A stopped job goes on when the same command is run again, and ends with the same bytes.\n"
      "Exit code 3: done, but some items failed and are listed. See docs/embed.md.");
  command->callback([flags, &run] { run = [flags] { return Embed(*flags); }; });
}

}  // namespace siglip::cli
