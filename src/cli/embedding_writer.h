#pragma once

// Where `siglip embed` writes: .npy (float32 [N,D], with a .names.txt beside it) or .jsonl.

#include <cstdint>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip::cli {

// What a row is the embedding of.
struct RowName {
  enum class Kind { kImage, kText };
  Kind kind = Kind::kImage;
  std::string_view name;  // the file's path, or the text itself
};

// Confined to one thread. Files appear under their names only when Finish succeeded; before that
// they are called *.partial.
class EmbeddingWriter {
 public:
  virtual ~EmbeddingWriter() = default;

  // By the extension of `path`: .npy or .jsonl; empty or "-" = jsonl on stdout.
  // InvalidArgument for another extension, or the system's error for the file.
  static absl::StatusOr<std::unique_ptr<EmbeddingWriter>> Create(const std::string& path,
                                                                 std::int64_t embedding_size);

  virtual absl::Status Write(const RowName& name, std::span<const float> embedding) = 0;
  virtual absl::Status Finish() = 0;
};

// The head of a .npy file of version 1.0 for float32 [rows, columns], C order; a multiple of 64
// bytes long and of equal length for every number of rows.
std::string NpyHeader(std::uint64_t rows, std::uint64_t columns);

// `text` as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);

// The shortest decimal that reads back as the same float; "null" if it is not finite.
void AppendJsonFloat(float value, std::string& out);

}  // namespace siglip::cli
