#pragma once

// The safetensors container: a mapped file of named tensors. Untrusted: every offset, shape and
// name is checked when the file is opened, with the rules of the reference implementation.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file_map.h"

namespace siglip {

// Those that weights may have; of every other one the name alone is kept.
enum class TensorDtype { kF32, kF16, kBF16, kOther };

// REQUIRES: not kOther.
std::size_t DtypeSizeBytes(TensorDtype dtype);

// Borrows from the mapped file, which must outlive it.
struct StoredTensor {
  TensorDtype dtype = TensorDtype::kF32;
  std::string dtype_name;  // "F32", as the file spells it
  std::vector<std::int64_t> shape;
  // Row-major, little-endian; exactly shape x dtype long, if the format's reference knows the
  // dtype.
  std::span<const std::byte> bytes;
};

// Thread-safe once opened.
class SafetensorsFile {
 public:
  // Maps the file and checks its header. InvalidArgument says where, what was expected, what came.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const FileIdentity& identity() const { return file_.identity(); }

 private:
  FileMap file_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace siglip
