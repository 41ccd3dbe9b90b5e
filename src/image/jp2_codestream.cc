// Source: OpenJPEG 2.5.0 src/lib/openjp2: jp2.c (opj_jp2_read_header_procedure), j2k.c
// (opj_j2k_read_header_procedure, opj_j2k_read_unk, opj_j2k_read_tile_header), tcd.c
// (opj_tcd_init_tile), pi.c (opj_pi_create_decode).

#include "image/jp2_codestream.h"

#include "image/box.h"
#include "image/byte_reader.h"
#include "image/codec.h"

#include "base/checked_math.h"
#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG2000";

// Measured with OpenJPEG 2.5.0 on x86-64: opj_tcp_t and the tile's index of 100 markers and 10
// tile-parts; opj_tccp_t; a precinct of one band with its two tag trees; a code block.
constexpr std::int64_t kTileBytes = 9000;
constexpr std::int64_t kTileComponentBytes = 1200;
constexpr std::int64_t kPrecinctBytes = 400;
constexpr std::int64_t kBlockBytes = 300;
constexpr std::int64_t kMaxTiles = 65535;  // OpenJPEG refuses more
constexpr int kMaxLevels = 32;

constexpr std::uint32_t kSiz = 0xFF51;
constexpr std::uint32_t kCod = 0xFF52;
constexpr std::uint32_t kCoc = 0xFF53;
constexpr std::uint32_t kTlm = 0xFF55;
constexpr std::uint32_t kSot = 0xFF90;
constexpr std::uint32_t kSod = 0xFF93;

bool IsKnown(std::uint32_t marker) {
  constexpr std::uint32_t kMarkers[] = {
      kSot,   kCod,   kCoc,   0xFF5E, 0xFF5C, 0xFF5D, 0xFF5F, kSiz,   kTlm,   0xFF57, 0xFF58,
      0xFF60, 0xFF61, 0xFF91, 0xFF63, 0xFF64, 0xFF74, 0xFF78, 0xFF50, 0xFF59, 0xFF75, 0xFF77};
  return std::find(std::begin(kMarkers), std::end(kMarkers), marker) != std::end(kMarkers);
}

// The offset of the codestream within the file's boxes.
std::optional<std::size_t> FindCodestream(std::string_view bytes) {
  ByteReader reader(bytes);
  while (true) {
    const std::optional<BoxHead> head = ReadBoxHead(reader);
    if (!head || head->size > UINT32_MAX) return std::nullopt;
    if (head->type == "jp2c") return reader.position();
    if (head->size < head->head_bytes) return std::nullopt;
    const std::uint64_t length = head->size - head->head_bytes;
    if (length > reader.remaining()) return std::nullopt;
    reader.Read(static_cast<std::size_t>(length));
  }
}

struct Geometry {
  std::int64_t components = 0;
  std::int64_t tiles = 0;
  std::int64_t tile_width = 0;  // no more than the picture's
  std::int64_t tile_height = 0;
};

// The largest of all coding styles in the main header and the tiles' headers.
struct Cost {
  std::int64_t precincts = 0;  // of one component of a tile, over its resolutions
  std::int64_t blocks = 0;
  std::int64_t bands = 0;  // precincts of all bands
  std::int64_t layers = 1;
  std::int64_t packet_slots = 0;   // resolutions times the most precincts of one
  std::int64_t segments_left = 0;  // to look at; -1: there are more
  std::vector<std::size_t> broken_lengths = {};
};

std::int64_t CeilShift(std::int64_t value, int shift) {
  return shift > 62 ? 1 : (value + (std::int64_t{1} << shift) - 1) >> shift;
}

// Parts of 2^exponent samples that `length` samples may touch.
std::int64_t Parts(std::int64_t length, int exponent) {
  return std::min(length, ((length - 1) >> exponent) + 2);
}

// SPcod or SPcoc: levels, code block, style, transformation, and precincts if they are listed.
void AddStyle(std::string_view s, bool has_precincts, const Geometry& geometry, Cost& cost) {
  if (s.size() < 5) return;
  const int levels = static_cast<int>(U8(s, 0));
  if (levels > kMaxLevels) return;
  const int block_x = static_cast<int>(U8(s, 1) & 15) + 2;
  const int block_y = static_cast<int>(U8(s, 2) & 15) + 2;
  s.remove_prefix(5);
  if (has_precincts && s.size() < static_cast<std::size_t>(levels) + 1) return;
  Cost sum;
  std::int64_t most = 0;
  for (int r = 0; r <= levels; ++r) {
    const std::size_t at = static_cast<std::size_t>(r);
    const int exponent_x = has_precincts ? static_cast<int>(U8(s, at) & 15) : 15;
    const int exponent_y = has_precincts ? static_cast<int>(U8(s, at) >> 4) : 15;
    const std::int64_t width = CeilShift(geometry.tile_width, levels - r);
    const std::int64_t height = CeilShift(geometry.tile_height, levels - r);
    const std::int64_t precincts = Parts(width, exponent_x) * Parts(height, exponent_y);
    // A precinct of the three bands of a higher resolution has half its sides, and cuts blocks.
    const int half = r == 0 ? 0 : 1;
    const std::int64_t bands = r == 0 ? 1 : 3;
    const std::int64_t blocks =
        Parts(CeilShift(width, half), std::min(block_x, std::max(exponent_x - half, 0))) *
        Parts(CeilShift(height, half), std::min(block_y, std::max(exponent_y - half, 0)));
    sum.precincts += precincts;
    sum.bands += bands * precincts;
    sum.blocks += bands * blocks;
    most = std::max(most, precincts);
  }
  cost.precincts = std::max(cost.precincts, sum.precincts);
  cost.bands = std::max(cost.bands, sum.bands);
  cost.blocks = std::max(cost.blocks, sum.blocks);
  cost.packet_slots = std::max(cost.packet_slots, (levels + 1) * most);
}

void AddSegment(std::uint32_t marker, std::string_view s, const Geometry& geometry, Cost& cost) {
  if (marker == kCod && s.size() >= 5) {
    cost.layers = std::max<std::int64_t>(cost.layers, U16Be(s, 2));
    AddStyle(s.substr(5), (U8(s, 0) & 1) != 0, geometry, cost);
  } else if (marker == kCoc && s.size() >= 2) {
    AddStyle(s.substr(2), (U8(s, 1) & 1) != 0, geometry, cost);
  }
}

// Ztlm, Stlm, and lengths of the size that Stlm tells. Of less than two bytes both versions refuse.
bool IsBrokenTlm(std::string_view s) {
  if (s.size() < 2) return false;
  const std::uint32_t sizes = U8(s, 1);
  const std::size_t entry = (((sizes >> 6) & 1) + 1) * 2 + ((sizes >> 4) & 3);
  return (s.size() - 2) % entry != 0;
}

absl::StatusOr<Geometry> ReadGeometry(std::string_view s) {
  if (s.size() < 36) return BadImage(kFormat, "truncated SIZ segment");
  Geometry geometry;
  geometry.components = U16Be(s, 34);
  if (geometry.components < 1 || geometry.components > 4) {
    return BadImage(kFormat, absl::StrCat(geometry.components, " components"));
  }
  std::int64_t tiles[2];
  std::int64_t sides[2];
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t end = U32Be(s, 2 + 4 * axis);
    const std::int64_t begin = U32Be(s, 10 + 4 * axis);
    const std::int64_t tile = std::max<std::int64_t>(U32Be(s, 18 + 4 * axis), 1);
    const std::int64_t first = U32Be(s, 26 + 4 * axis);
    tiles[axis] = std::clamp<std::int64_t>((end - first + tile - 1) / tile, 1, kMaxTiles);
    sides[axis] = std::clamp<std::int64_t>(end - begin, 1, tile);
  }
  geometry.tiles = std::min(tiles[0] * tiles[1], kMaxTiles);
  // Beyond Pillow's limit OpenJPEG is not called.
  geometry.tile_width = std::min(sides[0], kPillowMaxPixels);
  geometry.tile_height = std::min(sides[1], kPillowMaxPixels / geometry.tile_width);
  geometry.tile_height = std::max<std::int64_t>(geometry.tile_height, 1);
  return geometry;
}

// Marker segments up to `end`, and behind it those known to OpenJPEG after two-byte steps over what
// is unknown. Leaves the reader behind the marker `end`; false if there is none, or there are too
// many segments to look at.
bool AddSegmentsUntil(std::uint32_t end, bool skips_unknown, ByteReader& reader,
                      const Geometry& geometry, Cost& cost) {
  while (true) {
    const std::optional<std::string_view> s = reader.ReadExactly(2);
    if (!s) return false;
    const std::uint32_t marker = U16Be(*s, 0);
    if (marker == end) return true;
    if (!IsKnown(marker)) {
      if (skips_unknown) continue;
      return false;
    }
    const std::optional<std::string_view> length = reader.ReadExactly(2);
    if (!length || U16Be(*length, 0) < 2) return false;
    const std::size_t low_byte = reader.position() - 3;
    const std::string_view segment = reader.Read(U16Be(*length, 0) - 2);
    if ((marker == kCod || marker == kCoc || marker == kTlm) && --cost.segments_left < 0)
      return false;
    AddSegment(marker, segment, geometry, cost);
    if (marker == kTlm && IsBrokenTlm(segment)) cost.broken_lengths.push_back(low_byte);
  }
}

// The headers of all tile-parts, the reader behind the first SOT.
void AddTileParts(std::string_view bytes, ByteReader& reader, const Geometry& geometry,
                  Cost& cost) {
  while (true) {
    const std::size_t start = reader.position() - 2;
    const std::string_view s = reader.Read(10);
    if (s.size() < 10) return;
    const std::uint32_t size = U32Be(s, 4);
    if (!AddSegmentsUntil(kSod, false, reader, geometry, cost)) return;
    if (size < 14 || size > bytes.size() - start) return;
    reader.Seek(std::max(start + size, reader.position()));
    const std::string_view marker = reader.Read(2);
    if (marker.size() < 2 || U16Be(marker, 0) != kSot) return;
  }
}

}  // namespace

absl::StatusOr<Jp2Codestream> ReadJp2Codestream(std::string_view bytes, bool is_codestream,
                                                std::int64_t max_segments) {
  const std::optional<std::size_t> start =
      is_codestream ? std::optional<std::size_t>(0) : FindCodestream(bytes);
  if (!start) return BadImage(kFormat, "no codestream");
  ByteReader reader(bytes);
  reader.Seek(*start + 2);
  while (true) {
    const std::optional<std::string_view> marker = reader.ReadExactly(2);
    if (!marker) return BadImage(kFormat, "no SIZ segment");
    if (U16Be(*marker, 0) == kSiz) break;
  }
  const std::optional<std::string_view> length = reader.ReadExactly(2);
  if (!length || U16Be(*length, 0) < 38) return BadImage(kFormat, "truncated SIZ segment");
  Jp2Codestream codestream;
  codestream.xsiz_offset = reader.position() + 2;
  SIGLIP_ASSIGN_OR_RETURN(const Geometry geometry,
                          ReadGeometry(reader.Read(U16Be(*length, 0) - 2)));
  Cost cost = {.segments_left = max_segments};
  if (AddSegmentsUntil(kSot, true, reader, geometry, cost)) {
    AddTileParts(bytes, reader, geometry, cost);
  }
  codestream.is_whole = cost.segments_left >= 0;
  const std::int64_t n = geometry.components;
  codestream.structure_bytes =
      geometry.tiles * (kTileBytes + n * kTileComponentBytes) +
      n * (cost.bands * kPrecinctBytes + cost.blocks * kBlockBytes) +
      n * cost.packet_slots * cost.layers * std::int64_t{sizeof(std::int16_t)};
  codestream.broken_lengths = std::move(cost.broken_lengths);
  if (!codestream.broken_lengths.empty()) {  // the list, while it grows, and a copy of the file
    codestream.structure_bytes += static_cast<std::int64_t>(
        codestream.broken_lengths.size() * 3 * sizeof(std::size_t) + bytes.size());
  }
  codestream.packets = CheckedMul(geometry.tiles * n * cost.layers, cost.precincts)
                           .value_or(std::numeric_limits<std::int64_t>::max());
  return codestream;
}

}  // namespace siglip
