#pragma once

// Where `siglip embed` writes. A file output survives kill -9: rows, names and failures are
// appended to files in OUTPUT.parts/, and from time to time flushed; then a manifest that says how
// long they are and which item comes next replaces the old one atomically. A later run cuts the
// files to the manifest's lengths and goes on, so the result has the bytes of a run that was never
// stopped.
//
// OUTPUT.parts/ holds rows, names.txt, failures.jsonl, manifest.json, lock. When all is done they
// move to the failures file, OUTPUT.names.txt (.npy only), OUTPUT.meta.json and OUTPUT, in this
// order. An old OUTPUT.npy goes before new names come.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/status/statusor.h"
#include "bulk/item_source.h"
#include "bulk/row_format.h"

namespace siglip::bulk {

struct OutputOptions {
  std::string path;  // *.npy, *.jsonl or *.parquet; "" or "-" = jsonl on stdout
  // "" = path + ".failures.jsonl", which is there if something failed. A named one always is.
  std::string failures_path;
  std::int64_t width = 0;  // D
  DType dtype = DType::kFloat32;
  bool overwrite = false;      // a job begun earlier is thrown away
  bool keep_finished = false;  // a finished output of this very job is not made again
};

// Of the whole job, earlier runs included.
struct OutputCounts {
  std::uint64_t image_rows = 0;
  std::uint64_t text_rows = 0;
  std::uint64_t failures = 0;
};

// All that a finished job may leave or replace: OUTPUT, which is the file behind symlinks, and what
// lies beside it.
std::vector<std::string> OutputFiles(const OutputOptions& options);

// Whether `path` says by its end what to write. Errors: those of Output::Open about it.
absl::Status CheckOutputName(const std::string& path);

// Confined to one thread.
class Output {
 public:
  virtual ~Output() = default;

  // `job` holds all that the rows depend on, as a flat object: another value is another job.
  // `about` is only written down. Both go into OUTPUT.meta.json and Parquet's metadata.
  // An old output at `path` stays until the new one is finished, unless keep_finished.
  // Errors: InvalidArgument (extension), AlreadyExists (keep_finished, and it is of another job),
  // FailedPrecondition (begun with another `job`: names what differs), Unavailable (another process
  // is at it), DataLoss (files of the earlier run are damaged), Unimplemented (no Parquet), that of
  // failures_path if it cannot be written.
  static absl::StatusOr<std::unique_ptr<Output>> Open(const OutputOptions& options,
                                                      const nlohmann::ordered_json& job,
                                                      const nlohmann::ordered_json& about);

  // True if this very job is finished, by an earlier run or by Finish: nothing is left to do.
  virtual bool finished() const = 0;
  // The item to begin with.
  virtual Position start() const = 0;
  virtual const OutputCounts& counts() const = 0;
  // Where failures are listed; "" = nowhere.
  virtual const std::string& failures_path() const = 0;

  // Images come before texts.
  virtual absl::Status AddRow(Item::Kind kind, std::string_view name,
                              std::span<const float> row) = 0;
  virtual absl::Status AddFailure(std::string_view name, std::string_view error) = 0;
  // All before `next` was added: from here a later run goes on.
  virtual absl::Status Commit(const Position& next) = 0;
  // After the last item.
  virtual absl::Status Finish() = 0;
};

}  // namespace siglip::bulk
