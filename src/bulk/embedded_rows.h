#pragma once

// Reading back what `siglip embed` wrote to .npy files: the rows of pictures, and their names.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "bulk/names.h"
#include "bulk/row_format.h"

namespace siglip::bulk {

// How pictures became pixels, as far as the rows' meta data tell.
struct PixelSettings {
  std::int64_t pillow = 0;       // 12 or 13; 0: not told
  std::int64_t max_patches = 0;  // of NaFlex; 0: fixed resolution, or not told
  bool operator==(const PixelSettings&) const = default;
};

// The pictures of one OUTPUT.npy, or of every *.npy of a folder (the shards of a job) in byte order
// of the files' names; a file that the folder has under several names counts once, as the first of
// them. Rows of texts are left out. The files are mapped: opening reads the names
// alone, and while they are open they must not be cut. Thread-safe once opened.
class EmbeddedRows {
 public:
  // Errors name the file, what was expected and what was found: no .npy, one whose names or meta
  // data are missing or do not fit it, files of different widths or checkpoints, no pictures.
  static absl::StatusOr<std::unique_ptr<EmbeddedRows>> Open(const std::string& path);

  std::int64_t rows() const { return rows_; }
  std::int64_t width() const { return width_; }
  // Of the checkpoint that made the rows (bulk/fingerprint.h).
  const std::string& checkpoint() const { return checkpoint_; }
  // Those of the files, each once; one, unless files were made with different options.
  const std::vector<PixelSettings>& pixels() const { return pixels_; }
  // REQUIRES: 0 <= row < rows().
  std::string_view name(std::int64_t row) const { return names_[static_cast<std::size_t>(row)]; }
  // Where the pictures' rows lie, file by file, while this lives.
  struct Stored {
    std::span<const std::byte> rows;  // [count,width], little-endian, 2-byte aligned
    DType dtype = DType::kFloat32;
  };
  std::vector<Stored> stored() const;
  // Rows [first, first + count) -> out [count,width], as float32.
  void Read(std::int64_t first, std::int64_t count, float* out) const;
  // The same rows where they are mapped; null unless they are float32 of one file.
  const float* Floats(std::int64_t first, std::int64_t count) const;
  // Null unless they are float16 of one file.
  const std::uint16_t* Halves(std::int64_t first, std::int64_t count) const;

 private:
  struct Part {
    FileMap map;
    DType dtype = DType::kFloat32;
    std::int64_t end = 0;  // one past its last row, of all files' rows
  };

  absl::Status Add(const std::string& path);
  const std::byte* Mapped(DType dtype, std::int64_t first, std::int64_t count) const;

  std::vector<Part> parts_;
  NameList names_;
  std::int64_t rows_ = 0;
  std::int64_t width_ = 0;
  std::string checkpoint_;
  std::vector<PixelSettings> pixels_;
};

}  // namespace siglip::bulk
