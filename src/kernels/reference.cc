#include "kernels/reference.h"

#include <algorithm>
#include <cmath>

namespace siglip::reference {

double GeluTanh(double x) {
  const double u = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1 + std::tanh(u));
}

double Dot(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Matrix Linear(const Matrix& a, std::int64_t m, const Matrix& w, const Matrix& bias, std::int64_t n,
              std::int64_t k) {
  Matrix c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0 : bias[j];
      for (std::int64_t x = 0; x < k; ++x) sum += a[i * k + x] * w[j * k + x];
      c[i * n + j] = sum;
    }
  }
  return c;
}

Matrix LayerNorm(const Matrix& x, const Matrix& weight, const Matrix& bias, std::int64_t width,
                 double eps) {
  Matrix y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    double mean = 0;
    double variance = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += x[row + i] / static_cast<double>(width);
    for (std::int64_t i = 0; i < width; ++i) {
      variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<double>(width);
    }
    for (std::int64_t i = 0; i < width; ++i) {
      y[row + i] = (x[row + i] - mean) / std::sqrt(variance + eps) * weight[i] + bias[i];
    }
  }
  return y;
}

Matrix Attention(const Matrix& q, const Matrix& k, const Matrix& v, std::int64_t heads,
                 std::int64_t head_dim) {
  const std::int64_t width = heads * head_dim;
  const std::int64_t tokens = static_cast<std::int64_t>(k.size()) / width;
  const std::int64_t queries = static_cast<std::int64_t>(q.size()) / width;
  Matrix out(q.size(), 0.0);
  std::vector<double> scores(static_cast<std::size_t>(tokens));
  for (std::int64_t i = 0; i < queries; ++i) {
    for (std::int64_t first = 0; first < width; first += head_dim) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        scores[t] = 0;
        for (std::int64_t x = first; x < first + head_dim; ++x) {
          scores[t] += q[i * width + x] * k[t * width + x];
        }
        scores[t] /= std::sqrt(static_cast<double>(head_dim));
      }
      const double max = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& score : scores) sum += score = std::exp(score - max);
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t x = first; x < first + head_dim; ++x) {
          out[i * width + x] += scores[t] / sum * v[t * width + x];
        }
      }
    }
  }
  return out;
}

}  // namespace siglip::reference
