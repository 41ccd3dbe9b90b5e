#include "engine/weight_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/content_hash.h"
#include "base/status_macros.h"
#include "kernels/parallel.h"

namespace siglip {
namespace {

// The digit is the version of this format; on a machine of the other byte order it reads as noise.
constexpr std::uint64_t kMagic = 0x3167697773676973;
// Large enough for a read of its own, small enough that workers end together.
constexpr std::size_t kHashedAtOnce = 16 << 20;
// An engine has some hundred arrays, whose names take some tens of bytes.
constexpr std::uint64_t kMaxDirectoryBytes = 16 << 20;

struct Head {
  std::uint64_t magic = kMagic;
  std::uint64_t file_bytes = 0;
  std::uint64_t directory_offset = 0;
  std::uint64_t num_entries = 0;
  std::uint64_t hash = 0;  // of everything after the head
  std::uint64_t unused[2] = {0, 0};
  std::uint64_t head_hash = 0;  // of the members above
};
static_assert(sizeof(Head) == kBufferAlignment);

std::uint64_t HashOf(const Head& head) {
  return ContentHash(std::as_bytes(std::span(&head, 1)).first(offsetof(Head, head_hash)));
}

void AppendNumber(std::string& to, std::uint64_t value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void AppendText(std::string& to, std::string_view text) {
  AppendNumber(to, text.size());
  to.append(text);
}

// Takes numbers and texts off the front of a directory.
class DirectoryReader {
 public:
  explicit DirectoryReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  std::optional<std::uint64_t> Number() {
    std::uint64_t value;
    if (rest_.size() < sizeof(value)) return std::nullopt;
    std::memcpy(&value, rest_.data(), sizeof(value));
    rest_ = rest_.subspan(sizeof(value));
    return value;
  }
  std::optional<std::string> Text() {
    const auto length = Number();
    if (!length || *length > rest_.size()) return std::nullopt;
    std::string text(reinterpret_cast<const char*>(rest_.data()), *length);
    rest_ = rest_.subspan(*length);
    return text;
  }

 private:
  std::span<const std::byte> rest_;
};

absl::Status Bad(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::string(what)));
}

absl::StatusOr<Head> ReadHead(const std::string& path, std::span<const std::byte> bytes) {
  Head head;
  if (bytes.size() < sizeof(head)) {
    return Bad(path,
               absl::StrCat("expected at least ", sizeof(head), " bytes, got ", bytes.size()));
  }
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (head.magic != kMagic) return Bad(path, "expected packed weights, got another kind of file");
  if (head.head_hash != HashOf(head)) return absl::DataLossError(path + ": the head is damaged");
  if (head.file_bytes != bytes.size()) {
    return Bad(path, absl::StrCat("expected ", head.file_bytes, " bytes, got ", bytes.size()));
  }
  if (head.directory_offset < sizeof(head) || head.directory_offset > bytes.size() ||
      bytes.size() - head.directory_offset > kMaxDirectoryBytes) {
    return Bad(path, absl::StrCat("directory at ", head.directory_offset, " of ", bytes.size()));
  }
  return head;
}

}  // namespace

std::uint64_t HashInParallel(ThreadTeam& team, std::span<const std::byte> bytes, AfterHash after) {
  std::vector<std::uint64_t> parts((bytes.size() + kHashedAtOnce - 1) / kHashedAtOnce);
  ParallelFor(team, static_cast<std::int64_t>(parts.size()), [&](int, std::int64_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * kHashedAtOnce;
    const auto part = bytes.subspan(first, std::min(kHashedAtOnce, bytes.size() - first));
    parts[static_cast<std::size_t>(i)] = ContentHash(part);
    if (after == AfterHash::kDropPages) DropPages(part);
  });
  return ContentHash(std::as_bytes(std::span(parts)), bytes.size());
}

absl::StatusOr<WeightFile> WeightFile::Open(const std::string& path, std::string_view label,
                                            ThreadTeam& team) {
  WeightFile file;
  file.path_ = path;
  SIGLIP_ASSIGN_OR_RETURN(file.map_, FileMap::Open(path));
  const std::span<const std::byte> bytes = file.map_.bytes();
  SIGLIP_ASSIGN_OR_RETURN(const Head head, ReadHead(path, bytes));
  if (HashInParallel(team, bytes.subspan(sizeof(head)), AfterHash::kKeepPages) != head.hash) {
    return absl::DataLossError(path + ": the content is not what was written (hash differs)");
  }
  DirectoryReader directory(bytes.subspan(head.directory_offset));
  const auto found = directory.Text();
  if (!found || *found != label) {
    return Bad(path, absl::StrCat("expected weights of \"", std::string(label), "\", got \"",
                                  found.value_or(""), "\""));
  }
  for (std::uint64_t i = 0; i < head.num_entries; ++i) {
    const auto offset = directory.Number();
    const auto count = directory.Number();
    auto name = directory.Text();
    const auto size = count ? CheckedMul<std::uint64_t>(*count, sizeof(float)) : std::nullopt;
    if (!name || !size || *offset % kBufferAlignment != 0 || *offset > head.directory_offset ||
        *size > head.directory_offset - *offset) {
      return Bad(path, absl::StrCat("entry ", i, " of the directory is out of range"));
    }
    const float* values = reinterpret_cast<const float*>(bytes.data() + *offset);
    file.entries_.push_back({*std::move(name), {values, static_cast<std::size_t>(*count)}});
  }
  return file;
}

std::span<const float> WeightFile::Next(std::string_view name, std::size_t count) {
  if (!status_.ok()) return {};
  const bool any = next_ < entries_.size();
  if (any && entries_[next_].name == name && entries_[next_].values.size() == count) {
    return entries_[next_++].values;
  }
  status_ = Bad(path_, absl::StrCat("array ", next_, ": expected \"", std::string(name), "\" of ",
                                    count, " floats, got ",
                                    any ? absl::StrCat("\"", entries_[next_].name, "\" of ",
                                                       entries_[next_].values.size())
                                        : std::string("nothing")));
  return {};
}

WeightFileWriter::WeightFileWriter(int fd, std::string path, std::string_view label)
    : fd_(fd), path_(std::move(path)), label_(label) {
  Write(std::vector<std::byte>(sizeof(Head)));  // in place of the head
}

void WeightFileWriter::Write(std::span<const std::byte> bytes) {
  if (!status_.ok()) return;
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      status_ = absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path_, "'"));
      return;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void WeightFileWriter::Append(std::string_view name, std::span<const float> values) {
  AppendNumber(directory_, bytes_);
  AppendNumber(directory_, values.size());
  AppendText(directory_, name);
  ++num_entries_;
  Write(std::as_bytes(values));
  const std::vector<std::byte> gap((kBufferAlignment - bytes_ % kBufferAlignment) %
                                   kBufferAlignment);
  Write(gap);
}

absl::Status WeightFileWriter::Finish(ThreadTeam& team) {
  Head head;
  head.directory_offset = bytes_;
  head.num_entries = num_entries_;
  std::string directory;
  AppendText(directory, label_);
  directory += directory_;
  Write(std::as_bytes(std::span(directory)));
  SIGLIP_RETURN_IF_ERROR(status_);
  head.file_bytes = bytes_;
  SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path_));
  if (map.bytes().size() != bytes_) {
    return absl::DataLossError(
        absl::StrCat("'", path_, "': wrote ", bytes_, " bytes, found ", map.bytes().size()));
  }
  head.hash = HashInParallel(team, map.bytes().subspan(sizeof(head)), AfterHash::kDropPages);
  head.head_hash = HashOf(head);
  if (::pwrite(fd_, &head, sizeof(head), 0) != static_cast<ssize_t>(sizeof(head))) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path_, "'"));
  }
  return absl::OkStatus();
}

}  // namespace siglip
