#pragma once

// The file that holds a model's packed weights: arrays of floats by name, as the kernels want them,
// mapped and never copied. It is written and read by this program alone; what is damaged, cut off
// or foreign is refused.
//
// head: 64 bytes: magic, file size, place of the directory, hash of all that follows the head;
// arrays, each at a multiple of 64 bytes;
// directory: the label, then each array's place, size and name.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "base/thread_pool.h"

namespace siglip {

// Hash of `bytes` of a FileMap on all workers. `drop` gives its memory back on the way.
enum class AfterHash { kKeepPages, kDropPages };
std::uint64_t HashInParallel(ThreadTeam& team, std::span<const std::byte> bytes, AfterHash after);

// Arrays in the order in which they were appended. Confined to one thread.
class WeightFile {
 public:
  // Maps the file and reads all of it once, for its hash. InvalidArgument (not such a file, cut
  // off, or of another label) or DataLoss (changed) says what was expected and what came.
  static absl::StatusOr<WeightFile> Open(const std::string& path, std::string_view label,
                                         ThreadTeam& team);

  // The next array, borrowed. If it is not `name` with `count` floats: nothing, and status() says
  // so.
  std::span<const float> Next(std::string_view name, std::size_t count);
  // Of every Next so far.
  const absl::Status& status() const { return status_; }
  const FileMap& map() const { return map_; }

 private:
  struct Entry {
    std::string name;
    std::span<const float> values;
  };

  FileMap map_;
  std::string path_;
  std::vector<Entry> entries_;
  std::size_t next_ = 0;
  absl::Status status_;
};

// Writes such a file into an open, empty one. An error, of the disk for instance, is kept until
// Finish. Confined to one thread.
class WeightFileWriter {
 public:
  // path: names the file in messages and is mapped by Finish. Borrows `fd`.
  WeightFileWriter(int fd, std::string path, std::string_view label);

  void Append(std::string_view name, std::span<const float> values);
  // Directory and head. Not flushed to the disk: Open notices what a power failure took away.
  absl::Status Finish(ThreadTeam& team);

 private:
  void Write(std::span<const std::byte> bytes);

  const int fd_;
  const std::string path_;
  std::uint64_t bytes_ = 0;
  std::uint64_t num_entries_ = 0;
  std::string label_;
  std::string directory_;
  absl::Status status_;
};

}  // namespace siglip
