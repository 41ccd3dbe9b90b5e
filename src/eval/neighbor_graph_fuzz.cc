// Any bytes as the graph of 40 rows: refused, or it can be walked and written again.

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "eval/neighbor_graph.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<float> values = [] {
    std::vector<float> rows;
    for (int i = 0; i < 40 * 4; ++i) rows.push_back(static_cast<float>(i * i % 23) - 11);
    return rows;
  }();
  const siglip::StoredRows rows = {{{reinterpret_cast<const std::byte*>(values.data()), false, 40}},
                                   4};
  const auto graph =
      siglip::NeighborGraph::Parse({reinterpret_cast<const std::byte*>(data), size}, rows);
  if (!graph.ok()) return 0;
  for (const std::int64_t count : {1, 10, 100}) {
    const auto found = (*graph)->Candidates(std::span(values).first(4), count);
    if (!found.ok()) std::abort();
    for (const std::int64_t row : *found) {
      if (row < 0 || row >= 40) std::abort();
    }
  }
  if ((*graph)->Serialize().size() != size) std::abort();
  return 0;
}
