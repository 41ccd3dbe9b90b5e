#pragma once

// The two inner loops of the resize, for the best instruction set of the machine. Private to
// src/image.

#include "image/resize.h"

#include <cstdint>

namespace siglip {

inline constexpr int kHorizontalBatch = 4;  // rows that one call of HorizontalPass takes: AVX-512
                                            // has four 128-bit blocks, one row each

// in[i] and out[i] are rows of RGB bytes; the inputs have PixelBuffer::kPadding readable bytes
// after them. Row i may equal row j (a batch that is not full repeats its last row). out[i] gets
// table.out_size pixels and nothing past them.
void HorizontalPass(const std::uint8_t* const in[kHorizontalBatch],
                    std::uint8_t* const out[kHorizontalBatch], const ResampleTable& table);

// rows: count pointers to rows of `row_bytes` bytes with kPadding readable bytes after them;
// taps as ResampleTable::TapsOf. Writes out[0, row_bytes) and up to kPadding-1 bytes after it.
void VerticalPass(const std::uint8_t* const* rows, int count, const std::int16_t* taps,
                  std::int64_t row_bytes, std::uint8_t* out);

}  // namespace siglip
