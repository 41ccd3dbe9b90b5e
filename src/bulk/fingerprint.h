#pragma once

// What tells one job's inputs, one checkpoint and one set of rows from another.

#include <string>

#include "absl/status/statusor.h"
#include "bulk/embedded_rows.h"
#include "bulk/item_source.h"

namespace siglip::bulk {

// Of a snapshot folder: the name, size and every byte of each file that loading it reads, and of
// nothing else that lies there. Weights go through ContentHash, which is several times as fast as
// SHA-256. A checkpoint that is made to be taken for another one may be.
absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder);

// Of the pictures' rows in order, file by file: width, kind of numbers, size, first MiB and 256
// samples of 4 KiB evenly over the rest, so that a hundred gigabytes cost milliseconds. Rows of two
// checkpoints differ in nearly every sample; a few rows changed by hand may go unseen.
std::string RowsFingerprint(const EmbeddedRows& rows);

// Of the names in order; of archives also size and time of change, since positions in them are
// kept.
std::string ItemsFingerprint(const JobItems& items);

}  // namespace siglip::bulk
