#include "protocol/compression.h"

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "protocol/text.h"

namespace siglip {
namespace {

// Output is grown in steps of this size, so that a bomb costs no more than it unpacks.
constexpr std::size_t kStepBytes = 256 * 1024;
// zlib's windowBits: 15 = the largest window; +16 writes gzip, +32 detects gzip or zlib.
constexpr int kWindowBits = 15;

class Inflater {
 public:
  Inflater() { ok_ = inflateInit2(&stream_, kWindowBits + 32) == Z_OK; }
  ~Inflater() {
    if (ok_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  bool ok() const { return ok_; }
  z_stream& stream() { return stream_; }

 private:
  z_stream stream_{};
  bool ok_ = false;
};

Bytef* In(std::string_view bytes) {
  return reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));  // zlib's input is not const
}

// q of ";a=b;q=0.5"; 1 without one, 0 if it is not a number. Source: RFC 9110 12.4.2.
double Quality(std::string_view parameters) {
  while (!parameters.empty()) {
    const std::string_view parameter = Stripped(NextPart(parameters, ';'));
    if (parameter.size() < 2 || !EqualsIgnoreCase(parameter.substr(0, 2), "q=")) continue;
    double q = 0;
    const char* end = parameter.data() + parameter.size();
    const auto result = std::from_chars(parameter.data() + 2, end, q);
    const bool valid = result.ec == std::errc() && result.ptr == end && q > 0;
    return valid ? std::min(q, 1.0) : 0;
  }
  return 1;
}

}  // namespace

absl::StatusOr<Encoding> ParseContentEncoding(std::string_view value) {
  value = Stripped(value);
  if (value.empty() || EqualsIgnoreCase(value, "identity")) return Encoding::kIdentity;
  if (EqualsIgnoreCase(value, "gzip")) return Encoding::kGzip;
  if (EqualsIgnoreCase(value, "deflate")) return Encoding::kDeflate;
  return absl::UnimplementedError("Unsupported compression type");
}

Encoding ChooseEncoding(std::string_view accept_encoding) {
  Encoding best = Encoding::kIdentity;
  double best_quality = 0;
  while (!accept_encoding.empty()) {
    const std::string_view entry = NextPart(accept_encoding, ',');
    const std::size_t semicolon = entry.find(';');
    const std::string_view name = Stripped(entry.substr(0, semicolon));
    const double quality =
        semicolon == std::string_view::npos ? 1 : Quality(entry.substr(semicolon + 1));
    Encoding encoding = Encoding::kIdentity;
    if (EqualsIgnoreCase(name, "gzip")) {
      encoding = Encoding::kGzip;
    } else if (EqualsIgnoreCase(name, "deflate")) {
      encoding = Encoding::kDeflate;
    } else if (!EqualsIgnoreCase(name, "identity")) {
      continue;
    }
    if (quality > best_quality) {
      best = encoding;
      best_quality = quality;
    }
  }
  return best;
}

std::string_view EncodingName(Encoding encoding) {
  switch (encoding) {
    case Encoding::kGzip:
      return "gzip";
    case Encoding::kDeflate:
      return "deflate";
    case Encoding::kIdentity:
      break;
  }
  return "identity";
}

absl::StatusOr<std::shared_ptr<PaddedBody>> Decompress(std::string_view bytes,
                                                       std::size_t max_bytes) {
  Inflater inflater;
  if (!inflater.ok()) return absl::InternalError("decompression could not be started");
  if (bytes.size() > std::numeric_limits<uInt>::max()) {
    return absl::InvalidArgumentError("compressed body is larger than 4 GiB");
  }
  auto body = std::make_shared<PaddedBody>();
  z_stream& stream = inflater.stream();
  stream.next_in = In(bytes);
  stream.avail_in = static_cast<uInt>(bytes.size());
  for (int result = Z_OK; result != Z_STREAM_END;) {
    // One byte over the limit is asked for, to tell "exactly full" from "too large".
    const std::size_t step = std::min(kStepBytes, max_bytes - body->size() + 1);
    const std::span<char> room = body->Extend(step);
    stream.next_out = reinterpret_cast<Bytef*>(room.data());
    stream.avail_out = static_cast<uInt>(step);
    result = inflate(&stream, Z_NO_FLUSH);
    const std::size_t written = step - stream.avail_out;
    body->Shrink(stream.avail_out);
    if (body->size() > max_bytes) {
      return absl::InvalidArgumentError(Concat("decompressed body is larger than the limit of ",
                                               max_bytes,
                                               " bytes; use --http-max-input-size to raise it"));
    }
    if (result != Z_STREAM_END && (result != Z_OK || (written == 0 && stream.avail_in == 0))) {
      return absl::InvalidArgumentError(Concat("compressed body is damaged or incomplete at byte ",
                                               bytes.size() - stream.avail_in, " of ",
                                               bytes.size()));
    }
  }
  if (stream.avail_in != 0) {
    return absl::InvalidArgumentError(
        Concat("compressed body has ", stream.avail_in, " bytes behind its end"));
  }
  return body;
}

std::string Compress(std::span<const std::string_view> parts, Encoding encoding) {
  z_stream stream{};
  const int window = encoding == Encoding::kGzip ? kWindowBits + 16 : kWindowBits;
  // Level 1: embeddings are noise to zlib, higher levels cost time and win nothing. 8 = zlib's
  // default.
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return {};
  std::size_t total = 0;
  for (const std::string_view part : parts) total += part.size();
  std::string out(deflateBound(&stream, total), '\0');
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  bool ok = out.size() <= std::numeric_limits<uInt>::max();
  stream.avail_out = static_cast<uInt>(out.size());
  for (std::size_t i = 0; ok && i < parts.size(); ++i) {
    stream.next_in = In(parts[i]);
    stream.avail_in = static_cast<uInt>(parts[i].size());
    ok = deflate(&stream, Z_NO_FLUSH) == Z_OK || stream.avail_in == 0;
  }
  ok = ok && deflate(&stream, Z_FINISH) == Z_STREAM_END;
  out.resize(ok ? stream.total_out : 0);
  deflateEnd(&stream);
  return out;
}

}  // namespace siglip
