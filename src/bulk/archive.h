#pragma once

// Files that hold many images: tar archives (webdataset shards) and Parquet tables. Read as a
// stream, one image in memory at a time; nothing is ever written to disk, so a member's path is
// only a name.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace siglip::bulk {

// Confined to one thread.
class Archive {
 public:
  virtual ~Archive() = default;

  // Steps to the next image; what is no image is passed over. False at the end. An error is the
  // archive's own (damaged, cut): nothing comes after it.
  virtual absl::StatusOr<bool> Next() = 0;
  // Of the image stepped to: its path in the archive, or its id. Valid until Next.
  virtual const std::string& name() const = 0;
  // Bytes of the image stepped to; at most once. An error is this image's alone.
  virtual absl::StatusOr<std::string> Read() = 0;
};

// .tar, plain or compressed with gzip, bzip2, xz or zstd. Images are the regular members with an
// image's extension; links and sparse members with one are errors of their own.
absl::StatusOr<std::unique_ptr<Archive>> OpenTar(const std::string& path);

struct ParquetColumns {
  std::string
      image;       // binary, or struct {bytes, path} as Hugging Face datasets write; "" = find it
  std::string id;  // names of the rows; "" = the struct's path, else the row's number
};

// An image column's rows; null is an error of that row. Unimplemented if Parquet is not built in.
absl::StatusOr<std::unique_ptr<Archive>> OpenParquet(const std::string& path,
                                                     const ParquetColumns& columns);

}  // namespace siglip::bulk
