#pragma once

// The inputs of bulk commands: what the command line names -> a job's items, and how these are run.

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "bulk/item_source.h"
#include "cli/image_pipeline.h"

namespace siglip::cli {

struct InputFlags {
  std::vector<std::string> paths;
  std::string files_from;
  bool null_separated = false;
  bulk::ParquetColumns columns;
};

// Paths, --files-from, --null, --image-column, --id-column.
void AddInputFlags(CLI::App& command, InputFlags& flags);

// --batch-size, --decode-threads.
void AddPipelineFlags(CLI::App& command, PipelineOptions& options);

// The images: `paths`, then the list. InvalidArgument if paths were named and hold no image.
absl::StatusOr<bulk::JobItems> ListItems(const InputFlags& flags);

// "3/16" -> index 2 of 16. InvalidArgument unless 1 <= 3 <= 16.
absl::StatusOr<bulk::Shard> ParseShard(const std::string& text);

}  // namespace siglip::cli
