// `siglip bench search`: searches of one query at a time, exact or with an index.

#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "bulk/embedded_rows.h"
#include "cli/bench.h"
#include "cli/picture_index.h"
#include "cli/report.h"

namespace siglip::cli {
namespace {

struct BenchSearchFlags {
  std::string index;
  std::string queries;
  std::int64_t top = 10;
  PictureIndexOptions options;
  bool json = false;
};

// Each query's rows, best first, and the seconds of each search.
struct Searches {
  std::vector<std::string> rows;  // "[3,1,7]"
  Samples samples;
};

absl::StatusOr<Searches> SearchEach(const PictureIndex& index, const bulk::EmbeddedRows& queries,
                                    std::int64_t top) {
  Searches searches;
  std::vector<float> query(static_cast<std::size_t>(queries.width()));
  for (std::int64_t i = 0; i < queries.rows(); ++i) {
    queries.Read(i, 1, query.data());
    const double start = NowSeconds();
    SIGLIP_ASSIGN_OR_RETURN(const auto hits, index.Search(query, top));
    searches.samples.seconds.push_back(NowSeconds() - start);
    searches.rows.push_back(absl::StrCat(
        "[",
        absl::StrJoin(
            hits, ",",
            [](std::string* out, const SearchIndex::Hit& hit) { absl::StrAppend(out, hit.row); }),
        "]"));
  }
  return searches;
}

absl::Status BenchSearch(const BenchSearchFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(const auto queries, bulk::EmbeddedRows::Open(flags.queries));
  const double start = NowSeconds();
  SIGLIP_ASSIGN_OR_RETURN(const auto index, PictureIndex::Open(flags.index, flags.options));
  const double open_s = NowSeconds() - start;
  if (index->width() != queries->width()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.queries, ": expected ", index->width(),
                                                   " numbers in a row, as in ", flags.index,
                                                   ", got ", queries->width()));
  }
  SIGLIP_ASSIGN_OR_RETURN(const Searches searches, SearchEach(*index, *queries, flags.top));
  const double median_ms = searches.samples.Median() * 1e3;
  const double best_ms = searches.samples.Best() * 1e3;
  if (flags.json) {
    std::printf("{\"open_s\":%.3f,\"median_ms\":%.3f,\"best_ms\":%.3f,\"rows\":[%s]}\n", open_s,
                median_ms, best_ms, absl::StrJoin(searches.rows, ",").c_str());
  } else {
    std::printf("%lld queries in %lld rows: median %.2f ms, best %.2f ms; opened in %.2f s\n",
                static_cast<long long>(queries->rows()), static_cast<long long>(index->rows()),
                median_ms, best_ms, open_s);
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchSearchCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchSearchFlags>();
  CLI::App* command = bench.add_subcommand("search", "Searches, one query at a time");
  command->add_option("index", flags->index, "What siglip search searches: rows, or an index")
      ->required();
  command->add_option("--queries", flags->queries, "FILE.npy of siglip embed: pictures to look for")
      ->type_name("FILE")
      ->required();
  command->add_option("--top", flags->top, "Pictures found per query")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--ef", flags->options.ef, "As of siglip search")
      ->check(CLI::Range(std::int64_t{1}, PictureIndexOptions::kMaxEf))
      ->capture_default_str();
  command->add_option("--threads", flags->options.num_threads, "Threads; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object, with the rows that were found");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = BenchSearch(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
