#pragma once

// Runs plans on the CPU in float64, element by element as the plan says: what the GPU computes but
// for rounding. Quantising copies.

#include <cmath>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "engine/cuda/plan.h"
#include "kernels/reference.h"

namespace siglip::cuda {

class HostExecutor {
 public:
  explicit HostExecutor(const TowerProgram& program) : program_(program) {
    for (const Weight& weight : program.weights()) {
      std::vector<float> filled(weight.filled_rows * weight.filled_columns, NAN);
      weight.fill(filled);
      std::vector<double> padded(weight.rows * weight.columns, 0.0);
      for (std::int64_t i = 0; i < std::ssize(filled); ++i) {
        padded[i / weight.filled_columns * weight.columns + i % weight.filled_columns] = filled[i];
      }
      weights_.push_back(std::move(padded));
    }
  }

  // inputs: pixels or ids of each item. Embeddings [items, D].
  template <class T>
  std::vector<double> Run(const Plan& plan, const std::vector<std::vector<T>>& inputs) {
    for (std::size_t b = 0; b < kNumBuffers; ++b) buffers_[b].assign(plan.elements[b], NAN);
    if constexpr (std::is_same_v<T, float>) {
      Patches(std::get<PatchesOp>(plan.input), inputs);
    } else {
      Tokens(std::get<TokensOp>(plan.input), inputs);
    }
    for (const Op& op : plan.ops) std::visit([this](const auto& o) { Do(o); }, op);
    return buffer(Buffer::kHead);
  }

 private:
  std::vector<double>& buffer(Buffer b) { return buffers_[static_cast<std::size_t>(b)]; }
  // at() so that a plan that leaves its buffers throws.
  double& At(const Rows& rows, std::int64_t row, std::int64_t column) {
    return buffer(rows.buffer).at(rows.offset + row * rows.stride + column);
  }
  double W(WeightId id, std::int64_t i) const { return weights_.at(id).at(i); }

  void Patches(const PatchesOp& op, const std::vector<std::vector<float>>& images) {
    std::vector<double>& to = buffer(Buffer::kPatches);
    const std::int64_t filled = op.channels * op.patch * op.patch;
    for (std::size_t row = 0; row < to.size() / op.padded; ++row) {
      const std::int64_t token = row % (op.per_side * op.per_side);
      for (std::int64_t i = 0; i < op.padded; ++i) {
        const std::int64_t y = token / op.per_side * op.patch + i / op.patch % op.patch;
        const std::int64_t x = token % op.per_side * op.patch + i % op.patch;
        to[row * op.padded + i] =
            i >= filled
                ? 0.0
                : images[row / (op.per_side * op.per_side)]
                        [(i / (op.patch * op.patch) * op.image_size + y) * op.image_size + x];
      }
    }
  }
  void Tokens(const TokensOp& op, const std::vector<std::vector<std::int64_t>>& ids) {
    for (std::size_t item = 0; item < ids.size(); ++item) {
      for (std::int64_t i = 0; i < op.tokens * op.width; ++i) {
        buffer(Buffer::kStream)[item * op.tokens * op.width + i] =
            W(op.table, ids[item][i / op.width] * op.width + i % op.width) + W(op.positions, i);
      }
    }
  }
  void Do(const FillOp& op) {
    for (std::int64_t i = 0; i < op.rows * op.width; ++i) {
      At(op.y, i / op.width, i % op.width) =
          W(op.addend, i / op.width % op.period * op.width + i % op.width);
    }
  }
  void Do(const NormOp& op) {
    for (std::int64_t r = 0; r < op.rows; ++r) {
      double mean = 0, variance = 0;
      for (std::int64_t i = 0; i < op.width; ++i) mean += At(op.x, r, i);
      mean /= static_cast<double>(op.width);
      for (std::int64_t i = 0; i < op.width; ++i) variance += std::pow(At(op.x, r, i) - mean, 2);
      variance /= static_cast<double>(op.width);
      for (std::int64_t i = 0; i < op.width; ++i) {
        At(op.y, r, i) = (At(op.x, r, i) - mean) / std::sqrt(variance + op.eps) * W(op.weight, i) +
                         W(op.bias, i);
      }
    }
  }
  void Do(const QuantiseOp& op) {
    for (std::int64_t i = 0; i < op.rows * op.width; ++i) {
      At({Buffer::kQuantised, 0, op.width}, i / op.width, i % op.width) =
          At(op.x, i / op.width, i % op.width);
    }
  }
  void Do(const LinearOp& op) {
    for (std::int64_t part = 0; part < op.count; ++part) {
      Rows x = op.x, y = op.y;
      x.offset += part * op.x_step;
      y.offset += part * op.y_step;
      for (std::int64_t i = 0; i < op.rows * op.n; ++i) {
        const std::int64_t row = i / op.n, j = i % op.n;
        double sum = op.bias == kNone ? 0 : W(op.bias, j);
        for (std::int64_t k = 0; k < op.k; ++k) {
          sum += At(x, row, k) * W(op.weight, part * op.weight_step + j * op.k + k);
        }
        if (op.gelu) sum = reference::GeluTanh(sum);
        double& to = At(y, row, j);
        to = op.accumulate ? to + sum : sum;
      }
    }
  }
  void Do(const AttentionOp& op) {
    const std::int64_t width = op.heads * op.head_dim;
    for (std::int64_t item = 0; item < op.items; ++item) {
      const auto part = [&](std::int64_t which, std::int64_t begin, std::int64_t count) {
        reference::Matrix m;
        for (std::int64_t i = 0; i < count * width; ++i) {
          m.push_back(At({Buffer::kWide, which * width, 3 * width},
                         item * op.tokens + begin + i / width, i % width));
        }
        return m;
      };
      const reference::Matrix out =
          reference::Attention(part(0, op.query_begin, op.query_count), part(1, 0, op.tokens),
                               part(2, 0, op.tokens), op.heads, op.head_dim);
      for (std::int64_t i = 0; i < std::ssize(out); ++i) {
        At(op.y, item * op.query_count + i / width, i % width) = out[i];
      }
    }
  }
  void Do(const PoolOp& op) {
    for (std::int64_t i = 0; i < op.items * op.heads; ++i) {
      const std::int64_t first = i / op.heads * op.tokens;
      const auto score = [&](std::int64_t t) {
        return buffer(Buffer::kScores).at((first + t) * op.heads + i % op.heads);
      };
      double max = -INFINITY, sum = 0;
      for (std::int64_t t = 0; t < op.tokens; ++t) max = std::max(max, score(t));
      for (std::int64_t t = 0; t < op.tokens; ++t) sum += std::exp(score(t) - max);
      for (std::int64_t j = 0; j < op.width; ++j) {
        double weighted = 0;
        for (std::int64_t t = 0; t < op.tokens; ++t) {
          weighted +=
              std::exp(score(t) - max) / sum * At({Buffer::kNormed, 0, op.width}, first + t, j);
        }
        buffer(Buffer::kSums).at(i * op.width + j) = weighted;
      }
    }
  }

  const TowerProgram& program_;
  std::vector<std::vector<double>> weights_;
  std::array<std::vector<double>, kNumBuffers> buffers_;
};

}  // namespace siglip::cuda
