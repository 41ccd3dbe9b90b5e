#include "cli/input_flags.h"

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "bulk/listing.h"
#include "cli/help_format.h"

namespace siglip::cli {

void AddInputFlags(CLI::App& command, InputFlags& flags) {
  BeginGroup(command, kInputsHeading);
  command.add_option(
      "paths", flags.paths,
      "Images, folders (walked), \"quoted patterns*.jpg\" (** = any depth), .tar[.gz] "
      "shards, .parquet");
  command
      .add_option("--files-from", flags.files_from,
                  "A list of images and archives, one a line; - = standard input")
      ->type_name("FILE");
  command.add_flag("-0,--null", flags.null_separated,
                   "The list's entries end with a zero byte, as find -print0 writes them");
  command
      .add_option("--image-column", flags.columns.image,
                  "Parquet: column of image bytes, or of {bytes, path}; default: the only one")
      ->type_name("NAME");
  command
      .add_option("--id-column", flags.columns.id,
                  "Parquet: column that names the rows; default: the image's path or the number")
      ->type_name("NAME");
}

void AddPipelineFlags(CLI::App& command, PipelineOptions& options) {
  BeginGroup(command, kComputingHeading);
  command.add_option("--batch-size", options.batch_size, "Items per engine call")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--decode-threads", options.preprocess_threads,
                  "Decoding threads; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

absl::StatusOr<bulk::JobItems> ListItems(const InputFlags& flags) {
  bulk::JobItems items;
  items.columns = flags.columns;
  SIGLIP_RETURN_IF_ERROR(bulk::ListInputs(flags.paths, items.inputs));
  if (!flags.paths.empty() && items.inputs.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no image and no .tar in ", absl::StrJoin(flags.paths, ", ")));
  }
  if (!flags.files_from.empty()) {
    SIGLIP_RETURN_IF_ERROR(
        bulk::ReadNameList(flags.files_from, flags.null_separated ? '\0' : '\n', items.inputs));
  }
  return items;
}

absl::StatusOr<bulk::Shard> ParseShard(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  bulk::Shard shard;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &shard.index) ||
      !absl::SimpleAtoi(parts[1], &shard.count) || shard.index < 1 || shard.index > shard.count) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shard: expected K/N with 1 <= K <= N, got \"", text, "\""));
  }
  --shard.index;
  return shard;
}

}  // namespace siglip::cli
