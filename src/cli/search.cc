// `siglip search`: the embedded pictures nearest to texts and to pictures.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "bulk/row_format.h"
#include "cli/choices.h"
#include "cli/commands.h"
#include "cli/help_format.h"
#include "cli/image_pipeline.h"
#include "cli/model_flags.h"
#include "cli/picture_index.h"
#include "cli/progress.h"
#include "cli/report.h"

namespace siglip::cli {
namespace {

struct SearchFlags {
  ModelFlags model;
  std::string index;
  std::vector<std::string> texts;
  std::vector<std::string> images;
  int top = 10;
  std::int64_t ef = PictureIndexOptions::kDefaultEf;
  std::string format;  // "" = table on a terminal, else jsonl
  bool json = false;
};

struct Query {
  const char* kind;  // "text" or "image"
  std::string name;
  absl::Status status;
  std::vector<float> embedding;
};

std::vector<Query> QueriesOf(const SearchFlags& flags) {
  std::vector<Query> queries;
  for (const std::string& text : flags.texts) queries.push_back({"text", text, {}, {}});
  for (const std::string& image : flags.images) queries.push_back({"image", image, {}, {}});
  return queries;
}

// Texts first, as QueriesOf lists them.
absl::Status EmbedQueries(const SearchFlags& flags, Model& model, std::vector<Query>& queries) {
  const auto take = [&queries](std::size_t i, const absl::Status& status,
                               std::span<const float> embedding) {
    queries[i].status = status;
    queries[i].embedding.assign(embedding.begin(), embedding.end());
  };
  SIGLIP_RETURN_IF_ERROR(EmbedTexts(model, flags.texts, flags.model.options.max_batch_size, take));
  return EmbedImageFiles(
      model, flags.images, PipelineOptions{},
      [&](std::size_t i, const absl::Status& status, std::span<const float> embedding) {
        take(flags.texts.size() + i, status, embedding);
      });
}

std::string TableOf(const Query& query, const PictureIndex& index,
                    const std::vector<SearchIndex::Hit>& hits) {
  std::string text = Printable(query.name) + "\n";
  for (const SearchIndex::Hit& hit : hits) {
    absl::StrAppendFormat(&text, "  %7.4f  %s\n", hit.score, Printable(index.name(hit.row)));
  }
  return text;
}

std::string JsonOf(const Query& query, const PictureIndex& index,
                   const std::vector<SearchIndex::Hit>& hits) {
  std::string text =
      absl::StrCat("{\"", query.kind, "\":", bulk::JsonString(query.name), ",\"hits\":[");
  for (const SearchIndex::Hit& hit : hits) {
    absl::StrAppend(&text, text.back() == '[' ? "" : ",",
                    "{\"name\":", bulk::JsonString(index.name(hit.row)), ",\"score\":");
    bulk::AppendJsonFloat(static_cast<float>(hit.score), text);
    text += '}';
  }
  return text + "]}\n";
}

absl::StatusOr<int> SearchAll(const SearchFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(
      const std::unique_ptr<PictureIndex> index,
      PictureIndex::Open(flags.index,
                         {.num_threads = flags.model.options.num_threads, .ef = flags.ef}));
  SIGLIP_RETURN_IF_ERROR(index->CheckCheckpoint(flags.model.directory));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  index->WarnOfOtherPixels(
      {.pillow = model->info().pixels.pillow, .max_patches = model->info().max_patches});
  std::vector<Query> queries = QueriesOf(flags);
  SIGLIP_RETURN_IF_ERROR(EmbedQueries(flags, *model, queries));
  std::vector<float> embeddings;  // of the queries that have one
  for (const Query& query : queries) {
    if (query.status.ok()) {
      embeddings.insert(embeddings.end(), query.embedding.begin(), query.embedding.end());
    }
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::vector<SearchIndex::Hit>> found,
                          index->SearchEach(embeddings, flags.top));
  const bool table =
      flags.format.empty() ? !flags.json && StdoutIsTerminal() : flags.format == "table";
  std::size_t failed = 0;
  for (auto hits = found.begin(); const Query& query : queries) {
    if (!query.status.ok()) {
      ++failed;
      SayFailed(query.name, std::string(query.status.message()));
      continue;
    }
    const std::string text = table ? TableOf(query, *index, *hits) : JsonOf(query, *index, *hits);
    ++hits;
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
      return absl::ResourceExhaustedError("stdout: writing failed (disk full, or reader gone?)");
    }
  }
  if (std::fflush(stdout) != 0) return absl::ErrnoToStatus(errno, "stdout");
  if (failed == 0) return kSuccess;
  return failed == queries.size() ? kFailure : kSomeFailed;
}

int Search(const SearchFlags& flags) {
  const absl::StatusOr<int> exit_code = SearchAll(flags);
  return exit_code.ok() ? *exit_code : Fail(exit_code.status());
}

}  // namespace

void AddSearchCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<SearchFlags>();
  CLI::App* command = app.add_subcommand(
      "search", "Find embedded pictures by text or by picture: the nearest, by cosine");
  command
      ->add_option("index", flags->index,
                   "FILE.npy of siglip embed or a folder of them, searched exactly; or what siglip "
                   "index made of them")
      ->required();
  CLI::Option_group* queries = command->add_option_group("Queries");
  AddRepeatable(*queries, "--text", flags->texts, "A text to search for; repeatable");
  AddRepeatable(*queries, "--image", flags->images, "A picture to find the like of; repeatable")
      ->type_name("FILE");
  queries->require_option(1, 0);
  BeginGroup(*command, kOutputHeading);
  command->add_option("--top", flags->top, "Pictures shown per query")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--ef", flags->ef,
                   "Of an index: rows that are measured per query, at the least; more miss less")
      ->check(CLI::Range(std::int64_t{1}, PictureIndexOptions::kMaxEf))
      ->capture_default_str();
  CLI::Option* format = command
                            ->add_option("--format", flags->format,
                                         "table or jsonl; default: table on a terminal, else jsonl")
                            ->check(CLI::IsMember({"table", "jsonl"}));
  command->add_flag("--json", flags->json, "The same as --format jsonl")->excludes(format);
  AddModelFlags(*command, flags->model, true);
  command->footer("Exit code 3: done, but some queries failed. See docs/search.md.");
  command->callback([flags, &run] { run = [flags] { return Search(*flags); }; });
}

}  // namespace siglip::cli
