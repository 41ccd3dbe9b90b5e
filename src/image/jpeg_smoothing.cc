// Source: libjpeg-turbo 3.2.0 src/jdcoefct.c, smoothing_ok and decompress_smooth_data.

#include "image/jpeg_smoothing.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace siglip {
namespace {

// A coefficient as a weighted sum of the averages of 5x5 blocks, itself in the middle.
struct Estimate {
  int zigzag;
  int natural;
  std::array<int, 25> weights;
};

constexpr int kSaved = 10;  // the average and the nine coefficients that can be estimated

// Where the averages are all that is known.
constexpr Estimate kFromAverages[] = {
    {0, 0, {-2, -6, -8, -6, -2, -6, 6,  42, 6,  -6, -8, 42, 152,
            42, -8, -6, 6,  42, 6,  -6, -2, -6, -8, -6, -2}},
    {1, 1, {-1,  -1, 0,  1,  1, -3,  13, 0,  -13, 3, -3, 38, 0,
            -38, 3,  -3, 13, 0, -13, 3,  -1, -1,  0, 1,  1}},
    {2, 8, {-1, -3, -3, -3,  -1,  -1,  13, 38, 13, -1, 0, 0, 0,
            0,  0,  1,  -13, -38, -13, 1,  1,  3,  3,  3, 1}},
    {3, 16, {0, 0, 1, 0, 0, 0, 2, 7, 2, 0, 0, -5, -14, -5, 0, 0, 2, 7, 2, 0, 0, 0, 1, 0, 0}},
    {4, 9, {-1, 0, 0, 0, 1, 0, 9, 0, -9, 0, 0, 0, 0, 0, 0, 0, -9, 0, 9, 0, 1, 0, 0, 0, -1}},
    {5, 2, {0, 0, 0, 0, 0, 0, 2, -5, 2, 0, 1, 7, -14, 7, 1, 0, 2, -5, 2, 0, 0, 0, 0, 0, 0}},
    {6, 3, {0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, 2, 0, -2, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0}},
    {7, 10, {0, 0, 0, 0, 0, 0, 1, -3, 1, 0, 0, 0, 0, 0, 0, 0, -1, 3, -1, 0, 0, 0, 0, 0, 0}},
    {8, 17, {0, 0, 0, 0, 0, 0, 1, 0, -1, 0, 0, -3, 0, 3, 0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0}},
    {9, 24, {0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, -1, -2, -1, 0, 0, 0, 0, 0, 0}},
};

// Where some coefficients are known, too.
constexpr Estimate kBesideCoefficients[] = {
    {1, 1, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -7, 50, 0, -50, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {2, 8, {0, 0, -7, 0, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, -50, 0, 0, 0, 0, 7, 0, 0}},
    {3, 16, {0, 0, -1, 0, 0, 0, 0, 13, 0, 0, 0, 0, -24, 0, 0, 0, 0, 13, 0, 0, 0, 0, -1, 0, 0}},
    {4, 9, {0, -1, 0, 1, 0, -1, 10, 0, -10, 1, 0, 0, 0, 0, 0, 1, -10, 0, 10, -1, 0, 1, 0, -1, 0}},
    {5, 2, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 13, -24, 13, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
};

// How many low bits of each coefficient are missing; -1: all are.
using MissingBits = std::array<int, kSaved>;

MissingBits Missing(j_decompress_ptr info, int component, bool is_before_last_scan) {
  MissingBits missing;
  const bool has_scan_before = info->input_scan_number > 1;
  const int row = component + (is_before_last_scan ? info->num_components : 0);
  for (int i = 0; i < kSaved; ++i) {
    missing[static_cast<std::size_t>(i)] =
        is_before_last_scan && !has_scan_before ? -1 : info->coef_bits[row][i];
  }
  return missing;
}

bool NeedsSmoothing(j_decompress_ptr info) {
  if (!info->progressive_mode || info->coef_bits == nullptr) return false;
  bool is_incomplete = false;
  for (int c = 0; c < info->num_components; ++c) {
    const JQUANT_TBL* table = info->comp_info[c].quant_table;
    if (table == nullptr || info->coef_bits[c][0] < 0) return false;
    for (const Estimate& estimate : kFromAverages) {
      if (table->quantval[estimate.natural] == 0) return false;
    }
    const MissingBits missing = Missing(info, c, false);
    is_incomplete |= std::any_of(missing.begin() + 1, missing.end(), [](int m) { return m != 0; });
  }
  return is_incomplete;
}

// The sum over the step of the coefficient, to the nearest; no more than the missing bits hold.
JCOEF Quantized(std::int64_t sum, std::int64_t step, int missing_bits) {
  std::int64_t magnitude = (step * 128 + std::abs(sum)) / (step * 256);
  if (missing_bits > 0) {
    magnitude = std::min(magnitude, (std::int64_t{1} << missing_bits) - 1);
  }
  return static_cast<JCOEF>(sum >= 0 ? magnitude : -magnitude);
}

class Component {
 public:
  Component(j_decompress_ptr info, int index, jvirt_barray_ptr coefficients)
      : info_(info),
        component_(info->comp_info[index]),
        coefficients_(coefficients),
        index_(index),
        columns_(static_cast<std::int64_t>(component_.width_in_blocks)) {
    const std::size_t rows =
        std::size_t{info->total_iMCU_rows} * static_cast<std::size_t>(component_.v_samp_factor);
    const std::size_t columns = component_.width_in_blocks;
    averages_ = static_cast<JCOEF*>(info->mem->alloc_large(
        reinterpret_cast<j_common_ptr>(info), JPOOL_IMAGE, rows * columns * sizeof(JCOEF)));
    for (std::size_t y = 0; y < rows; ++y) {
      const JBLOCKROW blocks = Row(static_cast<JDIMENSION>(y));
      for (std::size_t x = 0; x < columns; ++x) averages_[y * columns + x] = blocks[x][0];
    }
  }

  void Smooth(JDIMENSION last_good_row) {
    for (JDIMENSION mcu_row = 0; mcu_row < info_->total_iMCU_rows; ++mcu_row) {
      const MissingBits missing = Missing(info_, index_, mcu_row > last_good_row);
      const bool has_averages_only =
          std::all_of(missing.begin() + 1, missing.end(), [](int m) { return m == -1; });
      SmoothMcuRow(mcu_row, missing,
                   has_averages_only ? std::span<const Estimate>(kFromAverages)
                                     : std::span<const Estimate>(kBesideCoefficients));
    }
  }

 private:
  JBLOCKROW Row(JDIMENSION y) {
    return info_->mem->access_virt_barray(reinterpret_cast<j_common_ptr>(info_), coefficients_, y,
                                          1, TRUE)[0];
  }

  void SmoothMcuRow(JDIMENSION mcu_row, const MissingBits& missing,
                    std::span<const Estimate> estimates) {
    const std::int64_t height = component_.v_samp_factor;
    std::int64_t rows = height;
    if (mcu_row + 1 == info_->total_iMCU_rows && component_.height_in_blocks % height != 0) {
      rows = component_.height_in_blocks % height;
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      // libjpeg's place in the picture, by which it knows its borders: wrong in a last row of MCUs
      // that is not full.
      const std::int64_t place = mcu_row * rows + i;
      const std::int64_t end = info_->total_iMCU_rows * rows;
      const std::int64_t y = mcu_row * height + i;
      const std::int64_t above = std::min<std::int64_t>(place, 2);
      const std::int64_t below = std::min<std::int64_t>(end - 1 - place, 2);
      const JBLOCKROW blocks = Row(static_cast<JDIMENSION>(y));
      for (std::int64_t x = 0; x < columns_; ++x) {
        SmoothBlock(Around(x, y, above, below), missing, estimates, blocks[x]);
      }
    }
  }

  // The averages of 5x5 blocks, the last ones repeated past the borders.
  std::array<int, 25> Around(std::int64_t x, std::int64_t y, std::int64_t above,
                             std::int64_t below) const {
    std::array<int, 25> averages;
    std::size_t at = 0;
    for (std::int64_t dy = -2; dy <= 2; ++dy) {
      const JCOEF* row = averages_ + (y + std::clamp(dy, -above, below)) * columns_;
      for (std::int64_t dx = -2; dx <= 2; ++dx) {
        averages[at++] = row[std::clamp<std::int64_t>(x + dx, 0, columns_ - 1)];
      }
    }
    return averages;
  }

  void SmoothBlock(const std::array<int, 25>& averages, const MissingBits& missing,
                   std::span<const Estimate> estimates, JCOEF* block) const {
    const UINT16* steps = component_.quant_table->quantval;
    for (const Estimate& estimate : estimates) {
      const int missing_bits = missing[static_cast<std::size_t>(estimate.zigzag)];
      const bool is_average = estimate.zigzag == 0;
      if (!is_average && (missing_bits == 0 || block[estimate.natural] != 0)) continue;
      std::int64_t sum = 0;
      for (std::size_t i = 0; i < averages.size(); ++i) sum += averages[i] * estimate.weights[i];
      block[estimate.natural] =
          Quantized(sum * steps[0], steps[estimate.natural], is_average ? 0 : missing_bits);
    }
  }

  const j_decompress_ptr info_;
  const jpeg_component_info& component_;
  const jvirt_barray_ptr coefficients_;
  const int index_;
  const std::int64_t columns_;
  JCOEF* averages_ = nullptr;  // as they were read, [rows, columns_]; libjpeg's
};

}  // namespace

void SmoothBlocks(j_decompress_ptr info, jvirt_barray_ptr* coefficients, JDIMENSION last_good_row) {
  if (!NeedsSmoothing(info)) return;
  for (int c = 0; c < info->num_components; ++c) {
    Component(info, c, coefficients[c]).Smooth(last_good_row);
  }
}

}  // namespace siglip
