#pragma once

// Clients of the load generator: one connection, one request at a time, the protocol's plainest
// form.

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip::cli {

// Confined to one thread.
class LoadClient {
 public:
  virtual ~LoadClient() = default;
  // Sends one image file to `model_name` and waits for the whole answer.
  virtual absl::Status Infer(std::string_view image_bytes) = 0;
};

// `address` is HOST:PORT. Connects at once; the error names the address.
absl::StatusOr<std::unique_ptr<LoadClient>> ConnectHttp(const std::string& address,
                                                        const std::string& model_name);
absl::StatusOr<std::unique_ptr<LoadClient>> ConnectGrpc(const std::string& address,
                                                        const std::string& model_name);

}  // namespace siglip::cli
