#include "eval/nearest.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/dot.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace siglip {
namespace {

// Queries whose candidates one worker collects at a time: four cache lines of similarities.
constexpr std::int64_t kGroupQueries = 64;
// Rows per task where rows are prepared in parallel.
constexpr std::int64_t kRowsPerTask = 64;
// So few queries waste most of a tile of the matrix product: each row is multiplied with them as it
// is.
constexpr std::int64_t kFewQueries = 4;
// Squares of lengths between which sums of float32 products neither overflow nor lose small ones.
constexpr float kMinSquare = 1e-20f;
constexpr float kMaxSquare = 1e30f;
// Above the rounding of a float64 distance (width x 1.1e-16), below every other difference.
constexpr double kCopyDistance = 1e-11;

// Products of two floats are exact in double; eight sums so that additions need not wait.
double DotInDouble(const float* a, const float* b, std::int64_t width) {
  std::array<double, 8> sums{};
  std::int64_t i = 0;
  for (; i + 8 <= width; i += 8) {
    for (std::int64_t j = 0; j < 8; ++j) {
      sums[static_cast<std::size_t>(j)] +=
          static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    }
  }
  for (; i < width; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Writes x / |x| rounded to float and returns |x|; a zero vector stays zero.
double NormaliseRow(const float* row, std::int64_t width, float* out) {
  const double norm = std::sqrt(DotInDouble(row, row, width));
  const double divisor = norm == 0 ? 1 : norm;
  for (std::int64_t i = 0; i < width; ++i) {
    out[i] = static_cast<float>(static_cast<double>(row[i]) / divisor);
  }
  return norm;
}

absl::Status NotFinite(const std::string& row) {
  return absl::InvalidArgumentError(
      absl::StrCat(row, ": expected finite numbers, got NaN or infinity"));
}

// Normalises rows [count,width] into `out` and `norms`. Returns the first that is not finite, or
// `count`.
std::int64_t NormaliseRows(ThreadTeam& team, const float* rows, std::int64_t count,
                           std::int64_t width, float* out, double* norms) {
  ParallelFor(team, (count + kRowsPerTask - 1) / kRowsPerTask, [&](int, std::int64_t task) {
    const std::int64_t end = std::min(count, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < end; ++i) {
      norms[i] = NormaliseRow(rows + i * width, width, out + i * width);
    }
  });
  return std::find_if(norms, norms + count, [](double norm) { return !std::isfinite(norm); }) -
         norms;
}

bool Nearer(const Neighbor& a, const Neighbor& b) {
  return a.distance != b.distance ? a.distance < b.distance : a.row < b.row;
}

// What is known of one query so far.
class QueryState {
 public:
  explicit QueryState(std::int64_t k) : k_(static_cast<std::size_t>(k)) {}

  // Notes one float32 similarity; returns the k-th largest so far, -infinity before there are k.
  float NoteSimilarity(float value) {
    if (largest_.size() == k_) {
      if (value <= largest_.front()) return largest_.front();
      std::pop_heap(largest_.begin(), largest_.end(), std::greater<>());
      largest_.back() = value;
    } else {
      largest_.push_back(value);
    }
    std::push_heap(largest_.begin(), largest_.end(), std::greater<>());
    return largest_.size() == k_ ? largest_.front() : -std::numeric_limits<float>::infinity();
  }

  void AddMeasured(const Neighbor& neighbor) {
    if (nearest_.size() == k_) {
      if (!Nearer(neighbor, nearest_.front())) return;
      std::pop_heap(nearest_.begin(), nearest_.end(), Nearer);
      nearest_.back() = neighbor;
    } else {
      nearest_.push_back(neighbor);
    }
    std::push_heap(nearest_.begin(), nearest_.end(), Nearer);
  }

  std::vector<Neighbor> Sorted() const {
    std::vector<Neighbor> sorted = nearest_;
    std::sort_heap(sorted.begin(), sorted.end(), Nearer);
    return sorted;
  }

 private:
  std::size_t k_;
  std::vector<float> largest_;     // heap, smallest in front
  std::vector<Neighbor> nearest_;  // heap, farthest in front
};

struct Candidate {
  std::int64_t query;
  std::int64_t row;  // of the block
  float similarity;
};

// Training rows in memory.
struct TrainBlock {
  std::int64_t first = 0;
  std::int64_t count = 0;
  const float* rows = nullptr;            // [count,width]; null: they are
  const std::uint16_t* halves = nullptr;  // the bits of binary16
  const double* norms = nullptr;          // [count]; null: taken when they are needed
};

// One block of queries against all training rows, fed block by block.
class Search {
 public:
  Search(ThreadTeam& team, const RowSource& train, std::span<const float> queries,
         const NearestOptions& options)
      : team_(team),
        train_(train),
        queries_(queries),
        width_(train.width()),
        num_queries_(static_cast<std::int64_t>(queries.size()) / width_),
        margin_(2 * (few() ? FewQueriesErrorBound(width_) : CosineErrorBound(width_))),
        normalised_(queries.size()),
        packed_(num_queries_, width_),
        norms_(static_cast<std::size_t>(num_queries_)),
        limits_(static_cast<std::size_t>(num_queries_), -std::numeric_limits<float>::infinity()),
        states_(static_cast<std::size_t>(num_queries_), QueryState(options.k)),
        similarities_(static_cast<std::size_t>(options.train_block * num_queries_)),
        scratch_(GemmScratchFloats(options.train_block, width_)),
        widened_(static_cast<std::size_t>(width_)),
        rescored_(static_cast<std::size_t>(team.num_threads())) {}

  absl::Status PackQueries(std::int64_t first_query) {
    const std::int64_t bad = NormaliseRows(team_, queries_.data(), num_queries_, width_,
                                           normalised_.data(), norms_.data());
    if (bad < num_queries_) return NotFinite(absl::StrCat("query row ", first_query + bad));
    if (!few()) packed_.SetRows(0, num_queries_, normalised_.data());
    return absl::OkStatus();
  }

  bool few() const { return num_queries_ <= kFewQueries; }

  // REQUIRES: few(). The rows need not be normalised.
  absl::Status AddFew(const TrainBlock& block) {
    std::atomic<std::int64_t> bad{block.count};  // the first row that is not finite; relaxed
    ParallelFor(team_, (block.count + kRowsPerTask - 1) / kRowsPerTask,
                [&](int, std::int64_t task) {
                  const std::int64_t end = std::min(block.count, (task + 1) * kRowsPerTask);
                  for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
                    if (block.rows != nullptr ? SetSimilarities(block.rows + row * width_, row)
                                              : SetSimilarities(block.halves + row * width_, row)) {
                      continue;
                    }
                    std::int64_t first = bad.load(std::memory_order_relaxed);
                    while (row < first && !bad.compare_exchange_weak(first, row)) {
                    }
                  }
                });
    if (bad < block.count) return NotFinite(train_.NameOf(block.first + bad));
    MeasureAll(block);
    return absl::OkStatus();
  }

  // `normalised` [block.count,width] are the block's rows for the float32 product.
  void Add(const TrainBlock& block, const float* normalised) {
    GemmCall call;
    call.m = block.count;
    call.a = normalised;
    call.a_stride = width_;
    call.w = &packed_;
    call.c = similarities_.data();
    call.c_stride = num_queries_;
    Gemm(team_, call, scratch_.data());
    MeasureAll(block);
  }

  void Finish(NearestRows& result) const {
    for (const QueryState& state : states_) {
      const std::vector<Neighbor> sorted = state.Sorted();
      result.neighbors.insert(result.neighbors.end(), sorted.begin(), sorted.end());
    }
    for (const Counter& counter : rescored_) result.num_rescored += counter.count;
  }

 private:
  // On its own cache line: each worker counts in one.
  struct alignas(64) Counter {
    std::int64_t count = 0;
  };

  // With u = 2^-24 and n the roundings of Dot (kernels/dot.h): gamma_n in the product, half of it
  // in the row's length, u in each of query and result; doubled for what multiplies these.
  static double FewQueriesErrorBound(std::int64_t width) {
    constexpr double kUnit = 0x1p-24;
    const double roundings = static_cast<double>(width / 4 + 6) * kUnit;
    return 1.6 * roundings / (1 - roundings) + 4 * kUnit + 1e-12;
  }

  // Writes one row's float32 similarities to all queries; false if the row is not finite.
  template <class T>
  bool SetSimilarities(const T* row, std::int64_t index) {
    float* const out = similarities_.data() + index * num_queries_;
    const auto [first_dot, square] = DotWithSquare(row, normalised_.data(), width_);
    if (!(square > kMinSquare && square < kMaxSquare)) return SetOddSimilarities(row, out);
    const double scale = 1 / std::sqrt(static_cast<double>(square));
    out[0] = static_cast<float>(static_cast<double>(first_dot) * scale);
    for (std::int64_t q = 1; q < num_queries_; ++q) {
      const float dot = Dot(normalised_.data() + q * width_, row, width_);
      out[q] = static_cast<float>(static_cast<double>(dot) * scale);
    }
    return true;
  }

  // The same for a row whose square float32 does not hold.
  bool SetOddSimilarities(const float* row, float* out) {
    const double norm = std::sqrt(DotInDouble(row, row, width_));
    if (!std::isfinite(norm)) return false;
    const double scale = norm == 0 ? 0 : 1 / norm;
    for (std::int64_t q = 0; q < num_queries_; ++q) {
      out[q] =
          static_cast<float>(DotInDouble(row, normalised_.data() + q * width_, width_) * scale);
    }
    return true;
  }
  // Of binary16 these are zeros alone, and rows that are not finite: the others' squares are 2^-48
  // to 2^32 times the width.
  bool SetOddSimilarities(const std::uint16_t* row, float* out) {
    if (!std::isfinite(Dot(row, row, width_))) return false;
    std::fill_n(out, num_queries_, 0.0f);
    return true;
  }

  void MeasureAll(const TrainBlock& block) {
    const std::int64_t groups = (num_queries_ + kGroupQueries - 1) / kGroupQueries;
    ParallelFor(team_, groups, [&](int worker, std::int64_t group) {
      const std::int64_t begin = group * kGroupQueries;
      const std::int64_t end = std::min(num_queries_, begin + kGroupQueries);
      rescored_[static_cast<std::size_t>(worker)].count += MeasureGroup(block, begin, end);
    });
  }

  // Collects what is near enough among queries [begin, end) and measures it; returns how many.
  std::int64_t MeasureGroup(const TrainBlock& block, std::int64_t begin, std::int64_t end) {
    std::vector<Candidate> candidates;
    float* const limits = limits_.data();
    for (std::int64_t row = 0; row < block.count; ++row) {
      const float* similarity = similarities_.data() + row * num_queries_;
      // One branch per row of the group: nearly always there is no candidate.
      int any = 0;
      for (std::int64_t q = begin; q < end; ++q) any |= similarity[q] >= limits[q] ? 1 : 0;
      if (any == 0) continue;
      for (std::int64_t q = begin; q < end; ++q) {
        if (similarity[q] < limits[q]) continue;
        candidates.push_back({q, row, similarity[q]});
        const float kth = states_[static_cast<std::size_t>(q)].NoteSimilarity(similarity[q]);
        limits[q] = Limit(kth);
      }
    }
    std::int64_t measured = 0;
    for (const Candidate& candidate : candidates) {
      // The limit may have risen since.
      if (candidate.similarity < limits[candidate.query]) continue;
      Measure(block, candidate);
      ++measured;
    }
    return measured;
  }

  // Nothing below it can be among the k nearest.
  float Limit(float kth) const {
    return std::nextafter(static_cast<float>(static_cast<double>(kth) - margin_),
                          -std::numeric_limits<float>::infinity());
  }

  // The row itself, in float32. One thread measures what is not there so.
  const float* RowOf(const TrainBlock& block, std::int64_t row) {
    if (block.rows != nullptr) return block.rows + row * width_;
    SIGLIP_CHECK(few() && train_.Read(block.first + row, 1, widened_.data()).ok());
    return widened_.data();
  }

  void Measure(const TrainBlock& block, const Candidate& candidate) {
    const float* a = queries_.data() + candidate.query * width_;
    const float* b = RowOf(block, candidate.row);
    const double norms = norms_[static_cast<std::size_t>(candidate.query)] *
                         (block.norms != nullptr ? block.norms[candidate.row]
                                                 : std::sqrt(DotInDouble(b, b, width_)));
    double distance = norms == 0 ? 1 : std::clamp(1 - DotInDouble(a, b, width_) / norms, 0.0, 2.0);
    if (distance < kCopyDistance && std::equal(a, a + width_, b)) distance = 0;
    states_[static_cast<std::size_t>(candidate.query)].AddMeasured(
        {block.first + candidate.row, distance});
  }

  ThreadTeam& team_;
  const RowSource& train_;
  const std::span<const float> queries_;
  const std::int64_t width_;
  const std::int64_t num_queries_;
  const double margin_;
  AlignedBuffer<float> normalised_;  // the queries
  PackedMatrix packed_;              // the same, unless few()
  std::vector<double> norms_;
  std::vector<float> limits_;  // [queries]
  std::vector<QueryState> states_;
  AlignedBuffer<float> similarities_;  // [train_block, queries]
  AlignedBuffer<float> scratch_;
  std::vector<float> widened_;  // [width], of RowOf
  std::vector<Counter> rescored_;
};

absl::Status SearchBlock(ThreadTeam& team, const RowSource& train, std::span<const float> queries,
                         std::int64_t first_query, const NearestOptions& options,
                         NearestRows& result) {
  const std::int64_t width = train.width();
  Search search(team, train, queries, options);
  SIGLIP_RETURN_IF_ERROR(search.PackQueries(first_query));
  const auto block_floats = static_cast<std::size_t>(options.train_block * width);
  AlignedBuffer<float> copied(block_floats);
  AlignedBuffer<float> normalised(block_floats);
  std::vector<double> norms(static_cast<std::size_t>(options.train_block));
  for (std::int64_t first = 0; first < train.rows(); first += options.train_block) {
    const std::int64_t count = std::min(options.train_block, train.rows() - first);
    const float* rows = train.Lend(first, count);
    const std::uint16_t* const halves =
        search.few() && rows == nullptr ? train.LendHalves(first, count) : nullptr;
    if (rows == nullptr && halves == nullptr) {
      SIGLIP_RETURN_IF_ERROR(train.Read(first, count, copied.data()));
      rows = copied.data();
    }
    if (search.few()) {
      SIGLIP_RETURN_IF_ERROR(
          search.AddFew({.first = first, .count = count, .rows = rows, .halves = halves}));
      continue;
    }
    const std::int64_t bad =
        NormaliseRows(team, rows, count, width, normalised.data(), norms.data());
    if (bad < count) return NotFinite(train.NameOf(first + bad));
    search.Add({.first = first, .count = count, .rows = rows, .norms = norms.data()},
               normalised.data());
  }
  search.Finish(result);
  return absl::OkStatus();
}

}  // namespace

std::string RowSource::NameOf(std::int64_t row) const { return absl::StrCat("training row ", row); }

absl::Status MemoryRows::Read(std::int64_t first, std::int64_t count, float* out) const {
  std::copy_n(values_.begin() + first * width_, count * width_, out);
  return absl::OkStatus();
}

// With u = 2^-24 and unit vectors x, y (sum |x_i y_i| <= 1): rounding both to float changes the
// product by at most 2u + u^2; a sum of at most kGemmBlockK products in any order, then of all
// blocks, by at most gamma_n, n = roundings that a product passes through (its own included);
// float64's part is below 1e-12. Source: Higham, Accuracy and Stability of Numerical Algorithms,
// section 3.1. Denormal products lose at most width x 1e-45.
double CosineErrorBound(std::int64_t width) {
  constexpr double kUnit = 0x1p-24;
  const std::int64_t blocks = (width + kGemmBlockK - 1) / kGemmBlockK;
  const double roundings = static_cast<double>(std::min(width, kGemmBlockK) + blocks + 1);
  const double gamma = roundings * kUnit / (1 - roundings * kUnit);
  return gamma * (1 + 3 * kUnit) + 3 * kUnit + 1e-12;
}

absl::StatusOr<NearestRows> NearestByCosine(ThreadTeam& team, const RowSource& train,
                                            std::span<const float> queries,
                                            const NearestOptions& options) {
  SIGLIP_CHECK(options.k > 0 && options.train_block > 0 && options.query_block > 0);
  if (train.rows() == 0) {
    return absl::InvalidArgumentError("nearest neighbours: expected training rows, got none");
  }
  NearestOptions bounded = options;
  bounded.k = std::min(options.k, train.rows());
  bounded.train_block = std::min(options.train_block, train.rows());
  NearestRows result;
  result.k = bounded.k;
  const std::int64_t width = train.width();
  const std::int64_t num_queries = static_cast<std::int64_t>(queries.size()) / width;
  for (std::int64_t first = 0; first < num_queries; first += options.query_block) {
    const std::int64_t count = std::min(options.query_block, num_queries - first);
    SIGLIP_RETURN_IF_ERROR(SearchBlock(team, train,
                                       queries.subspan(static_cast<std::size_t>(first * width),
                                                       static_cast<std::size_t>(count * width)),
                                       first, bounded, result));
  }
  return result;
}

}  // namespace siglip
