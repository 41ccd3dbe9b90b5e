#include "cli/index_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "bulk/fingerprint.h"
#include "bulk/row_format.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFirstLine = "siglip index 2\n";
constexpr std::string_view kAnyFirstLine = "siglip index ";
// A path and some numbers; this only bounds a wrong file.
constexpr std::size_t kMaxHeadBytes = 1 << 16;
constexpr std::size_t kDigestBytes = sizeof(Sha256Digest);

std::string HeadLine(const IndexHead& head) {
  const nlohmann::ordered_json json = {{"rows", head.rows_path},
                                       {"rows_sha256", head.rows_sha256},
                                       {"images", head.rows},
                                       {"embedding_size", head.width}};
  return json.dump() + "\n";
}

std::optional<IndexHead> ParseHead(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  const auto text = [&json](const char* name) {
    const auto found = json.find(name);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const auto number = [&json](const char* name) -> std::int64_t {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_unsigned()) return 0;
    return static_cast<std::int64_t>(
        std::min<std::uint64_t>(found->get<std::uint64_t>(), NeighborGraph::kMaxRows));
  };
  IndexHead head{text("rows"), text("rows_sha256"), number("images"), number("embedding_size")};
  if (head.rows_path.empty() || head.rows_sha256.empty() || head.rows < 1 || head.width < 1) {
    return std::nullopt;
  }
  return head;
}

// `rows_path` as seen from the folder of `index`.
absl::StatusOr<std::string> RowsPathFrom(const std::string& index, const std::string& rows_path) {
  std::error_code error;
  const std::string file = ReplaceablePath(index).value_or(index);
  const fs::path folder = fs::weakly_canonical(fs::absolute(file, error).parent_path(), error);
  const fs::path rows = fs::canonical(rows_path, error);
  if (error) return absl::NotFoundError(absl::StrCat(rows_path, ": ", error.message()));
  const std::string path = rows.lexically_proximate(folder).string();
  // What is no UTF-8 comes back as U+FFFD.
  if (nlohmann::json::parse(bulk::JsonString(path)) == path) return path;
  return absl::InvalidArgumentError(
      absl::StrCat(rows_path, ": expected a path in UTF-8, since the index names it"));
}

std::string_view View(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Where the rows are that `index` names: seen from its folder, or from that of a symlink to it,
// where earlier versions looked.
std::string RowsPathOf(const std::string& index, const std::string& named) {
  std::error_code error;
  const fs::path file = fs::canonical(index, error);
  const std::string beside_file = (file.parent_path() / named).string();
  const std::string beside_name = (fs::path(index).parent_path() / named).string();
  return !error && (fs::exists(beside_file, error) || !fs::exists(beside_name, error))
             ? beside_file
             : beside_name;
}

// The file without its SHA-256, which is right.
absl::StatusOr<std::span<const std::byte>> CheckedContent(const std::string& path,
                                                          const FileMap& map) {
  const std::span<const std::byte> bytes = map.bytes();
  if (View(bytes).starts_with(kAnyFirstLine) && !View(bytes).starts_with(kFirstLine)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": an index of another version of siglip: make it again"));
  }
  if (View(bytes).substr(0, kFirstLine.size()) != kFirstLine) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     ": expected FILE.npy of siglip embed, a folder of them, or an index of "
                     "siglip index, got none of them"));
  }
  if (bytes.size() < kFirstLine.size() + kDigestBytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": expected an index, got ", bytes.size(), " bytes: it was cut"));
  }
  const auto content = bytes.first(bytes.size() - kDigestBytes);
  Sha256 hash;
  hash.Add(View(content));
  const Sha256Digest digest = hash.Digest();
  if (std::memcmp(digest.data(), bytes.data() + content.size(), kDigestBytes) != 0) {
    return absl::DataLossError(
        absl::StrCat(path, ": its SHA-256 is wrong: the index is damaged, make it again"));
  }
  return content;
}

}  // namespace

bool IsIndexFile(const std::string& path) {
  std::error_code error;
  return fs::path(path).extension() != ".npy" && !fs::is_directory(path, error);
}

StoredRows StoredRowsOf(const bulk::EmbeddedRows& rows) {
  StoredRows stored;
  stored.width = rows.width();
  std::int64_t end = 0;
  for (const bulk::EmbeddedRows::Stored& part : rows.stored()) {
    const bool half = part.dtype == bulk::DType::kFloat16;
    end += static_cast<std::int64_t>(part.rows.size()) / (rows.width() * (half ? 2 : 4));
    stored.parts.push_back({part.rows.data(), half, end});
  }
  return stored;
}

absl::Status WriteIndexFile(const std::string& path, const std::string& rows_path,
                            const bulk::EmbeddedRows& rows, const NeighborGraph& graph) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string named, RowsPathFrom(path, rows_path));
  std::string text(kFirstLine);
  text += HeadLine({named, bulk::RowsFingerprint(rows), rows.rows(), rows.width()});
  text += graph.Serialize();
  Sha256 hash;
  hash.Add(text);
  const Sha256Digest digest = hash.Digest();
  text.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  return WriteOutputFile(path, text);
}

absl::StatusOr<OpenedIndex> OpenIndexFile(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path));
  SIGLIP_ASSIGN_OR_RETURN(std::span<const std::byte> content, CheckedContent(path, map));
  content = content.subspan(kFirstLine.size());
  const std::size_t head_bytes =
      View(content.first(std::min(content.size(), kMaxHeadBytes))).find('\n');
  const std::optional<IndexHead> head = head_bytes == std::string_view::npos
                                            ? std::nullopt
                                            : ParseHead(View(content.first(head_bytes)));
  if (!head.has_value()) {
    return absl::DataLossError(absl::StrCat(
        path, ": expected rows, rows_sha256, images and embedding_size in its second line"));
  }
  const std::string rows_path = RowsPathOf(path, head->rows_path);
  OpenedIndex index;
  absl::StatusOr<std::unique_ptr<bulk::EmbeddedRows>> rows = bulk::EmbeddedRows::Open(rows_path);
  if (!rows.ok()) {
    return absl::Status(
        rows.status().code(),
        absl::StrCat(path, ": the rows that it is an index of: ", rows.status().message()));
  }
  index.rows = *std::move(rows);
  if (index.rows->rows() != head->rows || index.rows->width() != head->width ||
      bulk::RowsFingerprint(*index.rows) != head->rows_sha256) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": ", rows_path, " has changed since: make the index again"));
  }
  auto graph = NeighborGraph::Parse(content.subspan(head_bytes + 1), StoredRowsOf(*index.rows));
  if (!graph.ok()) {
    return absl::Status(graph.status().code(), absl::StrCat(path, ": ", graph.status().message()));
  }
  index.graph = *std::move(graph);
  return index;
}

}  // namespace siglip::cli
