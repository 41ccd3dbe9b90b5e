// Bytes: the value of Inference-Header-Content-Length up to a line feed (empty = absent), then the
// body.
#include <cstdint>

#include "base/check.h"
#include "protocol/kserve_http.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t line = text.find('\n');
  siglip::HttpInferInput input;
  input.model_name = "m";
  if (line != std::string_view::npos && line != 0) input.header_length = text.substr(0, line);
  input.body = std::make_shared<siglip::PaddedBody>(
      line == std::string_view::npos ? text : text.substr(line + 1));
  const auto parsed = siglip::ParseHttpInfer(input);
  static_cast<void>(siglip::ParseIndexRequest(*input.body));
  if (!parsed.ok()) return 0;
  // Every view must be readable.
  std::size_t sum = 0;
  for (const auto& tensor : parsed->request->inputs) {
    for (const std::byte b : tensor.data) sum += static_cast<std::size_t>(b);
    for (const std::string_view element : tensor.elements) {
      for (const char c : element) sum += static_cast<unsigned char>(c);
    }
  }
  return sum == static_cast<std::size_t>(-1) ? 1 : 0;
}
