#pragma once

// Clients of the load generator: one connection, one request at a time, the protocol's plainest
// form.

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/host_port.h"

namespace siglip::cli {

// A server that is starting is waited for this long.
inline constexpr std::chrono::seconds kConnectTimeout{10};

// Where requests go.
struct LoadTarget {
  HostPort address;
  std::string model_name;
  std::string input_name = "INPUT_IMAGE";  // of BYTES [1]; its one output is an embedding

  std::string AddressText() const { return JoinHostPort(address.host, address.port); }
};

// Confined to one thread.
class LoadClient {
 public:
  virtual ~LoadClient() = default;
  // Sends one image file or text and waits for the whole answer; `embedding`, if given, receives
  // it. Unavailable: the connection is lost, or the server says so.
  virtual absl::Status Infer(std::string_view content, std::vector<float>* embedding) = 0;
  // A parameter of the model's configuration; "" if it has none, or the server does not tell.
  // Unavailable: the connection is lost.
  virtual absl::StatusOr<std::string> Parameter(const std::string& name) = 0;
};

// Connects at once; the error names the address.
absl::StatusOr<std::unique_ptr<LoadClient>> ConnectHttp(const LoadTarget& target);
absl::StatusOr<std::unique_ptr<LoadClient>> ConnectGrpc(const LoadTarget& target);
// Why the latter failed.
absl::Status NoGrpc(const LoadTarget& target);

// `bytes` as little-endian floats. Internal: not a multiple of four, or none.
absl::Status ParseEmbedding(std::string_view bytes, std::vector<float>& embedding);

}  // namespace siglip::cli
