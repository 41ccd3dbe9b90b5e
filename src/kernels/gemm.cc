#include "kernels/gemm.h"

#include <algorithm>

#include "kernels/gemm_kernels.h"
#include "kernels/parallel.h"

namespace siglip {
namespace {

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// How C is cut into pieces of work.
struct Cut {
  std::int64_t block_rows = 0;
  std::int64_t block_columns = 0;
  std::int64_t row_blocks = 0;
  std::int64_t column_blocks = 0;
};

// A piece reads its rows of A once per K block, so wide pieces pack less often; but each thread
// should have several, since threads do not run at equal speed.
constexpr std::int64_t kPiecesPerThread = 4;
constexpr std::int64_t kMaxBlockColumns = 1536;

Cut CutForThreads(std::int64_t m, std::int64_t n, int threads) {
  const TileShape tile = GemmTileShape();
  Cut cut;
  cut.row_blocks = DivideUp(m, kGemmBlockRows);
  cut.block_rows = DivideUp(DivideUp(m, cut.row_blocks), tile.rows) * tile.rows;
  cut.row_blocks = DivideUp(m, cut.block_rows);
  const std::int64_t panels = DivideUp(n, tile.columns);
  const std::int64_t wanted =
      threads == 1 ? 1 : DivideUp(kPiecesPerThread * threads, cut.row_blocks);
  cut.column_blocks = std::clamp<std::int64_t>(wanted, DivideUp(n, kMaxBlockColumns), panels);
  cut.block_columns = DivideUp(panels, cut.column_blocks) * tile.columns;
  cut.column_blocks = DivideUp(n, cut.block_columns);
  return cut;
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t n, std::int64_t k) : n_(n), k_(k) {
  const std::int64_t lanes = GemmTileShape().lanes;
  padded_n_ = DivideUp(n, lanes) * lanes;
  data_ = AlignedBuffer<float>(static_cast<std::size_t>(padded_n_ * k));
  std::fill(data_.span().begin(), data_.span().end(), 0.0f);
}

void PackedMatrix::SetRows(std::int64_t first, std::int64_t count, const float* rows) {
  const std::int64_t width = GemmTileShape().columns;
  for (std::int64_t k_first = 0; k_first < k_; k_first += kGemmBlockK) {
    const std::int64_t block = std::min(kGemmBlockK, k_ - k_first);
    for (std::int64_t row = 0; row < count; ++row) {
      const std::int64_t column = first + row;  // of C
      const std::int64_t panel = column / width * width;
      const std::int64_t stride = std::min(width, padded_n_ - panel);
      float* to = data_.data() + k_first * padded_n_ + panel * block + (column - panel);
      const float* from = rows + row * k_ + k_first;
      for (std::int64_t i = 0; i < block; ++i) to[i * stride] = from[i];
    }
  }
}

std::size_t GemmScratchFloats() { return static_cast<std::size_t>(kGemmBlockRows * kGemmBlockK); }

std::int64_t GemmPanelWidth() { return GemmTileShape().columns; }

void Gemm(ThreadTeam& team, const GemmCall& call, float* scratch) {
  if (call.m == 0) return;
  const std::int64_t n = call.w->n();
  const Cut cut = CutForThreads(call.m, n, team.num_threads());
  ParallelFor(team, cut.row_blocks * cut.column_blocks, [&](int worker, std::int64_t i) {
    const std::int64_t row = i / cut.column_blocks * cut.block_rows;
    const std::int64_t column = i % cut.column_blocks * cut.block_columns;
    GemmBlock(call, row, std::min(call.m, row + cut.block_rows), column,
              std::min(n, column + cut.block_columns),
              scratch + static_cast<std::size_t>(worker) * GemmScratchFloats());
  });
}

}  // namespace siglip
