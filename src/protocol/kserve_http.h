#pragma once

// The KServe v2 inference request and answer over HTTP, as pure functions: bytes in, plain structs
// out. Rules and texts: Triton's http_server, by the protocol notes of docs/protocol.md.

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "protocol/padded_body.h"
#include "protocol/shared_memory_io.h"
#include "serving/request.h"

namespace siglip {

// The header that parts a body into JSON and binary blocks, in requests and answers.
inline constexpr std::string_view kInferHeaderLength = "Inference-Header-Content-Length";

// Which outputs the client wants as binary blocks or in shared memory.
struct OutputForms {
  bool by_default = false;  // of a request that names no outputs, and gets all
  std::map<std::string, bool, std::less<>> by_name = {};
  SharedMemorySlices shared_memory = {};

  bool IsBinary(std::string_view output) const {
    const auto it = by_name.find(output);
    return it == by_name.end() ? by_default : it->second;
  }
};

struct HttpInferInput {
  std::string_view model_name;
  std::string_view model_version;  // empty = the newest
  // Value of Inference-Header-Content-Length as received; nothing if the header is absent.
  std::optional<std::string_view> header_length;
  std::shared_ptr<const PaddedBody> body;        // decompressed; kept alive by the request
  const SharedMemoryRegions* regions = nullptr;  // null = none
};

struct ParsedInfer {
  std::unique_ptr<InferRequest> request;  // done, is_cancelled and times are the caller's
  OutputForms binary;
};

// InvalidArgument for what breaks the protocol. Inputs borrow from the body; JSON numbers, escaped
// strings and what lies in shared memory get storage of their own.
absl::StatusOr<ParsedInfer> ParseHttpInfer(const HttpInferInput& input);

// The length of the JSON part of a body: text of the header, strict. 0 = raw request.
absl::StatusOr<std::size_t> ParseHeaderLength(std::optional<std::string_view> header_length,
                                              std::size_t body_bytes);

// An answer to write: `json`, then the blocks. Blocks borrow from the response.
struct HttpInferAnswer {
  std::string json;
  std::vector<std::span<const std::byte>> blocks;
  // True if a block is not empty: octet-stream with the header above, else application/json.
  bool binary = false;
};

// REQUIRES: response.status is ok, and what goes to shared memory is there already: of it, only
// name, type and shape are told. InvalidArgument for FP16 and BF16 asked for as JSON.
absl::StatusOr<HttpInferAnswer> RenderHttpInfer(const InferResponse& response,
                                                const OutputForms& binary);

// The body of POST /v2/repository/index: empty, or an object with an optional bool "ready".
absl::StatusOr<bool> ParseIndexRequest(const PaddedBody& body);

}  // namespace siglip
