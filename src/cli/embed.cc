// `siglip embed`: image files, folders and texts -> .npy or .jsonl.

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/embedding_writer.h"
#include "cli/image_files.h"
#include "cli/image_pipeline.h"
#include "cli/model_flags.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace siglip::cli {
namespace {

struct EmbedFlags {
  ModelFlags model;
  std::vector<std::string> paths;
  std::vector<std::string> texts;
  std::string output;
  std::string failures;
  int batch_size = 8;
  int decode_threads = 0;
  bool quiet = false;
};

struct Failure {
  std::string name;
  absl::Status status;
};

std::string FailuresText(const std::vector<Failure>& failures) {
  std::string text;
  for (const Failure& failure : failures) {
    absl::StrAppend(&text, "{\"name\":", JsonString(failure.name),
                    ",\"error\":", JsonString(std::string(failure.status.message())), "}\n");
  }
  return text;
}

absl::StatusOr<std::vector<Failure>> EmbedAll(const EmbedFlags& flags,
                                              const std::vector<std::string>& files) {
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<EmbeddingWriter> writer,
                          EmbeddingWriter::Create(flags.output, model->info().embedding_size));
  std::vector<Failure> failures;
  absl::Status written;
  Progress progress("items", files.size() + flags.texts.size(), !flags.quiet && StderrIsTerminal());
  const auto report = [&](RowName::Kind kind, const std::string& name, const absl::Status& status,
                          std::span<const float> embedding) {
    progress.Advance();
    if (!status.ok()) {
      failures.push_back({name, status});
    } else if (written.ok()) {
      written = writer->Write({kind, name}, embedding);
    }
  };
  SIGLIP_RETURN_IF_ERROR(EmbedImageFiles(
      *model, files, {flags.decode_threads, flags.batch_size},
      [&](std::size_t i, const absl::Status& status, std::span<const float> embedding) {
        report(RowName::Kind::kImage, files[i], status, embedding);
      }));
  SIGLIP_RETURN_IF_ERROR(
      EmbedTexts(*model, flags.texts, flags.batch_size,
                 [&](std::size_t i, const absl::Status& status, std::span<const float> embedding) {
                   report(RowName::Kind::kText, flags.texts[i], status, embedding);
                 }));
  SIGLIP_RETURN_IF_ERROR(written);
  SIGLIP_RETURN_IF_ERROR(writer->Finish());
  return failures;
}

int Embed(const EmbedFlags& flags) {
  if (flags.paths.empty() && flags.texts.empty()) {
    return Fail(absl::InvalidArgumentError("nothing to embed: name images, folders or --text"));
  }
  const auto files = ExpandImagePaths(flags.paths);
  if (!files.ok()) return Fail(files.status());
  const auto failures = EmbedAll(flags, *files);
  if (!failures.ok()) return Fail(failures.status());
  if (failures->empty()) return kSuccess;

  for (const Failure& failure : *failures) {
    std::cerr << "failed: " << failure.name << ": " << failure.status.message() << '\n';
  }
  std::string list = flags.failures;
  if (list.empty() && !flags.output.empty() && flags.output != "-") {
    list = flags.output + ".failures.jsonl";
  }
  if (!list.empty()) {
    const absl::Status status = WriteFileAtomically(list, FailuresText(*failures));
    if (!status.ok()) return Fail(status);
  }
  std::cerr << failures->size() << " of " << files->size() + flags.texts.size() << " items failed"
            << (list.empty() ? "" : ", listed in " + list) << '\n';
  return failures->size() == files->size() + flags.texts.size() ? kFailure : kSomeFailed;
}

}  // namespace

void AddEmbedCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<EmbedFlags>();
  CLI::App* command = app.add_subcommand(
      "embed", "Embed image files, folders of images, and texts: one row per item, not normalised");
  AddModelFlags(*command, flags->model, true);
  command->add_option("paths", flags->paths, "Image files and folders (walked recursively)");
  command
      ->add_option("--text", flags->texts, "A text to embed; repeatable; rows follow the images'")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option(
      "-o,--output", flags->output,
      "File.npy (float32 [N,D], names beside it) or file.jsonl; default: jsonl on stdout");
  command->add_option("--failures", flags->failures,
                      "Where to list items that failed; default: OUTPUT.failures.jsonl");
  command->add_option("--batch-size", flags->batch_size, "Items per engine call")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--decode-threads", flags->decode_threads, "Decoding threads; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("-q,--quiet", flags->quiet, "No progress bar");
  command->footer("Exit code 3: done, but some items failed and are listed.");
  command->callback([flags, &run] { run = [flags] { return Embed(*flags); }; });
}

}  // namespace siglip::cli
