#pragma once

// The file of `siglip index`: which rows it is of, and the graph over them. A line "siglip index
// 1", a line of JSON, the graph (eval/neighbor_graph.h), and the SHA-256 of all before it.

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "bulk/embedded_rows.h"
#include "eval/neighbor_graph.h"

namespace siglip::cli {

// What an index says of the rows that it was made of.
struct IndexHead {
  std::string rows_path;    // seen from the folder of the index, unless it is absolute
  std::string rows_sha256;  // bulk::RowsFingerprint
  std::int64_t rows = 0;
  std::int64_t width = 0;
};

// True unless `path` is what siglip embed writes: a folder, or FILE.npy.
bool IsIndexFile(const std::string& path);

StoredRows StoredRowsOf(const bulk::EmbeddedRows& rows);

// Written as a whole or not at all. `rows_path` is where `rows` were opened.
absl::Status WriteIndexFile(const std::string& path, const std::string& rows_path,
                            const bulk::EmbeddedRows& rows, const NeighborGraph& graph);

// An index that was opened, and its rows.
struct OpenedIndex {
  std::unique_ptr<bulk::EmbeddedRows> rows;
  std::unique_ptr<NeighborGraph> graph;  // of `rows`
};

// Nothing in the file is read before its SHA-256 is right, and nothing believed because it is.
// Errors name the file: no index, a damaged one, one whose rows are gone or have changed.
absl::StatusOr<OpenedIndex> OpenIndexFile(const std::string& path);

}  // namespace siglip::cli
