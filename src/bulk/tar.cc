#include <archive.h>
#include <archive_entry.h>

#include <cstddef>
#include <fstream>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "bulk/archive.h"
#include "bulk/listing.h"

namespace siglip::bulk {
namespace {

// What libarchive reads at once.
constexpr std::size_t kBlockBytes = 1 << 18;
// POSIX pax: two blocks of zeros end an archive.
constexpr la_int64_t kEndBytes = 1024;

struct FreeReader {
  void operator()(::archive* reader) const { ::archive_read_free(reader); }
};
using Reader = std::unique_ptr<::archive, FreeReader>;

std::string ErrorText(::archive* reader) {
  const char* text = ::archive_error_string(reader);
  return text == nullptr ? "damaged" : text;
}

class Tar final : public Archive {
 public:
  Tar(std::string path, Reader reader) : path_(std::move(path)), reader_(std::move(reader)) {}

  absl::StatusOr<bool> Next() override {
    while (true) {
      SIGLIP_RETURN_IF_ERROR(SkipToHeader());
      const int result = ::archive_read_next_header(reader_.get(), &entry_);
      // A damaged header: what follows it is searched, and the damage told at the end.
      if (result == ARCHIVE_RETRY) {
        ++num_damaged_;
        continue;
      }
      if (result == ARCHIVE_EOF) return End();
      if (result != ARCHIVE_OK && result != ARCHIVE_WARN) {
        return Damaged();
      }
      in_member_ = true;
      ++num_members_;
      name_ = EntryName();
      if (::archive_entry_filetype(entry_) != AE_IFDIR && HasImageExtension(name_)) return true;
    }
  }

  const std::string& name() const override { return name_; }

  absl::StatusOr<std::string> Read() override {
    SIGLIP_RETURN_IF_ERROR(CheckKind());
    try {
      return ReadBlocks();
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("not enough memory for this member");
    }
  }

 private:
  // Grows with what is there: the declared size may be a lie.
  absl::StatusOr<std::string> ReadBlocks() {
    std::string bytes;
    while (true) {
      const void* block = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int result = ::archive_read_data_block(reader_.get(), &block, &size, &offset);
      if (result == ARCHIVE_EOF) return bytes;
      if (result == ARCHIVE_RETRY) continue;
      if (result != ARCHIVE_OK && result != ARCHIVE_WARN) {
        return absl::DataLossError(ErrorText(reader_.get()));
      }
      if (offset != static_cast<la_int64_t>(bytes.size())) {
        return absl::InvalidArgumentError("expected a whole file, got a sparse member");
      }
      if (size > kMaxImageBytes - bytes.size()) return TooLong(bytes.size() + size);
      bytes.append(static_cast<const char*>(block), size);
    }
  }

  // Past the member's bytes and their padding, so that what End measures is the marker alone.
  absl::Status SkipToHeader() {
    if (std::exchange(in_member_, false)) {
      const int result = ::archive_read_data_skip(reader_.get());
      if (result == ARCHIVE_EOF || result == ARCHIVE_FATAL) return Damaged();
    }
    header_offset_ = ::archive_filter_bytes(reader_.get(), 0);
    return absl::OkStatus();
  }

  absl::Status Damaged() const {
    return absl::DataLossError(
        absl::StrCat(path_, ": ", ErrorText(reader_.get()), ", after ", num_members_, " members"));
  }

  // An archive without its end marker is whole to Python's tarfile and to GNU tar, and some writers
  // leave it out; but one that was cut between two members looks the same.
  absl::StatusOr<bool> End() const {
    const la_int64_t end = ::archive_filter_bytes(reader_.get(), 0);
    if (GoesOnAfter(end)) {
      SIGLIP_LOG_WARN(
          "archive={} goes on after its end mark, behind {} members: read up to there, as tar does",
          LogSafe(path_), num_members_);
    } else if (end - header_offset_ < kEndBytes) {
      SIGLIP_LOG_WARN(
          "archive={} ends after {} members without the two zero blocks of a whole tar: cut?",
          LogSafe(path_), num_members_);
    }
    if (num_damaged_ == 0) return false;
    return absl::DataLossError(absl::StrCat(path_, ": expected headers of members, got ",
                                            num_damaged_, " damaged blocks"));
  }

  // Whether more than zeros follows. Looked for in plain archives alone: of a compressed one the
  // rest would have to be unpacked.
  bool GoesOnAfter(la_int64_t end) const {
    if (::archive_filter_code(reader_.get(), 0) != ARCHIVE_FILTER_NONE) return false;
    std::ifstream rest(path_, std::ios::binary);
    rest.seekg(end);
    std::string block(kBlockBytes, '\0');
    while (rest.read(block.data(), static_cast<std::streamsize>(block.size())), rest.gcount() > 0) {
      block.resize(static_cast<std::size_t>(rest.gcount()));
      if (block.find_first_not_of('\0') != std::string::npos) return true;
    }
    return false;
  }

  // Raw bytes as they stand in the header; pax headers hold UTF-8, which the C locale refuses.
  std::string EntryName() const {
    const char* name = ::archive_entry_pathname(entry_);
    if (name == nullptr) name = ::archive_entry_pathname_utf8(entry_);
    return name == nullptr ? absl::StrCat("member ", num_members_) : name;
  }

  absl::Status CheckKind() const {
    if (::archive_entry_hardlink(entry_) != nullptr ||
        ::archive_entry_filetype(entry_) == AE_IFLNK) {
      return absl::InvalidArgumentError("expected a regular file, got a link");
    }
    if (::archive_entry_filetype(entry_) != AE_IFREG) {
      return absl::InvalidArgumentError("expected a regular file, got a device or pipe");
    }
    if (::archive_entry_sparse_count(entry_) > 0) {
      return absl::InvalidArgumentError("expected a whole file, got a sparse member");
    }
    const la_int64_t size = ::archive_entry_size(entry_);
    if (size < 0 || static_cast<std::uint64_t>(size) > kMaxImageBytes) {
      return TooLong(static_cast<std::uint64_t>(size));
    }
    return absl::OkStatus();
  }

  static absl::Status TooLong(std::uint64_t bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("expected at most ", kMaxImageBytes,
                                                     " bytes in an archive's member, got ", bytes));
  }

  const std::string path_;
  const Reader reader_;
  ::archive_entry* entry_ = nullptr;  // owned by reader_
  bool in_member_ = false;
  std::string name_;
  la_int64_t header_offset_ = 0;  // in the unpacked archive
  std::uint64_t num_members_ = 0;
  std::uint64_t num_damaged_ = 0;  // blocks of 512 bytes
};

}  // namespace

absl::StatusOr<std::unique_ptr<Archive>> OpenTar(const std::string& path) {
  Reader reader(::archive_read_new());
  if (reader == nullptr) return absl::ResourceExhaustedError(absl::StrCat(path, ": no memory"));
  ::archive_read_support_format_tar(reader.get());
  // These four by name: "all" would run outside programs for odd formats.
  ::archive_read_support_filter_gzip(reader.get());
  ::archive_read_support_filter_bzip2(reader.get());
  ::archive_read_support_filter_xz(reader.get());
  ::archive_read_support_filter_zstd(reader.get());
  if (::archive_read_open_filename(reader.get(), path.c_str(), kBlockBytes) != ARCHIVE_OK) {
    // Its text does not say what the system said.
    return absl::ErrnoToStatus(::archive_errno(reader.get()),
                               absl::StrCat("cannot open '", path, "'"));
  }
  return std::make_unique<Tar>(path, std::move(reader));
}

}  // namespace siglip::bulk
