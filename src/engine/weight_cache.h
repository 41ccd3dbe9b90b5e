#pragma once

// A folder that keeps weights packed between starts: one file for each content of a checkpoint,
// number format and instruction set. Files are valid or refused as a whole, and may be deleted at
// any time. Several processes may use one folder; the first one packs and the others wait for it.

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "engine/weight_file.h"
#include "kernels/gemm.h"

namespace siglip {

struct ContentKeyOptions {
  // A weight file that changed less than so long before it was read is not recognised by its times
  // the next time. Longer than a file system's clock ticks (10 ms to 2 s), and than the 30 s after
  // which Linux notes the time of a change made through a mapping.
  std::chrono::nanoseconds settled = std::chrono::seconds(60);
};

// Hash of all that an engine takes from a checkpoint, as 16 hexadecimal digits: config.json, and
// each tensor's name, shape, type and bytes. All of it is read once; `folder` then remembers the
// answer for these very files (device, inode, size, times), and they are not read again until one
// of these differs. Failing to remember is no error.
std::string ContentKey(const Checkpoint& checkpoint, const std::string& folder, ThreadTeam& team,
                       const ContentKeyOptions& options = {});

// The file for one checkpoint and format. Confined to one thread.
class WeightCache {
 public:
  using Pack = std::function<void(WeightFileWriter&)>;

  // Makes the folder if there is none.
  static absl::StatusOr<WeightCache> Open(const std::string& folder, const Checkpoint& checkpoint,
                                          GemmFormat format, ThreadTeam& team);

  const std::string& path() const { return path_; }
  // NotFound if there is none; other errors if it must not be used (see WeightFile::Open).
  absl::StatusOr<WeightFile> Load(ThreadTeam& team);
  // Replaces the file that Load found, if it found one, by what `pack` writes. Nothing if another
  // process did so meanwhile. The new file appears whole or not at all.
  absl::Status Build(ThreadTeam& team, const Pack& pack);

 private:
  std::string path_;
  std::string label_;
  std::optional<FileIdentity> loaded_;  // of the last Load, whether it was good or not
};

}  // namespace siglip
