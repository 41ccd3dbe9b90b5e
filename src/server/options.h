#pragma once

// What an operator can set of the doors. Names and defaults are Triton's where Triton has the
// option; the command line fills this struct.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace siglip {

struct ServerOptions {
  // --allow-http, --http-address, --http-port (0 = any free one), --http-thread-count
  bool allow_http = true;
  std::string http_address = "0.0.0.0";
  std::uint16_t http_port = 8000;
  int http_thread_count = 8;
  // --http-max-input-size: bytes of a whole body, also after decompression. 64 MiB is Triton's
  // default; unlike there, binary tensors count too.
  std::size_t http_max_input_bytes = std::size_t{1} << 26;

  // --allow-grpc, --grpc-address, --grpc-port
  bool allow_grpc = true;
  std::string grpc_address = "0.0.0.0";
  std::uint16_t grpc_port = 8001;
  // --grpc-max-input-size: bytes of one message. Triton: 2 GiB; here the same bound as HTTP's, and
  // room for what wraps the tensors.
  std::size_t grpc_max_input_bytes = (std::size_t{1} << 26) + (std::size_t{1} << 20);

  // --allow-metrics, --metrics-address, --metrics-port
  bool allow_metrics = true;
  std::string metrics_address = "0.0.0.0";
  std::uint16_t metrics_port = 8002;

  // --exit-timeout-secs: how long accepted work may take after SIGTERM.
  std::chrono::seconds exit_timeout{30};

  // --http-max-connections: further ones are closed at once.
  std::size_t http_max_connections = 8192;
};

// The ports that were bound; 0 = the door is closed.
struct ServerPorts {
  std::uint16_t http = 0;
  std::uint16_t grpc = 0;
  std::uint16_t metrics = 0;
};

}  // namespace siglip
