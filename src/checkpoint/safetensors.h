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

// Those of the format; the weights of a checkpoint are F32, F16 or BF16.
enum class TensorDtype {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
  kF8E4M3,
  kF8E5M2
};

const char* DtypeName(TensorDtype dtype);  // "F32", as the format spells it
std::size_t DtypeSizeBytes(TensorDtype dtype);

// Borrows from the mapped file, which must outlive it.
struct StoredTensor {
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  // row-major, little-endian, exactly shape x dtype long
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
