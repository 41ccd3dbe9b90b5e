#pragma once

// What tells one job's inputs, one checkpoint and one set of rows from another.

#include <string>

#include "absl/status/statusor.h"
#include "bulk/embedded_rows.h"
#include "bulk/item_source.h"

namespace siglip::bulk {

// Of a snapshot folder: every *.json and *.model file whole; of each *.safetensors its name, size,
// first MiB (the tensors' names and shapes) and 256 samples of 4 KiB evenly over the rest, so that
// gigabytes cost milliseconds. Two trainings differ in nearly every sample; a file with a few bytes
// changed by hand may go unseen.
absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder);

// Of the pictures' rows in order, file by file: width, kind of numbers, size and samples as above.
std::string RowsFingerprint(const EmbeddedRows& rows);

// Of the names in order; of archives also size and time of change, since positions in them are
// kept.
std::string ItemsFingerprint(const JobItems& items);

}  // namespace siglip::bulk
