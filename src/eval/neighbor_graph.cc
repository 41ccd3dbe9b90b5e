#include "eval/neighbor_graph.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include <hnswlib/hnswlib.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
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

// 1 - cosine, as far as float32 tells. The type is hnswlib's.
float Distance(const void* a, const void* b, const void* rows) {
  const auto& stored = *static_cast<const StoredRows*>(rows);
  const float dot = DotOf(NumbersOf(stored, a), NumbersOf(stored, b), stored.width);
  const float distance = 1 - dot * InverseNormOf(a) * InverseNormOf(b);
  // Rows near the largest float overflow; the heaps need an order.
  return std::isfinite(distance) ? distance : 2;
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

// 1 / |numbers|, 0 for zeros; NaN if they are not finite.
float InverseNorm(std::span<const float> numbers) {
  double sum = 0;
  for (const float x : numbers) sum += static_cast<double>(x) * static_cast<double>(x);
  if (!std::isfinite(sum)) return std::numeric_limits<float>::quiet_NaN();
  return sum == 0 ? 0 : static_cast<float>(1 / std::sqrt(sum));
}

// Of a stored row: its product with itself, which is in float64 only if float32 overflows or
// loses what is small.
float InverseNormOfRow(const StoredRows& rows, std::uint32_t row, std::vector<float>& scratch) {
  const Numbers numbers = RowOf(rows, row);
  const float square = DotOf(numbers, numbers, rows.width);
  if (square > 1e-20f && square < 1e30f) return 1 / std::sqrt(square);
  if (numbers.half) return square == 0 ? 0 : 1 / std::sqrt(square);
  scratch.resize(static_cast<std::size_t>(rows.width));
  std::memcpy(scratch.data(), numbers.data, scratch.size() * sizeof(float));
  return InverseNorm(scratch);
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
  State(StoredRows stored, const NeighborGraphOptions& options)
      : rows(std::move(stored)),
        space(rows),
        graph(&space, static_cast<std::size_t>(rows.rows()),
              static_cast<std::size_t>(options.links),
              static_cast<std::size_t>(options.ef_construction)) {}

  // Adds one row; InvalidArgument if it is not finite.
  absl::Status Add(std::int64_t row, std::vector<float>& scratch) {
    const Point point{static_cast<std::uint32_t>(row),
                      InverseNormOfRow(rows, static_cast<std::uint32_t>(row), scratch)};
    if (!std::isfinite(point.inverse_norm)) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", row, ": expected finite numbers, got NaN or infinity"));
    }
    try {
      graph.addPoint(&point, static_cast<std::size_t>(row));
    } catch (const std::exception&) {
      return OutOfMemory(rows.rows());
    }
    return absl::OkStatus();
  }

  absl::Status Fill(Reader& reader, const Head& head);
  absl::Status ReadLinks(Reader& reader, std::uint32_t layer, std::size_t max_count,
                         std::vector<std::uint32_t>& links) const;
  float inverse_norm(std::uint32_t id) const {
    return InverseNormOf(graph.getDataByInternalId(id));
  }

  const StoredRows rows;
  CosineSpace space;
  Graph graph;
};

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
    state = std::make_unique<State>(std::move(rows), options);
  } catch (const std::exception&) {
    return OutOfMemory(count);
  }
  std::vector<float> first_scratch;
  // The first row is where the others' searches begin.
  SIGLIP_RETURN_IF_ERROR(state->Add(0, first_scratch));
  Mutex mu;
  absl::Status status;                         // the first error, guarded by mu
  std::atomic<bool> failed{false};             // relaxed: workers stop soon, not at once
  std::atomic<std::int64_t> next{1}, done{1};  // relaxed: they only count
  std::int64_t told = 0;
  team.RunOnAll([&](int worker) {
    std::vector<float> scratch;
    while (!failed.load(std::memory_order_relaxed)) {
      const std::int64_t row = next.fetch_add(1, std::memory_order_relaxed);
      if (row >= count) break;
      const absl::Status one = state->Add(row, scratch);
      if (!one.ok()) {
        MutexLock lock(mu);
        if (status.ok()) status = one;
        failed.store(true, std::memory_order_relaxed);
        break;
      }
      const std::int64_t now = done.fetch_add(1, std::memory_order_relaxed) + 1;
      if (worker != 0) continue;
      added(now - told);
      told = now;
    }
  });
  SIGLIP_RETURN_IF_ERROR(status);
  if (told < count) added(count - told);
  return std::unique_ptr<NeighborGraph>(new NeighborGraph(std::move(state)));
}

std::string NeighborGraph::Serialize() const {
  const Graph& graph = state_->graph;
  const auto count = static_cast<std::uint32_t>(graph.cur_element_count);
  // hnswlib numbers rows as they came, which threads change; the file numbers them as they are.
  std::vector<std::uint32_t> row_of(count), id_of(count);
  for (std::uint32_t id = 0; id < count; ++id) {
    row_of[id] = static_cast<std::uint32_t>(graph.getExternalLabel(id));
    id_of[row_of[id]] = id;
  }
  const Head head{static_cast<std::uint32_t>(graph.M_),
                  static_cast<std::uint32_t>(graph.ef_construction_),
                  row_of[graph.enterpoint_node_], static_cast<std::uint32_t>(graph.maxlevel_)};
  std::string text;
  text.reserve(sizeof(Head) + count * (5 + 4 * (2 * graph.M_ + 1) + 4));
  Append(&head, 1, text);
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
    for (std::uint32_t i = 0; i < size; ++i) entry[i + 1] = row_of[list[i + 1]];
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
        absl::StrCat("expected at most ", max_count, " neighbours of a row, got ", links[0]));
  }
  for (std::uint32_t i = 1; i <= links[0]; ++i) {
    if (links[i] >= graph.cur_element_count ||
        static_cast<std::uint32_t>(graph.element_levels_[links[i]]) < layer) {
      return Damaged(absl::StrCat("neighbour ", links[i], " is no row of layer ", layer));
    }
  }
  return absl::OkStatus();
}

absl::Status NeighborGraph::State::Fill(Reader& reader, const Head& head) {
  const auto count = static_cast<std::size_t>(rows.rows());
  std::vector<float> inverse_norms(count);
  std::vector<std::uint8_t> layers(count);
  if (!reader.Read(inverse_norms.data(), count) || !reader.Read(layers.data(), count)) {
    return Damaged("it ends too early");
  }
  std::size_t upper = 0;
  for (std::size_t row = 0; row < count; ++row) {
    if (!std::isfinite(inverse_norms[row]) || inverse_norms[row] < 0 ||
        layers[row] > head.top_layer) {
      return Damaged(absl::StrCat("row ", row, " has a wrong length or layer"));
    }
    upper += layers[row];
  }
  if (head.entry >= count || layers[head.entry] != head.top_layer) {
    return Damaged("its entry is no row of the highest layer");
  }
  const std::size_t expected =
      count * (graph.maxM0_ + 1) * sizeof(std::uint32_t) + upper * graph.size_links_per_element_;
  if (reader.left() != expected) {
    return Damaged(absl::StrCat("expected ", expected, " bytes of links, got ", reader.left()));
  }
  // From here on the graph's destructor frees the lists that are there.
  std::memset(graph.data_level0_memory_, 0, count * graph.size_data_per_element_);
  std::fill_n(graph.linkLists_, count, nullptr);
  for (std::size_t row = 0; row < count; ++row) graph.element_levels_[row] = layers[row];
  graph.cur_element_count = count;
  graph.enterpoint_node_ = head.entry;
  graph.maxlevel_ = static_cast<int>(head.top_layer);
  std::vector<std::uint32_t> links;
  for (std::uint32_t row = 0; row < count; ++row) {
    const Point point{row, inverse_norms[row]};
    std::memcpy(graph.getDataByInternalId(row), &point, sizeof(point));
    graph.setExternalLabel(row, row);
    SIGLIP_RETURN_IF_ERROR(ReadLinks(reader, 0, graph.maxM0_, links));
    std::memcpy(graph.get_linklist0(row), links.data(), graph.size_links_level0_);
  }
  for (std::uint32_t row = 0; row < count; ++row) {
    if (layers[row] == 0) continue;
    // hnswlib's destructor calls free().
    graph.linkLists_[row] =
        static_cast<char*>(std::calloc(layers[row], graph.size_links_per_element_));
    if (graph.linkLists_[row] == nullptr) return OutOfMemory(rows.rows());
    for (std::uint32_t layer = 1; layer <= layers[row]; ++layer) {
      SIGLIP_RETURN_IF_ERROR(ReadLinks(reader, layer, graph.maxM_, links));
      std::memcpy(graph.get_linklist(row, static_cast<int>(layer)), links.data(),
                  graph.size_links_per_element_);
    }
  }
  return absl::OkStatus();
}

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
  // Before anything of the size that the rows claim is allocated.
  if (reader.left() / (5 + 4 * (2 * std::size_t{head.links} + 1)) <
      static_cast<std::size_t>(count)) {
    return Damaged(absl::StrCat(bytes.size(), " bytes are no graph of ", count, " rows"));
  }
  std::unique_ptr<State> state;
  try {
    state = std::make_unique<State>(
        std::move(rows), NeighborGraphOptions{.links = head.links, .ef_construction = 1});
    SIGLIP_RETURN_IF_ERROR(state->Fill(reader, head));
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
    auto nearest = state_->graph.searchKnn(
        &point, static_cast<std::size_t>(std::min(count, state_->rows.rows())));
    for (; !nearest.empty(); nearest.pop()) {
      found.push_back(static_cast<std::int64_t>(nearest.top().second));
    }
  } catch (const std::exception&) {
    return absl::ResourceExhaustedError("no memory for a search");
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace siglip
