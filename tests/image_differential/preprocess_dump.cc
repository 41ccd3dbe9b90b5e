// siglip_preprocess_dump: what src/image makes of files, for comparison with live Pillow.
// Reads lines from stdin: WHAT <tab> SIZE <tab> RESAMPLE <tab> PILLOW <tab> PATH, where WHAT is
//   header, memory (the header's working set in digits), rgb (full size), resized (SIZE x SIZE),
//   pixels (float32 [3,SIZE,SIZE]) or time (least nanoseconds over some runs of: decode, resize,
//   normalise, all of Preprocess; in digits, blanks between: for bench/preprocess.py).
// Answers each on stdout with a line
//   ok <tab> FORMAT <tab> WIDTH <tab> HEIGHT <tab> BYTES       followed by that many bytes, or
//   error <tab> MESSAGE

#include "base/checked_math.h"
#include "base/clock.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "image/preprocess.h"

#include "absl/strings/str_join.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

namespace siglip {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 30;

struct Request {
  std::string what;
  PreprocessOptions options;
  std::string path;
};

struct Answer {
  ImageHeader header;
  std::vector<char> bytes;
};

absl::StatusOr<Request> Parse(const std::string& line) {
  std::vector<std::string> fields;
  std::size_t start = 0;
  for (int i = 0; i < 4; ++i) {
    const std::size_t tab = line.find('\t', start);
    if (tab == std::string::npos) return absl::InvalidArgumentError("expected 5 fields");
    fields.push_back(line.substr(start, tab - start));
    start = tab + 1;
  }
  Request request;
  request.what = fields[0];
  request.path = line.substr(start);
  request.options.image_size = ParseInt<int>(fields[1]).value_or(0);
  if (request.options.image_size <= 0) return absl::InvalidArgumentError("expected a size");
  request.options.resample = fields[2] == "2" ? Resample::kBilinear : Resample::kBicubic;
  request.options.pillow = fields[3] == "12" ? PillowVersion::k12 : PillowVersion::k13;
  return request;
}

std::vector<char> Bytes(const RgbImage& image) {
  const char* data = reinterpret_cast<const char*>(image.pixels.data());
  return std::vector<char>(data, data + image.pixels.size());
}

absl::StatusOr<std::vector<char>> Time(const Preprocessor& preprocessor, const std::string& file) {
  constexpr int kRuns = 10;
  const std::size_t side = static_cast<std::size_t>(preprocessor.options().image_size);
  std::vector<float> pixels(3 * side * side);
  std::array<std::int64_t, 4> least_ns;
  least_ns.fill(std::numeric_limits<std::int64_t>::max());
  const SystemClock clock;
  std::int64_t last = 0;
  const auto lap = [&](std::size_t stage) {
    least_ns[stage] = std::min(least_ns[stage], clock.NowNs() - last);
    last = clock.NowNs();
  };
  for (int i = 0; i < kRuns; ++i) {
    {
      last = clock.NowNs();
      SIGLIP_ASSIGN_OR_RETURN(const RgbImage image,
                              DecodeRgb(file, preprocessor.options().max_pixels));
      lap(0);
      SIGLIP_ASSIGN_OR_RETURN(const RgbImage resized, preprocessor.Resize(image));
      lap(1);
      preprocessor.Normalize(resized, pixels.data());
      lap(2);
    }
    last = clock.NowNs();
    SIGLIP_RETURN_IF_ERROR(preprocessor.Preprocess(file, pixels.data()).status());
    lap(3);
  }
  const std::string digits = absl::StrJoin(least_ns, " ");
  return std::vector<char>(digits.begin(), digits.end());
}

absl::StatusOr<Answer> Run(const Request& request) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string file, ReadFile(request.path, kMaxFileBytes));
  Answer answer;
  const std::int64_t max_pixels = request.options.max_pixels;
  SIGLIP_ASSIGN_OR_RETURN(answer.header, ReadImageHeader(file, max_pixels));
  const Preprocessor preprocessor(request.options);
  if (request.what == "header") return answer;
  if (request.what == "memory") {
    const std::string digits = std::to_string(answer.header.working_set_bytes);
    answer.bytes.assign(digits.begin(), digits.end());
    return answer;
  }
  if (request.what == "time") {
    SIGLIP_ASSIGN_OR_RETURN(answer.bytes, Time(preprocessor, file));
    return answer;
  }
  if (request.what == "pixels") {
    const std::size_t side = static_cast<std::size_t>(request.options.image_size);
    answer.bytes.resize(3 * side * side * sizeof(float));
    SIGLIP_RETURN_IF_ERROR(
        preprocessor.Preprocess(file, reinterpret_cast<float*>(answer.bytes.data())).status());
    return answer;
  }
  SIGLIP_ASSIGN_OR_RETURN(const RgbImage image, DecodeRgb(file, max_pixels));
  if (image.width != answer.header.width || image.height != answer.header.height) {
    return absl::InternalError("decoded size differs from the header's");
  }
  if (request.what == "rgb") {
    answer.bytes = Bytes(image);
    return answer;
  }
  SIGLIP_ASSIGN_OR_RETURN(const RgbImage resized, preprocessor.Resize(image));
  answer.bytes = Bytes(resized);
  return answer;
}

void Print(const absl::StatusOr<Answer>& answer) {
  if (!answer.ok()) {
    std::printf("error\t%s\n", std::string(answer.status().message()).c_str());
  } else {
    std::printf("ok\t%s\t%lld\t%lld\t%zu\n", answer->header.format.c_str(),
                static_cast<long long>(answer->header.width),
                static_cast<long long>(answer->header.height), answer->bytes.size());
    std::fwrite(answer->bytes.data(), 1, answer->bytes.size(), stdout);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace siglip

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const absl::StatusOr<siglip::Request> request = siglip::Parse(line);
    siglip::Print(request.ok() ? siglip::Run(*request)
                               : absl::StatusOr<siglip::Answer>(request.status()));
  }
  return 0;
}
