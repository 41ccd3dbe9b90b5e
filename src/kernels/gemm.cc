#include "kernels/gemm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/gemm_kernels.h"
#include "kernels/parallel.h"

namespace siglip {
namespace {

std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Floats of A that are packed at once: they stay in a large third-level cache.
constexpr std::int64_t kPackedFloats = std::int64_t{4} << 20;
// Wide pieces read A less often; but threads do not run at equal speed, so each takes several, and
// the last rows are cut finely.
constexpr std::int64_t kCoarsePiecesPerThread = 4;
constexpr std::int64_t kFinePiecesPerThread = 16;
constexpr std::int64_t kMaxPieceColumns = 576;

// Rows of A that are packed at once; a multiple of kGemmBlockRows.
std::int64_t RowsAtOnce(std::int64_t steps) {
  return std::max<std::int64_t>(1, kPackedFloats / (kGemmBlockRows * (steps + 1))) * kGemmBlockRows;
}

// Rows [begin, end) of C, whose rows of A fit in `scratch`.
void MultiplyRows(ThreadTeam& team, const GemmCall& call, std::int64_t begin, std::int64_t end,
                  float* scratch) {
  const TileShape shape = GemmTileShape();
  const std::int64_t n = call.w->n();
  const std::int64_t row_blocks = DivideUp(end - begin, kGemmBlockRows);
  const std::int64_t block_rows =
      DivideUp(DivideUp(end - begin, row_blocks), shape.rows) * shape.rows;
  const auto block = [&](std::int64_t i) {
    PackedRows rows;
    rows.first_row = begin + i * block_rows;
    rows.rows = std::min(block_rows, end - rows.first_row);
    rows.padded_rows = DivideUp(rows.rows, shape.rows) * shape.rows;
    rows.steps = call.w->steps();
    rows.memory = scratch + i * block_rows * (rows.steps + 1);
    return rows;
  };
  const std::int64_t tiles_per_block = block_rows / shape.rows;
  ParallelFor(team, DivideUp(end - begin, shape.rows), [&](int, std::int64_t tile) {
    PackTile(call, block(tile / tiles_per_block), tile % tiles_per_block);
  });
  const std::int64_t panels = DivideUp(n, shape.columns);
  // Columns of a piece if all of C made so many pieces for each thread.
  const auto piece_columns = [&](std::int64_t per_thread) {
    const std::int64_t wanted =
        std::clamp<std::int64_t>(row_blocks * panels / (per_thread * team.num_threads()), 1,
                                 std::min(panels, kMaxPieceColumns / shape.columns));
    return DivideUp(panels, DivideUp(panels, wanted)) * shape.columns;
  };
  const std::int64_t coarse = piece_columns(kCoarsePiecesPerThread);
  const std::int64_t fine = team.num_threads() == 1 ? coarse : piece_columns(kFinePiecesPerThread);
  const std::int64_t coarse_pieces = (row_blocks - 1) * DivideUp(n, coarse);
  ParallelFor(team, coarse_pieces + DivideUp(n, fine), [&](int, std::int64_t i) {
    const bool last = i >= coarse_pieces;
    const std::int64_t width = last ? fine : coarse;
    const std::int64_t per_row = DivideUp(n, width);
    const std::int64_t column = (last ? i - coarse_pieces : i % per_row) * width;
    GemmPiece(call, block(last ? row_blocks - 1 : i / per_row), column,
              std::min(n, column + width));
  });
}

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t n, std::int64_t k, GemmFormat format)
    : n_(n), k_(k), format_(format) {
  const std::int64_t lanes = GemmTileShape().lanes;
  padded_n_ = DivideUp(n, lanes) * lanes;
  data_ = AlignedBuffer<float>(static_cast<std::size_t>(padded_n_ * steps()));
  std::fill(data_.span().begin(), data_.span().end(), 0.0f);
  if (format == GemmFormat::kInt16) {
    scales_ = AlignedBuffer<float>(static_cast<std::size_t>(padded_n_));
    std::fill(scales_.span().begin(), scales_.span().end(), 0.0f);
  }
}

void PackedMatrix::SetRows(std::int64_t first, std::int64_t count, const float* rows) {
  std::vector<float> integers(static_cast<std::size_t>(steps()));
  for (std::int64_t row = 0; row < count; ++row) {
    const float* from = rows + row * k_;
    if (format_ == GemmFormat::kInt16) {
      QuantizeRow(from, k_, reinterpret_cast<std::int16_t*>(integers.data()),
                  scales_.data() + first + row);
      from = integers.data();
    }
    SetColumn(first + row, from);
  }
}

void PackedMatrix::SetColumn(std::int64_t column, const float* row) {
  const std::int64_t width = GemmTileShape().columns;
  const std::int64_t panel = column / width * width;
  const std::int64_t stride = std::min(width, padded_n_ - panel);
  for (std::int64_t step = 0; step < steps(); step += block_steps()) {
    const std::int64_t block = std::min(block_steps(), steps() - step);
    float* to = data_.data() + step * padded_n_ + panel * block + (column - panel);
    for (std::int64_t i = 0; i < block; ++i) {
      // Integers must not pass through a float register that could change them.
      std::memcpy(to + i * stride, row + step + i, sizeof(float));
    }
  }
}

std::size_t GemmScratchFloats(std::int64_t m, std::int64_t k) {
  const std::int64_t padded = DivideUp(m, GemmTileShape().rows) * GemmTileShape().rows;
  return static_cast<std::size_t>(
      std::min(padded * (k + 1), std::max(kPackedFloats, kGemmBlockRows * (k + 1))));
}

std::int64_t GemmPanelWidth() { return GemmTileShape().columns; }

void Gemm(ThreadTeam& team, const GemmCall& call, float* scratch) {
  const std::int64_t rows = RowsAtOnce(call.w->steps());
  for (std::int64_t begin = 0; begin < call.m; begin += rows) {
    MultiplyRows(team, call, begin, std::min(call.m, begin + rows), scratch);
  }
}

}  // namespace siglip
