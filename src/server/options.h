#pragma once

// What an operator can set of the doors. Names and defaults are Triton's where Triton has the
// option; the command line fills this struct.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace siglip {

// PEM files. Read at the start and again when the operator says so.
struct TlsFiles {
  bool enabled = false;
  bool mutual = false;  // clients must show a certificate of `root_cert`
  std::string server_cert = {};
  std::string server_key = {};
  std::string root_cert = {};
};

// gRPC's own, in milliseconds; defaults are Triton's.
struct GrpcKeepalive {
  int time_ms = 7'200'000;
  int timeout_ms = 20'000;
  bool permit_without_calls = false;
  int max_pings_without_data = 2;
  int min_recv_ping_interval_without_data_ms = 300'000;
  int max_ping_strikes = 2;
  int max_connection_age_ms = 0;  // 0 = no limit
  int max_connection_age_grace_ms = 0;
};

// What n bytes to or from a client may take before it is given up: `start`, and then as many of
// them a second as it must manage.
inline std::chrono::milliseconds TransferTime(std::chrono::milliseconds start, std::size_t bytes,
                                              std::size_t bytes_per_s) {
  return start + std::chrono::milliseconds(bytes / std::max<std::size_t>(bytes_per_s / 1000, 1));
}

// What one client of the HTTP door may take, and how slow it may be.
struct HttpLimits {
  // --http-max-header-size: bytes of request line and fields. nginx: 32 kB, Envoy: 60 kB.
  std::uint32_t head_bytes = 16 * 1024;
  // --http-max-header-fields
  std::size_t head_fields = 100;
  // --http-header-timeout-secs: from a head's first byte to its last; a new connection has as long
  // for its first byte, and for the TLS handshake.
  std::chrono::milliseconds head_timeout{10'000};
  // --http-idle-timeout-secs: between two requests of a connection.
  std::chrono::milliseconds idle_timeout{60'000};
  // --http-body-timeout-secs, --http-min-body-rate: a body, read or written, is given up when n of
  // its bytes have taken body_timeout + n / body_bytes_per_s, looked at every megabyte.
  std::chrono::milliseconds body_timeout{30'000};
  std::size_t body_bytes_per_s = 64 * 1024;
};

// What the clients of the gRPC door may take.
struct GrpcLimits {
  // --grpc-max-concurrent-streams: calls of one connection; HTTP/2 allows any number unless told,
  // and each costs memory before its request is complete.
  int concurrent_streams = 1024;
  // --grpc-memory-quota: bytes that gRPC buffers together; beyond it connections are slowed down.
  std::size_t memory_quota_bytes = std::size_t{2} << 30;
  // --grpc-handshake-timeout, milliseconds: for TLS and HTTP/2's first frames.
  int handshake_timeout_ms = 10'000;
  // --grpc-answer-timeout, milliseconds: an answer is given up when n of its bytes have taken this
  // and n / answer_bytes_per_s, looked at every megabyte. As HTTP's.
  int answer_timeout_ms = 30'000;
  std::size_t answer_bytes_per_s = 64 * 1024;
  // --grpc-max-connection-idle, milliseconds: a connection without calls is told to go; 0 = never.
  int max_connection_idle_ms = 300'000;
};

struct ServerOptions {
  // --allow-http, --http-address, --http-port (0 = any free one), --http-thread-count
  bool allow_http = true;
  std::string http_address = "0.0.0.0";
  std::uint16_t http_port = 8000;
  int http_thread_count = 8;
  // --http-max-input-size: bytes of a whole body, also after decompression. 64 MiB is Triton's
  // default; unlike there, binary tensors count too.
  std::size_t http_max_input_bytes = std::size_t{1} << 26;

  // --http-max-buffered-size: bytes of bodies being received, of all connections, and as many of
  // answers being written. As much as gRPC buffers; what is complete counts against the limits of
  // ServiceOptions.
  std::size_t http_max_buffered_bytes = std::size_t{2} << 30;

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
  // --allow-gpu-metrics: what NVML tells of the machine's GPUs, if it is there.
  bool allow_gpu_metrics = true;
  // --allow-cpu-metrics: use of the machine's CPUs and memory.
  bool allow_cpu_metrics = true;

  // --allow-ui: the page at /ui of the HTTP door.
  bool allow_ui = true;

  // --reuse-http-port, --reuse-grpc-port: other processes may listen there too.
  bool reuse_http_port = false;
  bool reuse_grpc_port = false;
  // --http-use-ssl ..., --grpc-use-ssl ...
  TlsFiles http_tls = {};
  TlsFiles grpc_tls = {};
  // --grpc-keepalive-time ...
  GrpcKeepalive grpc_keepalive = {};
  GrpcLimits grpc_limits = {};
  // --grpc-infer-response-compression-level: 0 none to 3 high.
  int grpc_compression_level = 0;

  // --allow-client-shm, --client-shm-prefix
  bool allow_client_shm = false;
  std::string client_shm_prefix = {};
  // --image-url-allow ...: where OpenAI's door fetches images from; nowhere unless told.
  std::vector<std::string> image_url_allow = {};
  bool image_url_allow_private = false;
  std::string image_url_root_cert = {};
  std::chrono::milliseconds image_url_timeout{10'000};
  // --api-key-file: who may use the doors; empty = everybody. Read again when the operator says so.
  std::string api_key_file = {};
  // --http-restricted-api, --grpc-restricted-protocol: "<api>,<api>:<key>=<value>"
  std::vector<std::string> http_restricted_apis = {};
  std::vector<std::string> grpc_restricted_protocols = {};
  // --http-header-forward-pattern, --grpc-header-forward-pattern
  std::string http_header_forward_pattern = {};
  std::string grpc_header_forward_pattern = {};
  // --metrics-config
  std::vector<std::string> metrics_config = {};
  // --trace-config
  std::vector<std::string> trace_config = {};

  // --exit-timeout-secs: how long accepted work may take after SIGTERM.
  std::chrono::seconds exit_timeout{30};

  // --http-max-connections: of each port; further ones are closed at once.
  std::size_t http_max_connections = 8192;
  HttpLimits http_limits = {};
};

// The ports that were bound; 0 = the door is closed.
struct ServerPorts {
  std::uint16_t http = 0;
  std::uint16_t grpc = 0;
  std::uint16_t metrics = 0;
};

}  // namespace siglip
