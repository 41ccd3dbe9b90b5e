// `siglip index`: an approximate index of embedded pictures, for `siglip search` and the page.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "bulk/embedded_rows.h"
#include "bulk/output.h"
#include "cli/commands.h"
#include "cli/index_file.h"
#include "cli/output_places.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "eval/neighbor_graph.h"

namespace siglip::cli {
namespace {

struct IndexFlags {
  std::string rows;
  std::string output;
  NeighborGraphOptions graph;
  int threads = 0;
  bool quiet = false;
};

// The rows, their names and what they tell of themselves stay.
absl::Status CheckPlace(const IndexFlags& flags) {
  std::vector<std::string> files;
  const auto add = [&files](const std::string& rows) {
    for (std::string& file : bulk::OutputFiles({.path = rows, .failures_path = {}}))
      files.push_back(std::move(file));
  };
  std::error_code error;
  if (std::filesystem::is_directory(flags.rows, error)) {
    for (const auto& entry : std::filesystem::directory_iterator(flags.rows, error)) {
      if (entry.path().extension() == ".npy") add(entry.path().string());
    }
  } else {
    add(flags.rows);
  }
  return CheckOutputPlaces(std::span(&flags.output, 1), files, {});
}

absl::Status MakeIndex(const IndexFlags& flags) {
  if (std::filesystem::path(flags.output).extension() == ".npy") {
    return Usage(absl::InvalidArgumentError(
        absl::StrCat(flags.output, ": expected another extension, since .npy are rows")));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<bulk::EmbeddedRows> rows,
                          bulk::EmbeddedRows::Open(flags.rows));
  SIGLIP_RETURN_IF_ERROR(Usage(CheckPlace(flags)));
  const bulk::PixelSettings& first = rows->pixels().front();
  for (const bulk::PixelSettings& other : std::span(rows->pixels()).subspan(1)) {
    SIGLIP_LOG_WARN("rows_of_two_pixels folder={} pillow={},{} max_patches={},{}", flags.rows,
                    first.pillow, other.pillow, first.max_patches, other.max_patches);
  }
  ThreadTeam team(flags.threads > 0
                      ? flags.threads
                      : static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  Progress progress(
      {.what = "rows", .total = static_cast<std::uint64_t>(rows->rows()), .quiet = flags.quiet});
  const absl::StatusOr<std::unique_ptr<NeighborGraph>> graph = NeighborGraph::Build(
      StoredRowsOf(*rows), flags.graph, team,
      [&progress](std::int64_t count) { progress.Advance(static_cast<std::uint64_t>(count)); });
  if (!graph.ok()) {
    return absl::Status(graph.status().code(),
                        absl::StrCat(flags.rows, ": ", graph.status().message()));
  }
  return WriteIndexFile(flags.output, flags.rows, *rows, **graph);
}

}  // namespace

void AddIndexCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<IndexFlags>();
  CLI::App* command = app.add_subcommand(
      "index", "Make an approximate index of embedded pictures, for search in many of them");
  command->add_option("rows", flags->rows, "FILE.npy of siglip embed, or a folder of them")
      ->required();
  command
      ->add_option("-o,--output", flags->output,
                   "Where to write the index. It holds no rows: keep them where they are")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--links", flags->graph.links,
                   "Neighbours of a row: more make a larger index that misses less")
      ->check(CLI::Range(NeighborGraph::kMinLinks, NeighborGraph::kMaxLinks))
      ->capture_default_str();
  command
      ->add_option("--ef-construction", flags->graph.ef_construction,
                   "Rows looked at to find them: more take longer and miss less")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command
      ->add_option("--threads", flags->threads,
                   "Threads; 0 = one per core. With 1 the same rows give the same file")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("-q,--quiet", flags->quiet, "No progress");
  command->footer("The file is written when it is whole. See docs/search.md.");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = MakeIndex(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
