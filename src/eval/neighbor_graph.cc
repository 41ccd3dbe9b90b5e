#include "eval/neighbor_graph.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>

#include <hnswlib/hnswlib.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/content_hash.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "kernels/dot.h"

namespace siglip {
namespace {

using Graph = hnswlib::HierarchicalNSW<float>;

// What hnswlib keeps of a row, in place of its numbers.
struct Point {
  std::uint32_t row = 0;
  float inverse_norm = 0;
};
// hnswlib hands its first argument of a distance through: a query is a point with its own numbers.
constexpr std::uint32_t kQuery = 0xffffffff;
struct QueryPoint {
  Point point;
  const float* numbers = nullptr;
};

// A layer of no more points than these is measured whole by every search: a tenth of a millisecond.
constexpr std::size_t kMaxSeeds = 1024;

// Numbers as they are stored.
struct Numbers {
  const std::byte* data = nullptr;
  bool half = false;

  const float* floats() const { return reinterpret_cast<const float*>(data); }
  const std::uint16_t* halves() const { return reinterpret_cast<const std::uint16_t*>(data); }
};

Numbers RowOf(const StoredRows& rows, std::uint32_t row) {
  std::int64_t begin = 0;
  auto part = rows.parts.begin();
  for (; part->end <= row; ++part) begin = part->end;
  return {part->rows + (row - begin) * rows.width * (part->half ? 2 : 4), part->half};
}

Numbers NumbersOf(const StoredRows& rows, const void* point) {
  Point stored;
  std::memcpy(&stored, point, sizeof(stored));
  if (stored.row != kQuery) return RowOf(rows, stored.row);
  return {reinterpret_cast<const std::byte*>(static_cast<const QueryPoint*>(point)->numbers),
          false};
}

float DotOf(const Numbers& a, const Numbers& b, std::int64_t width) {
  if (!a.half && !b.half) return Dot(a.floats(), b.floats(), width);
  if (a.half && b.half) return Dot(a.halves(), b.halves(), width);
  return a.half ? Dot(b.floats(), a.halves(), width) : Dot(a.floats(), b.halves(), width);
}

float InverseNormOf(const void* point) {
  Point stored;
  std::memcpy(&stored, point, sizeof(stored));
  return stored.inverse_norm;
}

// Whether float32 holds the products of such a row with any other such: with lengths of 1e-15 to
// 1e15 their sums are below 1e30, and what they lose is below 1e-15 of the lengths.
bool IsPlain(float inverse_norm) { return inverse_norm > 1e-15f && inverse_norm < 1e15f; }

// 1 - cosine, as far as float32 tells.
float DistanceOf(const Numbers& a, float inverse_a, const Numbers& b, float inverse_b,
                 std::int64_t width) {
  const float distance = 1 - DotOf(a, b, width) * inverse_a * inverse_b;
  // Rows that have changed since may not be finite; the heaps need an order.
  return std::isfinite(distance) ? distance : 2;
}

// A row that is not plain, scaled to length 1: `scratch` and a new `inverse_norm`. Others, zeros
// and all of binary16 among them, as they are.
Numbers PlainOf(const Numbers& numbers, std::int64_t width, float& inverse_norm,
                std::vector<float>& scratch) {
  if (numbers.half || inverse_norm == 0 || IsPlain(inverse_norm)) return numbers;
  double square = 0;
  for (const float x : std::span(numbers.floats(), static_cast<std::size_t>(width))) {
    square += static_cast<double>(x) * static_cast<double>(x);
  }
  const double norm = std::sqrt(square);
  for (const float x : std::span(numbers.floats(), static_cast<std::size_t>(width))) {
    scratch.push_back(static_cast<float>(static_cast<double>(x) / norm));
  }
  inverse_norm = 1;
  return {reinterpret_cast<const std::byte*>(scratch.data()), false};
}

float DistanceOfScaled(const Numbers& a, float inverse_a, const Numbers& b, float inverse_b,
                       std::int64_t width) {
  std::vector<float> scratch_a, scratch_b;
  const Numbers plain_a = PlainOf(a, width, inverse_a, scratch_a);
  const Numbers plain_b = PlainOf(b, width, inverse_b, scratch_b);
  return DistanceOf(plain_a, inverse_a, plain_b, inverse_b, width);
}

// The type is hnswlib's.
float Distance(const void* a, const void* b, const void* rows) {
  const auto& stored = *static_cast<const StoredRows*>(rows);
  const float inverse_a = InverseNormOf(a), inverse_b = InverseNormOf(b);
  const bool plain = IsPlain(inverse_a) && IsPlain(inverse_b);
  return (plain ? DistanceOf : DistanceOfScaled)(NumbersOf(stored, a), inverse_a,
                                                 NumbersOf(stored, b), inverse_b, stored.width);
}

class CosineSpace final : public hnswlib::SpaceInterface<float> {
 public:
  explicit CosineSpace(const StoredRows& rows) : rows_(rows) {}
  std::size_t get_data_size() override { return sizeof(Point); }
  hnswlib::DISTFUNC<float> get_dist_func() override { return Distance; }
  void* get_dist_func_param() override { return const_cast<StoredRows*>(&rows_); }

 private:
  const StoredRows& rows_;
};

// 1 / |numbers|, 0 for zeros; NaN if they are not finite. The largest float stands for more.
float InverseNorm(std::span<const float> numbers) {
  double sum = 0;
  for (const float x : numbers) sum += static_cast<double>(x) * static_cast<double>(x);
  if (!std::isfinite(sum)) return std::numeric_limits<float>::quiet_NaN();
  constexpr double kLargest = std::numeric_limits<float>::max();
  return sum == 0 ? 0 : static_cast<float>(std::min(1 / std::sqrt(sum), kLargest));
}

// Of a stored row: its product with itself, which is in float64 only if float32 overflows or
// loses what is small.
float InverseNormOfRow(const StoredRows& rows, std::uint32_t row, std::vector<float>& scratch) {
  const Numbers numbers = RowOf(rows, row);
  const float square = DotOf(numbers, numbers, rows.width);
  if (square > 1e-20f && square < 1e30f) return 1 / std::sqrt(square);
  if (numbers.half) {
    if (!std::isfinite(square)) return std::numeric_limits<float>::quiet_NaN();
    return square == 0 ? 0 : 1 / std::sqrt(square);
  }
  scratch.resize(static_cast<std::size_t>(rows.width));
  std::memcpy(scratch.data(), numbers.data, scratch.size() * sizeof(float));
  return InverseNorm(scratch);
}

std::span<const std::byte> BytesOf(const StoredRows& rows, const Numbers& numbers) {
  return {numbers.data, static_cast<std::size_t>(rows.width) * (numbers.half ? 2 : 4)};
}

// Rows of the same bytes are one point of the graph: the links of a row would lead to its copies
// alone, and from them nowhere. Points are numbered as their first rows come.
class Grouping {
 public:
  // point_of: by row. REQUIRES: a row's point is at most one more than those of the rows before it.
  explicit Grouping(const std::vector<std::uint32_t>& point_of) : rows_(point_of.size()) {
    std::uint32_t points = 0;
    for (const std::uint32_t point : point_of) points = std::max(points, point + 1);
    begins_.resize(points + 1);
    for (const std::uint32_t point : point_of) ++begins_[point + 1];
    std::partial_sum(begins_.begin(), begins_.end(), begins_.begin());
    std::vector<std::uint32_t> ends(begins_.begin(), begins_.end() - 1);
    for (std::uint32_t row = 0; row < point_of.size(); ++row) rows_[ends[point_of[row]]++] = row;
  }

  std::size_t points() const { return begins_.size() - 1; }
  // Ascending.
  std::span<const std::uint32_t> RowsOf(std::size_t point) const {
    return std::span(rows_).subspan(begins_[point], begins_[point + 1] - begins_[point]);
  }
  std::vector<std::uint32_t> PointOfRows() const {
    std::vector<std::uint32_t> point_of(rows_.size());
    for (std::uint32_t point = 0; point < points(); ++point) {
      for (const std::uint32_t row : RowsOf(point)) point_of[row] = point;
    }
    return point_of;
  }

 private:
  std::vector<std::uint32_t> begins_;  // of each point's rows in rows_, and the end
  std::vector<std::uint32_t> rows_;
};

Grouping GroupRows(const StoredRows& rows, ThreadTeam& team) {
  const auto count = static_cast<std::uint32_t>(rows.rows());
  std::vector<std::uint64_t> hashes(count);
  std::atomic<std::uint32_t> next{0};  // relaxed: it only counts
  team.RunOnAll([&](int) {
    constexpr std::uint32_t kBlock = 1024;
    while (true) {
      const std::uint32_t begin = next.fetch_add(kBlock, std::memory_order_relaxed);
      if (begin >= count || begin + kBlock < begin) return;
      for (std::uint32_t row = begin; row < std::min(count, begin + kBlock); ++row) {
        const Numbers numbers = RowOf(rows, row);
        hashes[row] = ContentHash(BytesOf(rows, numbers), numbers.half ? 1 : 0);
      }
    }
  });
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&hashes](std::uint32_t a, std::uint32_t b) {
    return hashes[a] != hashes[b] ? hashes[a] < hashes[b] : a < b;
  });
  std::vector<std::uint32_t> point_of(count);  // at first: the first row of the same bytes
  for (std::uint32_t i = 0, first = 0; i < count; ++i) {
    const std::uint32_t row = order[i];
    if (hashes[row] != hashes[order[first]]) first = i;
    const Numbers numbers = RowOf(rows, row);
    const Numbers before = RowOf(rows, order[first]);
    const std::span<const std::byte> bytes = BytesOf(rows, numbers);
    const bool same =
        numbers.half == before.half && std::memcmp(bytes.data(), before.data, bytes.size()) == 0;
    point_of[row] = same ? order[first] : row;
  }
  std::uint32_t points = 0;
  for (std::uint32_t row = 0; row < count; ++row) {
    point_of[row] = point_of[row] == row ? points++ : point_of[point_of[row]];
  }
  return Grouping(point_of);
}

absl::Status OutOfMemory(std::int64_t rows) {
  return absl::ResourceExhaustedError(absl::StrCat("no memory for an index of ", rows, " rows"));
}

// Little-endian numbers, one after the other, with no reading past the end.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // False, and `out` as it was, if there are not so many.
  template <class T>
  bool Read(T* out, std::size_t count) {
    if (count > bytes_.size() / sizeof(T)) return false;
    std::memcpy(out, bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
    return true;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

template <class T>
void Append(const T* values, std::size_t count, std::string& text) {
  text.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

struct Head {
  std::uint32_t links = 0;
  std::uint32_t ef_construction = 0;
  std::uint32_t entry = 0;
  std::uint32_t top_layer = 0;
};

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat("neighbour graph: ", what));
}

}  // namespace

struct NeighborGraph::State {
  State(StoredRows stored, Grouping grouped, const NeighborGraphOptions& options)
      : rows(std::move(stored)),
        grouping(std::move(grouped)),
        space(rows),
        graph(&space, grouping.points(), static_cast<std::size_t>(options.links),
              static_cast<std::size_t>(options.ef_construction)) {}

  // Adds one point; InvalidArgument if its row is not finite.
  absl::Status Add(std::uint32_t number, std::vector<float>& scratch) {
    const std::uint32_t row = grouping.RowsOf(number)[0];
    const Point point{row, InverseNormOfRow(rows, row, scratch)};
    if (!std::isfinite(point.inverse_norm)) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", row, ": expected finite numbers, got NaN or infinity"));
    }
    try {
      graph.addPoint(&point, number);
    } catch (const std::exception&) {
      return OutOfMemory(rows.rows());
    }
    return absl::OkStatus();
  }

  absl::Status Fill(Reader& reader, const Head& head);
  void ChooseSeeds();
  void Reach(std::uint32_t from, std::vector<bool>& reached) const;
  std::vector<std::uint32_t> Nearest(const QueryPoint& query, std::size_t count) const;
  absl::Status ReadLinks(Reader& reader, std::uint32_t layer, std::size_t max_count,
                         std::vector<std::uint32_t>& links) const;
  float inverse_norm(std::uint32_t id) const {
    return InverseNormOf(graph.getDataByInternalId(id));
  }

  const StoredRows rows;
  const Grouping grouping;
  CosineSpace space;
  Graph graph;
  std::vector<std::uint32_t> seeds;  // hnswlib's ids of points that every search begins with
};

// A walk from one point cannot leave a dense cluster, such as thousands of versions of one picture:
// their links lead to each other. So a search measures one whole layer, which is a random sample,
// and begins at the best of it. Points that none of them leads to are among the seeds as well.
void NeighborGraph::State::ChooseSeeds() {
  std::vector<std::size_t> at_least(static_cast<std::size_t>(graph.maxlevel_) + 1);
  for (std::uint32_t id = 0; id < graph.cur_element_count; ++id) {
    for (int layer = 0; layer <= graph.element_levels_[id]; ++layer) {
      ++at_least[static_cast<std::size_t>(layer)];
    }
  }
  int chosen = std::min(1, graph.maxlevel_);
  while (chosen < graph.maxlevel_ && at_least[static_cast<std::size_t>(chosen)] > kMaxSeeds)
    ++chosen;
  seeds = {graph.enterpoint_node_};
  if (chosen > 0) {
    for (std::uint32_t id = 0; id < graph.cur_element_count; ++id) {
      if (graph.element_levels_[id] >= chosen && id != seeds[0]) seeds.push_back(id);
    }
  }
  std::vector<bool> reached(graph.cur_element_count);
  for (const std::uint32_t id : seeds) Reach(id, reached);
  for (std::uint32_t id = 0; id < graph.cur_element_count; ++id) {
    if (reached[id]) continue;
    seeds.push_back(id);
    Reach(id, reached);
  }
}

// Marks what links of the lowest layer lead to.
void NeighborGraph::State::Reach(std::uint32_t from, std::vector<bool>& reached) const {
  if (reached[from]) return;
  reached[from] = true;
  std::vector<std::uint32_t> waiting = {from};
  while (!waiting.empty()) {
    hnswlib::linklistsizeint* const list = graph.get_linklist0(waiting.back());
    waiting.pop_back();
    const std::uint32_t size = graph.getListCount(list);
    for (std::uint32_t i = 1; i <= size; ++i) {
      if (reached[list[i]]) continue;
      reached[list[i]] = true;
      waiting.push_back(list[i]);
    }
  }
}

// Best first through the lowest layer, as Malkov and Yashunin's algorithm 2 with many entries.
std::vector<std::uint32_t> NeighborGraph::State::Nearest(const QueryPoint& query,
                                                         std::size_t count) const {
  using Measured = std::pair<float, std::uint32_t>;  // distance, id
  const auto measure = [&](std::uint32_t id) {
    return Measured{Distance(&query, graph.getDataByInternalId(id), &rows), id};
  };
  std::vector<Measured> begin;
  begin.reserve(seeds.size());
  for (const std::uint32_t id : seeds) begin.push_back(measure(id));
  const std::size_t kept = std::min(begin.size(), count);
  std::partial_sort(begin.begin(), begin.begin() + static_cast<std::ptrdiff_t>(kept), begin.end());
  begin.resize(kept);

  std::vector<bool> seen(graph.cur_element_count);
  std::priority_queue<Measured> best(begin.begin(), begin.end());  // the farthest on top
  std::priority_queue<Measured, std::vector<Measured>, std::greater<>> waiting(begin.begin(),
                                                                               begin.end());
  for (const Measured& point : begin) seen[point.second] = true;
  while (!waiting.empty() && (best.size() < count || waiting.top().first <= best.top().first)) {
    hnswlib::linklistsizeint* const list = graph.get_linklist0(waiting.top().second);
    waiting.pop();
    const std::uint32_t size = graph.getListCount(list);
    for (std::uint32_t i = 1; i <= size; ++i) {
      const std::uint32_t id = list[i];
      if (seen[id]) continue;
      seen[id] = true;
      const Measured point = measure(id);
      if (best.size() >= count && point >= best.top()) continue;
      waiting.push(point);
      best.push(point);
      if (best.size() > count) best.pop();
    }
  }
  std::vector<std::uint32_t> found;
  for (; !best.empty(); best.pop()) {
    found.push_back(static_cast<std::uint32_t>(graph.getExternalLabel(best.top().second)));
  }
  return found;
}

NeighborGraph::NeighborGraph(std::unique_ptr<State> state) : state_(std::move(state)) {}
NeighborGraph::~NeighborGraph() = default;

std::int64_t NeighborGraph::links() const { return static_cast<std::int64_t>(state_->graph.M_); }

absl::StatusOr<std::unique_ptr<NeighborGraph>> NeighborGraph::Build(
    StoredRows rows, const NeighborGraphOptions& options, ThreadTeam& team,
    const std::function<void(std::int64_t)>& added) {
  SIGLIP_CHECK(options.links >= kMinLinks && options.links <= kMaxLinks &&
               options.ef_construction > 0);
  const std::int64_t count = rows.rows();
  if (count == 0 || count > kMaxRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("an index: expected 1 to ", kMaxRows, " rows, got ", count));
  }
  std::unique_ptr<State> state;
  try {
    Grouping grouping = GroupRows(rows, team);
    state = std::make_unique<State>(std::move(rows), std::move(grouping), options);
  } catch (const std::exception&) {
    return OutOfMemory(count);
  }
  const auto points = static_cast<std::int64_t>(state->grouping.points());
  std::vector<float> first_scratch;
  // The first point is where the others' searches begin.
  SIGLIP_RETURN_IF_ERROR(state->Add(0, first_scratch));
  Mutex mu;
  absl::Status status;                // the first error, guarded by mu
  std::atomic<bool> failed{false};    // relaxed: workers stop soon, not at once
  std::atomic<std::int64_t> next{1};  // relaxed: it only counts
  std::atomic<std::int64_t> done{
      static_cast<std::int64_t>(state->grouping.RowsOf(0).size())};  // likewise
  std::int64_t told = 0;
  team.RunOnAll([&](int worker) {
    std::vector<float> scratch;
    while (!failed.load(std::memory_order_relaxed)) {
      const std::int64_t number = next.fetch_add(1, std::memory_order_relaxed);
      if (number >= points) break;
      const auto point = static_cast<std::uint32_t>(number);
      const absl::Status one = state->Add(point, scratch);
      if (!one.ok()) {
        MutexLock lock(mu);
        if (status.ok()) status = one;
        failed.store(true, std::memory_order_relaxed);
        break;
      }
      const auto copies = static_cast<std::int64_t>(state->grouping.RowsOf(point).size());
      const std::int64_t now = done.fetch_add(copies, std::memory_order_relaxed) + copies;
      if (worker != 0) continue;
      added(now - told);
      told = now;
    }
  });
  SIGLIP_RETURN_IF_ERROR(status);
  try {
    state->ChooseSeeds();
  } catch (const std::exception&) {
    return OutOfMemory(count);
  }
  if (told < count) added(count - told);
  return std::unique_ptr<NeighborGraph>(new NeighborGraph(std::move(state)));
}

std::string NeighborGraph::Serialize() const {
  const Graph& graph = state_->graph;
  const auto count = static_cast<std::uint32_t>(graph.cur_element_count);
  // hnswlib numbers points as they came, which threads change; the file numbers them by their rows.
  std::vector<std::uint32_t> number_of(count), id_of(count);
  for (std::uint32_t id = 0; id < count; ++id) {
    number_of[id] = static_cast<std::uint32_t>(graph.getExternalLabel(id));
    id_of[number_of[id]] = id;
  }
  const std::vector<std::uint32_t> point_of = state_->grouping.PointOfRows();
  const Head head{static_cast<std::uint32_t>(graph.M_),
                  static_cast<std::uint32_t>(graph.ef_construction_),
                  number_of[graph.enterpoint_node_], static_cast<std::uint32_t>(graph.maxlevel_)};
  std::string text;
  text.reserve(sizeof(Head) + 4 * point_of.size() + count * (5 + 4 * (2 * graph.M_ + 1) + 4));
  Append(&head, 1, text);
  Append(point_of.data(), point_of.size(), text);
  for (const std::uint32_t id : id_of) {
    const float inverse_norm = state_->inverse_norm(id);
    Append(&inverse_norm, 1, text);
  }
  for (const std::uint32_t id : id_of) text += static_cast<char>(graph.element_levels_[id]);
  const auto append_links = [&](std::uint32_t id, int layer, std::size_t max_count) {
    hnswlib::linklistsizeint* const list = graph.get_linklist_at_level(id, layer);
    const std::uint32_t size = graph.getListCount(list);
    std::vector<std::uint32_t> entry(max_count + 1, 0);
    entry[0] = size;
    for (std::uint32_t i = 0; i < size; ++i) entry[i + 1] = number_of[list[i + 1]];
    Append(entry.data(), entry.size(), text);
  };
  for (const std::uint32_t id : id_of) append_links(id, 0, graph.maxM0_);
  for (const std::uint32_t id : id_of) {
    for (int layer = 1; layer <= graph.element_levels_[id]; ++layer) {
      append_links(id, layer, graph.maxM_);
    }
  }
  return text;
}

// One list of neighbours: `links` [1 + max_count], checked.
absl::Status NeighborGraph::State::ReadLinks(Reader& reader, std::uint32_t layer,
                                             std::size_t max_count,
                                             std::vector<std::uint32_t>& links) const {
  links.resize(max_count + 1);
  if (!reader.Read(links.data(), links.size())) return Damaged("it ends too early");
  if (links[0] > max_count) {
    return Damaged(
        absl::StrCat("expected at most ", max_count, " neighbours of a point, got ", links[0]));
  }
  for (std::uint32_t i = 1; i <= links[0]; ++i) {
    if (links[i] >= graph.cur_element_count ||
        static_cast<std::uint32_t>(graph.element_levels_[links[i]]) < layer) {
      return Damaged(absl::StrCat("neighbour ", links[i], " is no point of layer ", layer));
    }
  }
  return absl::OkStatus();
}

absl::Status NeighborGraph::State::Fill(Reader& reader, const Head& head) {
  const std::size_t count = grouping.points();
  std::vector<float> inverse_norms(count);
  std::vector<std::uint8_t> layers(count);
  if (!reader.Read(inverse_norms.data(), count) || !reader.Read(layers.data(), count)) {
    return Damaged("it ends too early");
  }
  std::size_t upper = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(inverse_norms[i]) || inverse_norms[i] < 0 || layers[i] > head.top_layer) {
      return Damaged(absl::StrCat("point ", i, " has a wrong length or layer"));
    }
    upper += layers[i];
  }
  if (head.entry >= count || layers[head.entry] != head.top_layer) {
    return Damaged("its entry is no point of the highest layer");
  }
  const std::size_t expected =
      count * (graph.maxM0_ + 1) * sizeof(std::uint32_t) + upper * graph.size_links_per_element_;
  if (reader.left() != expected) {
    return Damaged(absl::StrCat("expected ", expected, " bytes of links, got ", reader.left()));
  }
  // From here on the graph's destructor frees the lists that are there.
  std::memset(graph.data_level0_memory_, 0, count * graph.size_data_per_element_);
  std::fill_n(graph.linkLists_, count, nullptr);
  for (std::size_t i = 0; i < count; ++i) graph.element_levels_[i] = layers[i];
  graph.cur_element_count = count;
  graph.enterpoint_node_ = head.entry;
  graph.maxlevel_ = static_cast<int>(head.top_layer);
  std::vector<std::uint32_t> links;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Point point{grouping.RowsOf(i)[0], inverse_norms[i]};
    std::memcpy(graph.getDataByInternalId(i), &point, sizeof(point));
    graph.setExternalLabel(i, i);
    SIGLIP_RETURN_IF_ERROR(ReadLinks(reader, 0, graph.maxM0_, links));
    std::memcpy(graph.get_linklist0(i), links.data(), graph.size_links_level0_);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    if (layers[i] == 0) continue;
    // hnswlib's destructor calls free().
    graph.linkLists_[i] = static_cast<char*>(std::calloc(layers[i], graph.size_links_per_element_));
    if (graph.linkLists_[i] == nullptr) return OutOfMemory(rows.rows());
    for (std::uint32_t layer = 1; layer <= layers[i]; ++layer) {
      SIGLIP_RETURN_IF_ERROR(ReadLinks(reader, layer, graph.maxM_, links));
      std::memcpy(graph.get_linklist(i, static_cast<int>(layer)), links.data(),
                  graph.size_links_per_element_);
    }
  }
  return absl::OkStatus();
}

namespace {

absl::StatusOr<Grouping> ReadGrouping(Reader& reader, std::int64_t rows) {
  if (reader.left() / sizeof(std::uint32_t) < static_cast<std::size_t>(rows)) {
    return Damaged("it ends too early");
  }
  std::vector<std::uint32_t> point_of(static_cast<std::size_t>(rows));
  SIGLIP_CHECK(reader.Read(point_of.data(), point_of.size()));
  std::uint32_t points = 0;
  for (std::size_t row = 0; row < point_of.size(); ++row) {
    if (point_of[row] > points) {
      return Damaged(absl::StrCat("row ", row, " is of point ", point_of[row],
                                  ", which no row before it leads to"));
    }
    if (point_of[row] == points) ++points;
  }
  return Grouping(point_of);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NeighborGraph>> NeighborGraph::Parse(
    std::span<const std::byte> bytes, StoredRows rows) {
  const std::int64_t count = rows.rows();
  Reader reader(bytes);
  Head head;
  if (count == 0 || count > kMaxRows || !reader.Read(&head, 1)) {
    return Damaged(absl::StrCat(bytes.size(), " bytes are no graph of ", count, " rows"));
  }
  if (head.links < kMinLinks || head.links > kMaxLinks || head.ef_construction == 0 ||
      head.top_layer > 0xff) {
    return Damaged("wrong numbers at its head");
  }
  std::unique_ptr<State> state;
  try {
    SIGLIP_ASSIGN_OR_RETURN(Grouping grouping, ReadGrouping(reader, count));
    // Before anything of the size that the points claim is allocated.
    if (reader.left() / (5 + 4 * (2 * std::size_t{head.links} + 1)) < grouping.points()) {
      return Damaged(absl::StrCat(bytes.size(), " bytes are no graph of ", count, " rows"));
    }
    state =
        std::make_unique<State>(std::move(rows), std::move(grouping),
                                NeighborGraphOptions{.links = head.links, .ef_construction = 1});
    SIGLIP_RETURN_IF_ERROR(state->Fill(reader, head));
    state->ChooseSeeds();
  } catch (const std::exception&) {
    return OutOfMemory(count);
  }
  state->graph.ef_construction_ = head.ef_construction;
  return std::unique_ptr<NeighborGraph>(new NeighborGraph(std::move(state)));
}

absl::StatusOr<std::vector<std::int64_t>> NeighborGraph::Candidates(std::span<const float> query,
                                                                    std::int64_t count) const {
  SIGLIP_CHECK(static_cast<std::int64_t>(query.size()) == state_->rows.width && count > 0);
  QueryPoint point{{kQuery, InverseNorm(query)}, query.data()};
  if (!std::isfinite(point.point.inverse_norm)) {
    return absl::InvalidArgumentError("query: expected finite numbers, got NaN or infinity");
  }
  std::vector<std::int64_t> found;
  try {
    const auto points = static_cast<std::int64_t>(state_->grouping.points());
    for (const std::uint32_t number :
         state_->Nearest(point, static_cast<std::size_t>(std::min(count, points)))) {
      const auto rows = state_->grouping.RowsOf(number);
      const std::size_t copies = std::min(rows.size(), static_cast<std::size_t>(count));
      found.insert(found.end(), rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(copies));
    }
  } catch (const std::exception&) {
    return absl::ResourceExhaustedError("no memory for a search");
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace siglip
