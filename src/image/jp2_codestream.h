#pragma once

// What the codestream of a JPEG 2000 file will cost OpenJPEG beside its samples: found by walking
// the boxes and marker segments as OpenJPEG 2.5.0 does, before OpenJPEG sees the file. A file of
// 100 bytes can declare 65,535 tiles, a precinct for each sample, or 65,535 layers.
// Private to decode_jp2.cc.

#include "absl/status/statusor.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace siglip {

struct Jp2Codestream {
  std::size_t xsiz_offset = 0;       // of SIZ's field Xsiz in the file
  std::int64_t structure_bytes = 0;  // upper bound: tiles, precincts, code blocks, packets
  std::int64_t packets = 0;          // upper bound over all tiles
  bool is_whole = true;              // else all this is of the first `max_segments` segments
  // Of the low bytes of the markers of tables of tile-part lengths (TLM) that are broken: OpenJPEG
  // 2.5.0 refuses them, 2.5.4 does not look at them.
  std::vector<std::size_t> broken_lengths;
};

// InvalidArgument if there is no codestream, or its components are not 1 to 4 (Pillow refuses those
// after OpenJPEG has made room for all of them). Anything else that is broken is left to OpenJPEG.
// Of coding styles and tables of lengths, `max_segments` are looked at: 64 MB of them take a
// second.
absl::StatusOr<Jp2Codestream> ReadJp2Codestream(std::string_view bytes, bool is_codestream,
                                                std::int64_t max_segments);

}  // namespace siglip
