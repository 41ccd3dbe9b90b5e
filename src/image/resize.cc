#include "image/resize.h"

#include "base/status_macros.h"
#include "image/resize_kernels.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace siglip {
namespace {

RgbImage NewImage(int width, int height) {
  RgbImage image;
  image.width = width;
  image.height = height;
  image.pixels =
      PixelBuffer(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  return image;
}

std::size_t RowBytes(int width) { return static_cast<std::size_t>(width) * 3; }

const std::uint8_t* RowOf(const RgbImage& image, int y) {
  return image.pixels.data() + static_cast<std::size_t>(y) * RowBytes(image.width);
}

std::uint8_t* RowOf(RgbImage& image, int y) {
  return image.pixels.data() + static_cast<std::size_t>(y) * RowBytes(image.width);
}

// Rows first..first+rows-1 of `in` through the horizontal pass into out(row).
template <class OutRow>
void HorizontalBatch(const RgbImage& in, int first, int rows, const ResampleTable& table,
                     OutRow&& out_row) {
  const std::uint8_t* in_rows[kHorizontalBatch];
  std::uint8_t* out_rows[kHorizontalBatch];
  for (int i = 0; i < kHorizontalBatch; ++i) {
    const int row = first + std::min(i, rows - 1);
    in_rows[i] = RowOf(in, row);
    out_rows[i] = out_row(row);
  }
  HorizontalPass(in_rows, out_rows, table);
}

RgbImage HorizontalOnly(const RgbImage& image, const ResampleTable& table) {
  RgbImage out = NewImage(table.out_size, image.height);
  for (int y = 0; y < image.height; y += kHorizontalBatch) {
    HorizontalBatch(image, y, std::min(kHorizontalBatch, image.height - y), table,
                    [&](int row) { return RowOf(out, row); });
  }
  return out;
}

RgbImage VerticalOnly(const RgbImage& image, const ResampleTable& table) {
  RgbImage out = NewImage(image.width, table.out_size);
  std::vector<const std::uint8_t*> rows(static_cast<std::size_t>(table.padded_taps));
  for (int y = 0; y < table.out_size; ++y) {
    for (int t = 0; t < table.count[y]; ++t) rows[t] = RowOf(image, table.first[y] + t);
    VerticalPass(rows.data(), table.count[y], table.TapsOf(y),
                 static_cast<std::int64_t>(RowBytes(image.width)), RowOf(out, y));
  }
  return out;
}

// Horizontal pass, then vertical. The rows between the passes live in a ring just long enough for
// the vertical pass' window, so that they stay in the cache and a tall picture needs little memory.
absl::StatusOr<RgbImage> HorizontalThenVertical(const RgbImage& image,
                                                const ResampleTable& horizontal,
                                                const ResampleTable& vertical) {
  const std::int64_t ring_rows =
      std::min<std::int64_t>(*std::max_element(vertical.count.begin(), vertical.count.end()) +
                                 std::int64_t{kHorizontalBatch},
                             image.height);
  const std::size_t stride = RowBytes(horizontal.out_size) + PixelBuffer::kPadding;
  if (ring_rows * static_cast<std::int64_t>(stride) > kMaxResampleRingBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("resize of ", image.width, "x", image.height, " pixels needs ",
                     ring_rows * static_cast<std::int64_t>(stride),
                     " bytes between the passes, the limit is ", kMaxResampleRingBytes));
  }
  PixelBuffer ring(static_cast<std::size_t>(ring_rows) * stride);
  const auto ring_row = [&](int row) {
    return ring.data() + static_cast<std::size_t>(row % ring_rows) * stride;
  };
  RgbImage out = NewImage(horizontal.out_size, vertical.out_size);
  std::vector<const std::uint8_t*> rows(static_cast<std::size_t>(vertical.padded_taps));
  int done = vertical.first[0];
  for (int y = 0; y < vertical.out_size; ++y) {
    const int first = vertical.first[y];
    const int end = first + vertical.count[y];
    while (done < end) {
      // A full batch may run past `end`: the ring has kHorizontalBatch rows to spare.
      const int batch = std::min(kHorizontalBatch, image.height - done);
      HorizontalBatch(image, done, batch, horizontal, ring_row);
      done += batch;
    }
    for (int t = 0; t < vertical.count[y]; ++t) rows[t] = ring_row(first + t);
    VerticalPass(rows.data(), vertical.count[y], vertical.TapsOf(y),
                 static_cast<std::int64_t>(RowBytes(out.width)), RowOf(out, y));
  }
  return out;
}

RgbImage VerticalThenHorizontal(const RgbImage& image, const ResampleTable& horizontal,
                                const ResampleTable& vertical) {
  RgbImage out = NewImage(horizontal.out_size, vertical.out_size);
  RgbImage batch = NewImage(image.width, kHorizontalBatch);
  std::vector<const std::uint8_t*> rows(static_cast<std::size_t>(vertical.padded_taps));
  for (int y = 0; y < vertical.out_size; y += kHorizontalBatch) {
    const int batch_rows = std::min(kHorizontalBatch, vertical.out_size - y);
    for (int i = 0; i < batch_rows; ++i) {
      const int first = vertical.first[y + i];
      const int count = vertical.count[y + i];
      for (int t = 0; t < count; ++t) rows[t] = RowOf(image, first + t);
      VerticalPass(rows.data(), count, vertical.TapsOf(y + i),
                   static_cast<std::int64_t>(RowBytes(image.width)), RowOf(batch, i));
    }
    HorizontalBatch(batch, 0, batch_rows, horizontal, [&](int row) { return RowOf(out, y + row); });
  }
  return out;
}

}  // namespace

absl::StatusOr<RgbImage> ResizeRgb(const RgbImage& image, int out_width, int out_height,
                                   Resample filter, PillowVersion pillow) {
  const bool needs_horizontal = image.width != out_width;
  const bool needs_vertical = image.height != out_height;
  if (!needs_horizontal && !needs_vertical) {
    RgbImage copy = NewImage(out_width, out_height);
    std::memcpy(copy.pixels.data(), image.pixels.data(), image.pixels.size());
    return copy;
  }
  ResampleTable horizontal;
  ResampleTable vertical;
  if (needs_horizontal) {
    SIGLIP_ASSIGN_OR_RETURN(horizontal, MakeResampleTable(image.width, out_width, filter));
  }
  if (needs_vertical) {
    SIGLIP_ASSIGN_OR_RETURN(vertical, MakeResampleTable(image.height, out_height, filter));
  }
  if (!needs_vertical) return HorizontalOnly(image, horizontal);
  if (!needs_horizontal) return VerticalOnly(image, vertical);
  if (VerticalPassFirst(image.width, image.height, out_width, out_height, pillow)) {
    return VerticalThenHorizontal(image, horizontal, vertical);
  }
  return HorizontalThenVertical(image, horizontal, vertical);
}

}  // namespace siglip
