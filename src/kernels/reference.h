#pragma once

// What the kernels compute, said once in plain loops in float64. For tests.

#include <cstdint>
#include <vector>

namespace siglip::reference {

using Matrix = std::vector<double>;  // row-major

double GeluTanh(double x);
// Of two rows of one width.
double Dot(const Matrix& a, const Matrix& b);
// a [m,k] * w[n,k]^T + bias[n] (empty: none) -> [m,n]
Matrix Linear(const Matrix& a, std::int64_t m, const Matrix& w, const Matrix& bias, std::int64_t n,
              std::int64_t k);
// Rows of `width`.
Matrix LayerNorm(const Matrix& x, const Matrix& weight, const Matrix& bias, std::int64_t width,
                 double eps);
// q [queries, heads * head_dim], k, v [tokens, heads * head_dim], one image -> as q.
Matrix Attention(const Matrix& q, const Matrix& k, const Matrix& v, std::int64_t heads,
                 std::int64_t head_dim);

}  // namespace siglip::reference
