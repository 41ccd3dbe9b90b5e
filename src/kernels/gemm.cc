#include "kernels/gemm.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/gemm_kernels.h"
#include "kernels/parallel.h"
#include "kernels/target.h"

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

// Part of PackedLayoutName: to be raised when bytes change that its other parts do not tell, as the
// choice of int16's scale.
constexpr int kPackedVersion = 4;
// Steps of W that are transposed at a time: one cache line of each row is read whole.
constexpr std::int64_t kTransposedSteps = 16;

// Rows of A that a piece of work multiplies.
std::int64_t BlockRows(std::int64_t row_floats, const TileShape& shape) {
  if (shape.block_floats == 0) return shape.block_rows;
  const std::int64_t rows = shape.block_floats / row_floats / shape.rows * shape.rows;
  return std::clamp<std::int64_t>(rows, shape.rows, shape.block_rows);
}

// Rows of A that are packed at once; a multiple of a block's.
std::int64_t RowsAtOnce(std::int64_t row_floats, const TileShape& shape) {
  const std::int64_t block = BlockRows(row_floats, shape);
  return std::max<std::int64_t>(1, kPackedFloats / (block * row_floats)) * block;
}

// Two steps of one row of W into a panel for AMX: `to` is its first pair of tiles.
void SetAmxIntegers(const float* steps, std::int64_t step, std::int64_t column, std::uint8_t* to) {
  std::uint16_t integers[4];
  std::memcpy(integers, steps + step, sizeof(integers));
  to += step / kAmxSteps * kAmxPairBytes + step % kAmxSteps / 2 * kAmxRowBytes + 4 * column;
  for (int i = 0; i < 4; ++i) {
    to[i] = static_cast<std::uint8_t>(integers[i] >> 8);
    to[kAmxTileBytes + i] = static_cast<std::uint8_t>(integers[i]);
  }
}

// Rows [begin, end) of C, whose rows of A fit in `scratch`.
void MultiplyRows(ThreadTeam& team, const GemmCall& call, std::int64_t begin, std::int64_t end,
                  float* scratch) {
  const TileShape shape = GemmTileShape(call.w->format(), call.m);
  const std::int64_t row_floats = PackedRowFloats(call.w->steps(), call.w->format(), shape);
  const std::int64_t n = call.w->n();
  const std::int64_t row_blocks = DivideUp(end - begin, BlockRows(row_floats, shape));
  const std::int64_t block_rows =
      DivideUp(DivideUp(end - begin, row_blocks), shape.rows) * shape.rows;
  const auto block = [&](std::int64_t i) {
    PackedRows rows;
    rows.first_row = begin + i * block_rows;
    rows.rows = std::min(block_rows, end - rows.first_row);
    rows.padded_rows = DivideUp(rows.rows, shape.rows) * shape.rows;
    rows.steps = call.w->steps();
    rows.block_steps = shape.block_steps;
    rows.strassen = shape.strassen;
    rows.memory = scratch + i * block_rows * row_floats;
    return rows;
  };
  const std::int64_t tiles_per_block = block_rows / shape.rows;
  ParallelFor(team, DivideUp(end - begin, shape.rows), [&](int, std::int64_t tile) {
    PackTile(call, block(tile / tiles_per_block), tile % tiles_per_block);
  });
  const std::int64_t panels = DivideUp(n, shape.piece_columns);
  // Columns of a piece if all of C made so many pieces for each thread.
  const auto piece_columns = [&](std::int64_t per_thread) {
    const std::int64_t wanted =
        std::clamp<std::int64_t>(row_blocks * panels / (per_thread * team.num_threads()), 1,
                                 std::min(panels, kMaxPieceColumns / shape.piece_columns));
    return DivideUp(panels, DivideUp(panels, wanted)) * shape.piece_columns;
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

std::int64_t PackedRowFloats(std::int64_t steps, GemmFormat format, const TileShape& shape) {
  const std::int64_t blocks = BlocksOf(steps, shape.block_steps);
  if (shape.strassen) {
    // Seven halves of tiles for two tiles.
    return DivideUp(kStrassenProducts * (StrassenSteps(steps) + blocks), 2) + 1;
  }
  return steps + (IsInteger(format) ? IntegerRowExtra(blocks) : 0);
}

std::string GemmFormatName(GemmFormat format) {
  switch (format) {
    case GemmFormat::kFp32:
      return "fp32";
    case GemmFormat::kInt16:
      return "int16";
    case GemmFormat::kInt8:
      return "int8";
    case GemmFormat::kBf16:
      return "bf16";
  }
  return {};
}

std::string PackedLayoutName(GemmFormat format) {
  const TileShape shape = GemmTileShape(format);
  const bool amx = format != GemmFormat::kFp32 && KernelUsesAmx();
  return absl::StrCat(GemmFormatName(format), "-", VectorTargetName(), amx ? "-amx" : "", "-",
                      shape.columns, "x", shape.lanes, "-", shape.block_steps, "-v",
                      kPackedVersion);
}

std::int64_t GemmBlockSteps(GemmFormat format) { return GemmTileShape(format).block_steps; }

bool GemmHasFormat(GemmFormat format) {
  if (format == GemmFormat::kInt8) return KernelUsesVnni() || KernelUsesAmx();
  return format != GemmFormat::kBf16 || KernelUsesAmx();
}

std::size_t PackedMatrix::MemoryFloats(std::int64_t n, std::int64_t k, GemmFormat format) {
  const TileShape shape = GemmTileShape(format);
  const std::int64_t columns = DivideUp(n, shape.lanes) * shape.lanes;
  return static_cast<std::size_t>(columns *
                                  PackedRowFloats(GemmSteps(k, format, shape), format, shape));
}

PackedMatrix::PackedMatrix(std::int64_t n, std::int64_t k, GemmFormat format,
                           std::span<const float> memory)
    : n_(n), k_(k), format_(format), memory_(memory) {
  const TileShape shape = GemmTileShape(format);
  steps_ = GemmSteps(k, format, shape);
  block_steps_ = shape.block_steps;
  padded_n_ = DivideUp(n, shape.lanes) * shape.lanes;
  SIGLIP_CHECK(memory.size() == MemoryFloats(n, k, format));
}

PackedMatrix::PackedMatrix(std::int64_t n, std::int64_t k, GemmFormat format)
    : n_(n), k_(k), format_(format), owned_(MemoryFloats(n, k, format)), memory_(owned_.span()) {
  const TileShape shape = GemmTileShape(format);
  steps_ = GemmSteps(k, format, shape);
  block_steps_ = shape.block_steps;
  padded_n_ = DivideUp(n, shape.lanes) * shape.lanes;
  if (padded_n_ == n) return;
  // The last panel, for its surplus.
  const std::int64_t panel = n / shape.columns * shape.columns;
  for (std::int64_t step = 0; step < steps(); step += block_steps()) {
    const std::int64_t block = std::min(block_steps(), steps() - step);
    std::fill_n(owned_.data() + step * padded_n_ + panel * block, (padded_n_ - panel) * block,
                0.0f);
  }
  for (std::int64_t i = padded_n_ * steps(); i < static_cast<std::int64_t>(owned_.size());
       i += padded_n_) {
    std::fill(owned_.data() + i + n, owned_.data() + i + padded_n_, 0.0f);
  }
}

void PackedMatrix::SetRows(std::int64_t first, std::int64_t count, const float* rows) {
  ThreadTeam alone(1);
  SetRows(alone, first, count, [&](std::int64_t row, std::int64_t some, float* to) {
    std::copy_n(rows + row * k_, some * k_, to);
  });
}

void PackedMatrix::SetRows(ThreadTeam& team, std::int64_t first, std::int64_t count,
                           const ReadRows& read) {
  const std::int64_t width = GemmTileShape(format_).columns;
  const std::int64_t rows_floats = width * k_;
  const std::int64_t worker_floats = rows_floats + width * steps();
  AlignedBuffer<float> scratch(static_cast<std::size_t>(team.num_threads() * worker_floats));
  const std::int64_t panel = first / width;
  ParallelFor(team, DivideUp(first + count, width) - panel, [&](int worker, std::int64_t i) {
    const std::int64_t begin = std::max(first, (panel + i) * width);
    const std::int64_t end = std::min(first + count, (panel + i + 1) * width);
    float* rows = scratch.data() + worker * worker_floats;
    read(begin - first, end - begin, rows);
    SetColumns(begin, end - begin, rows, rows + rows_floats);
  });
}

void PackedMatrix::SetFactors(std::int64_t column, std::int64_t count, const float* rows,
                              float* factors) {
  float* scales = owned_.data() + padded_n_ * steps() + column;
  auto* products = reinterpret_cast<std::int32_t*>(scales + padded_n_);
  std::fill_n(factors, count * steps(), 0.0f);  // past K too
  for (std::int64_t c = 0; c < count; ++c) {
    const float* row = rows + c * k_;
    float* to = factors + c * steps();
    switch (format_) {
      case GemmFormat::kFp32:
        break;
      case GemmFormat::kInt16:
        QuantizeRow(row, k_,
                    {.max_integer = GemmTileShape(format_).limits.weight,
                     .block_steps = block_steps_,
                     .integers = reinterpret_cast<std::int16_t*>(to),
                     .scale = scales + c,
                     .cross_products = products + c,
                     .stride = padded_n_});
        break;
      case GemmFormat::kInt8:
        QuantizeRowInt8(row, k_,
                        {.integers = reinterpret_cast<std::int8_t*>(to),
                         .scale = scales + c,
                         .negated_sums = products + c,
                         .stride = padded_n_});
        break;
      case GemmFormat::kBf16:
        RoundRowToBf16(row, k_, reinterpret_cast<std::uint16_t*>(to));
        break;
    }
  }
}

void PackedMatrix::SetColumns(std::int64_t column, std::int64_t count, const float* rows,
                              float* factors) {
  const float* from = rows;
  if (format_ != GemmFormat::kFp32) {
    SetFactors(column, count, rows, factors);
    from = factors;
  }
  const std::int64_t width = GemmTileShape(format_).columns;
  const std::int64_t panel = column / width * width;
  const std::int64_t stride = std::min(width, padded_n_ - panel);
  const bool amx = format_ == GemmFormat::kInt16 && KernelUsesAmx();
  for (std::int64_t step = 0; step < steps(); step += block_steps()) {
    const std::int64_t block = std::min(block_steps(), steps() - step);
    if (amx) {
      auto* tiles =
          reinterpret_cast<std::uint8_t*>(owned_.data() + step * padded_n_ + panel * block);
      for (std::int64_t c = 0; c < count; ++c) {
        const float* row = from + c * steps() + step;
        for (std::int64_t i = 0; i < block; i += 2) {
          SetAmxIntegers(row, i, column - panel + c, tiles);
        }
      }
      continue;
    }
    float* to = owned_.data() + step * padded_n_ + panel * block + (column - panel);
    for (std::int64_t i = 0; i < block; i += kTransposedSteps) {
      const std::int64_t some = std::min(kTransposedSteps, block - i);
      for (std::int64_t c = 0; c < count; ++c) {
        const float* row = from + c * steps() + step + i;
        // Integers must not pass through a float register that could change them.
        for (std::int64_t j = 0; j < some; ++j) {
          std::memcpy(to + (i + j) * stride + c, row + j, sizeof(float));
        }
      }
    }
  }
}

std::size_t GemmScratchFloats(std::int64_t m, std::int64_t k) {
  std::int64_t floats = 0;
  for (const GemmFormat format :
       {GemmFormat::kFp32, GemmFormat::kInt16, GemmFormat::kInt8, GemmFormat::kBf16}) {
    for (const std::int64_t some : {m, std::min(m, kStrassenMinRows - 1)}) {
      const TileShape shape = GemmTileShape(format, some);
      const std::int64_t row_floats = PackedRowFloats(GemmSteps(k, format, shape), format, shape);
      const std::int64_t rows =
          std::min(DivideUp(some, shape.rows) * shape.rows, RowsAtOnce(row_floats, shape));
      floats = std::max(floats, rows * row_floats);
    }
  }
  return static_cast<std::size_t>(floats);
}

std::int64_t GemmPanelWidth() { return GemmTileShape(GemmFormat::kFp32).columns; }

void Gemm(ThreadTeam& team, const GemmCall& call, float* scratch) {
  const TileShape shape = GemmTileShape(call.w->format(), call.m);
  const std::int64_t most =
      RowsAtOnce(PackedRowFloats(call.w->steps(), call.w->format(), shape), shape);
  // Equal parts: a small last one would be slow for its size.
  const std::int64_t parts = std::max<std::int64_t>(1, DivideUp(call.m, most));
  const std::int64_t rows = DivideUp(DivideUp(call.m, parts), shape.rows) * shape.rows;
  for (std::int64_t begin = 0; begin < call.m; begin += rows) {
    MultiplyRows(team, call, begin, std::min(call.m, begin + rows), scratch);
  }
}

}  // namespace siglip
