#pragma once

// Content-Encoding and Accept-Encoding: gzip, and deflate in zlib's format.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "protocol/padded_body.h"

namespace siglip {

enum class Encoding { kIdentity, kGzip, kDeflate };

// The value of a Content-Encoding header. Unimplemented "Unsupported compression type" for another.
absl::StatusOr<Encoding> ParseContentEncoding(std::string_view value);

// The best encoding that an Accept-Encoding header allows; identity if there is none.
Encoding ChooseEncoding(std::string_view accept_encoding);

std::string_view EncodingName(Encoding encoding);

// InvalidArgument if `bytes` is damaged, incomplete, has bytes behind its end, or grows over
// `max_bytes`.
absl::StatusOr<std::shared_ptr<PaddedBody>> Decompress(std::string_view bytes,
                                                       std::size_t max_bytes);

// Empty if compression fails; the caller falls back to identity.
std::string Compress(std::span<const std::string_view> parts, Encoding encoding);

}  // namespace siglip
