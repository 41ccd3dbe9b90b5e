#include "base/rgb_resizer.h"
#include "base/status_macros.h"
#include "image/preprocess.h"
#include "image/resize.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <optional>
#include <random>

namespace siglip {
namespace {

ResizePass PassOf(const ResampleTable& table) {
  ResizePass pass;
  pass.in_size = table.in_size;
  pass.out_size = table.out_size;
  pass.first = table.first;
  pass.count = table.count;
  pass.num_taps = *std::max_element(table.count.begin(), table.count.end());
  const auto outputs = static_cast<std::size_t>(table.out_size);
  pass.taps.resize(static_cast<std::size_t>(pass.num_taps) * outputs);
  for (int o = 0; o < table.out_size; ++o) {
    const std::int16_t* taps = table.TapsOf(o);
    for (int j = 0; j < pass.num_taps; ++j) {
      const std::int16_t* group = taps + (j / 4) * 8 + j % 4;
      pass.taps[static_cast<std::size_t>(j) * outputs + static_cast<std::size_t>(o)] =
          group[0] * 2048 + group[4];
    }
  }
  return pass;
}

// Null if the size stays.
absl::StatusOr<std::optional<ResizePass>> MakePass(int from, int to, Resample filter) {
  if (from == to) return std::nullopt;
  SIGLIP_ASSIGN_OR_RETURN(const ResampleTable table, MakeResampleTable(from, to, filter));
  return PassOf(table);
}

const ResizePass* PointerTo(const std::optional<ResizePass>& pass) {
  return pass ? &*pass : nullptr;
}

RgbImage NewImage(const PixelSize& size) {
  RgbImage image;
  image.width = size.width;
  image.height = size.height;
  image.pixels =
      PixelBuffer(static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height) * 3);
  return image;
}

// Edges as they occur only in noise: sums past 0 and 255 must be clipped.
RgbImage Noise(const PixelSize& size) {
  RgbImage image = NewImage(size);
  std::minstd_rand random(1);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    const auto bits = static_cast<std::uint32_t>(random() >> 8);
    image.pixels[i] = static_cast<std::uint8_t>((bits & 3) == 0   ? 0
                                                : (bits & 3) == 1 ? 255
                                                                  : bits >> 2 & 255);
  }
  return image;
}

absl::Status CheckShape(const PreprocessOptions& options, const PixelSize& from,
                        RgbResizer& resizer) {
  const RgbImage image = Noise(from);
  const PixelSize to{options.image_size, options.image_size};
  SIGLIP_ASSIGN_OR_RETURN(const RgbImage expected,
                          ResizeRgb(image, to.width, to.height, options.resample, options.pillow));
  const auto error = [&](const char* got) {
    return absl::InternalError(absl::StrCat("GPU resize of ", from.width, "x", from.height, " to ",
                                            to.width, "x", to.height,
                                            ": expected the CPU's pixels, got ", got));
  };
  for (int place = 0; place < resizer.num_places(); ++place) {
    if (!resizer.Takes(from.width, from.height)) return error("a refusal");
    SIGLIP_ASSIGN_OR_RETURN(
        const std::optional<RgbImage> got,
        ResizeRgbBy(resizer, image.pixels.data(), from, to, options.resample, options.pillow));
    if (!got) return error("none");
    if (std::memcmp(got->pixels.data(), expected.pixels.data(), expected.pixels.size()) != 0) {
      return error("others");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<RgbImage>> ResizeRgbBy(RgbResizer& resizer, const std::uint8_t* rgb,
                                                    const PixelSize& from, const PixelSize& to,
                                                    Resample filter, PillowVersion pillow) {
  SIGLIP_ASSIGN_OR_RETURN(const std::optional<ResizePass> horizontal,
                          MakePass(from.width, to.width, filter));
  SIGLIP_ASSIGN_OR_RETURN(const std::optional<ResizePass> vertical,
                          MakePass(from.height, to.height, filter));
  if (!horizontal && !vertical) return std::nullopt;
  RgbImage out = NewImage(to);
  SIGLIP_ASSIGN_OR_RETURN(const bool done,
                          resizer.Resize({.rgb = rgb,
                                          .width = from.width,
                                          .height = from.height,
                                          .horizontal = PointerTo(horizontal),
                                          .vertical = PointerTo(vertical),
                                          .vertical_first = VerticalPassFirst(
                                              from.width, from.height, to.width, to.height, pillow),
                                          .out = out.pixels.data()}));
  if (!done) return std::nullopt;
  return out;
}

absl::Status CheckResizer(const PreprocessOptions& options, RgbResizer& resizer) {
  const int side = options.image_size;
  // Down, of a tall picture the other way round, up, and one pass each.
  const PixelSize shapes[] = {{side * 4 / 3 + 1, side + 1},
                              {side + 1, side * 5 / 2},
                              {side / 3 + 1, side / 2 + 1},
                              {side, side + 7},
                              {side + 7, side}};
  try {
    for (const PixelSize& shape : shapes) {
      SIGLIP_RETURN_IF_ERROR(CheckShape(options, shape, resizer));
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("GPU resize: no memory to check it");
  }
  return absl::OkStatus();
}

}  // namespace siglip
