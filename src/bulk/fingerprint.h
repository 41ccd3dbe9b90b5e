#pragma once

// What tells one job's inputs and one set of rows from another.

#include <string>

#include "bulk/embedded_rows.h"
#include "bulk/item_source.h"

namespace siglip::bulk {

// Of the pictures' rows in order, file by file: width, kind of numbers, size, first MiB and 256
// samples of 4 KiB evenly over the rest, so that a hundred gigabytes cost milliseconds. Rows of two
// checkpoints differ in nearly every sample; a few rows changed by hand may go unseen.
std::string RowsFingerprint(const EmbeddedRows& rows);

// Of the names in order; of archives also size and time of change, since positions in them are
// kept.
std::string ItemsFingerprint(const JobItems& items);

}  // namespace siglip::bulk
