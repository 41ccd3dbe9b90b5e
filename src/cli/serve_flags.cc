#include "cli/serve_flags.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/choices.h"
#include "cli/help_format.h"

namespace siglip::cli {
namespace {

// For CLI::Option::transform, after OneOf: Triton reads its words in any case.
CLI::Validator AnyCase() {
  return CLI::Validator(
      [](std::string& word) {
        word = absl::AsciiStrToLower(word);
        return std::string();
      },
      "");
}

// How --decode-workers is given: a word or a number.
CLI::Validator DecodeWorkersWord() {
  return CLI::Validator(
      [](const std::string& word) -> std::string {
        constexpr int kMost = 1024;
        int count = 0;
        if (word == "auto" || word == "off") return {};
        if (absl::SimpleAtoi(word, &count) && count >= 1 && count <= kMost) return {};
        return absl::StrCat("expected auto, off or a number from 1 to ", kMost, ", got \"", word,
                            "\"");
      },
      "");
}

// The number of a verbose level; older scripts of Triton say true.
CLI::Validator SwitchOrLevel() {
  return CLI::Validator(
      [](std::string& word) {
        const std::string lower = absl::AsciiStrToLower(word);
        if (lower == "true" || lower == "false") word = lower == "true" ? "1" : "0";
        return std::string();
      },
      "");
}

// Under the heading that AddCheckpointFlag begins.
void AddRepositoryFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, kModelHeading);
  AddRepeatable(
      command, "--model-repository,--model-store", flags.repositories,
      "Folder of models with config.pbtxt; repeatable. Without it the six deployments are "
      "built in. --model overrides every checkpoint that the files name")
      ->type_name("DIR");
  command
      .add_option("--model-config-name", flags.config_name,
                  "Read MODEL/configs/NAME.pbtxt instead of MODEL/config.pbtxt where it exists")
      ->type_name("NAME");
  command.add_flag(
      "--dry-run", flags.dry_run,
      "Load and check everything but whether the ports are free, print the plan, exit");
}

void AddModelControlFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Loading of models");
  command
      .add_option("--model-control-mode", flags.service.control_mode,
                  "none: all models, as they are at the start; explicit: what clients load; poll: "
                  "follow the repository's files")
      ->transform(OneOf<ModelControlMode>({{"none", ModelControlMode::kNone},
                                           {"explicit", ModelControlMode::kExplicit},
                                           {"poll", ModelControlMode::kPoll}}))
      ->transform(AnyCase())
      ->type_name("MODE")
      ->default_str("none");
  AddRepeatable(command, "--load-model", flags.service.load_models,
                "In explicit mode: loaded at the start; repeatable, * = all")
      ->type_name("NAME");
  command.add_option("--repository-poll-secs", flags.poll_s, "In poll mode: how often to look")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  command
      .add_option("--model-load-retry-count", flags.service.load_retries,
                  "Further attempts at a model that does not load at the start")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  command
      .add_option("--exit-on-error", flags.service.exit_on_error,
                  "End when a model does not load; if false the others are served")
      ->capture_default_str();
  command
      .add_option("--strict-readiness", flags.service.strict_readiness,
                  "Ready only if every model is; if false, once the server is up")
      ->capture_default_str();
  command
      .add_option("--max-models", flags.service.max_models,
                  "Loaded models; a load of one more fails")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--max-model-threads", flags.service.max_model_threads,
                  "Threads of all loaded models together; a load that needs more fails")
      ->check(AtLeast(1))
      ->capture_default_str();
}

// Where one kind of client finds it.
struct Door {
  std::string name;  // in the options' names
  std::string what;
  std::string address_text;
  bool& allowed;
  std::string& address;
  std::uint16_t& port;
};

void AddDoorFlags(CLI::App& command, const Door& door) {
  command.add_option("--allow-" + door.name, door.allowed, "Listen for " + door.what)
      ->capture_default_str();
  command.add_option("--" + door.name + "-address", door.address, door.address_text)
      ->type_name("ADDRESS")
      ->capture_default_str();
  command.add_option("--" + door.name + "-port", door.port, "0 = any free port")
      ->check(CLI::Range(0, 65'535).description(""))
      ->capture_default_str();
}

void AddPortFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Addresses and ports");
  ServerOptions& server = flags.server;
  AddDoorFlags(command, {"http", "HTTP", "An IP address; IPv6 with brackets or without",
                         server.allow_http, server.http_address, server.http_port});
  AddDoorFlags(command, {"grpc", "gRPC", "As --http-address, or a name that resolves",
                         server.allow_grpc, server.grpc_address, server.grpc_port});
  AddDoorFlags(command, {"metrics", "the metrics", "As --http-address", server.allow_metrics,
                         server.metrics_address, server.metrics_port});
  command
      .add_option("--reuse-http-port", server.reuse_http_port,
                  "Other servers may have this port too; the system deals connections out")
      ->capture_default_str();
  command.add_option("--reuse-grpc-port", server.reuse_grpc_port, "As --reuse-http-port")
      ->capture_default_str();
  command.add_option("--id", flags.service.server_name, "The name that the server tells clients")
      ->type_name("NAME")
      ->capture_default_str();
}

void AddTlsFlags(CLI::App& command, const std::string& door, TlsFiles& tls) {
  const auto name = [&door](const char* end) { return "--" + door + end; };
  command.add_option(name("-use-ssl"), tls.enabled, "TLS on this port")->capture_default_str();
  command
      .add_option(name("-use-ssl-mutual"), tls.mutual,
                  "TLS, and clients must show a certificate of the root's")
      ->capture_default_str();
  command.add_option(name("-server-cert"), tls.server_cert, "PEM file: the certificate chain")
      ->type_name("FILE");
  command.add_option(name("-server-key"), tls.server_key, "PEM file: its key")->type_name("FILE");
  command
      .add_option(name("-root-cert"), tls.root_cert,
                  "PEM file: whose clients are trusted with mutual TLS")
      ->type_name("FILE");
}

// Who may do what.
void AddAccessFlags(CLI::App& command, ServerOptions& server) {
  BeginGroup(command, "Access");
  command
      .add_option("--api-key-file", server.api_key_file,
                  "A key a line: requests need the header Authorization: Bearer KEY, all but "
                  "those for health. Read again on SIGHUP")
      ->type_name("FILE");
  AddRepeatable(
      command, "--http-restricted-api", server.http_restricted_apis,
      "<api>,<api>:<header>=<value>: only with this header; repeatable. APIs: health, metadata, "
      "inference, shared-memory, model-config, model-repository, statistics, trace, logging");
  AddRepeatable(command, "--grpc-restricted-protocol", server.grpc_restricted_protocols,
                "As --http-restricted-api; the header is triton-grpc-protocol-<header>");
  BeginGroup(command, "TLS");
  AddTlsFlags(command, "http", server.http_tls);
  AddTlsFlags(command, "grpc", server.grpc_tls);
}

void AddSeconds(CLI::App& command, const char* name, std::chrono::milliseconds& time,
                const char* text) {
  command
      .add_option_function<std::int64_t>(
          name, [&time](std::int64_t seconds) { time = std::chrono::seconds(seconds); }, text)
      ->check(CLI::Range(1, 86'400))
      ->default_str(std::to_string(time.count() / 1000));
}

void AddHttpLimits(CLI::App& command, HttpLimits& limits) {
  // A head is kept in memory once per connection.
  command
      .add_option("--http-max-header-size", limits.head_bytes,
                  "Bytes of a request's line and header fields")
      ->check(CLI::Range(256, 1 << 16))
      ->capture_default_str();
  command.add_option("--http-max-header-fields", limits.head_fields, "Of a request")
      ->check(AtLeast(1))
      ->capture_default_str();
  AddSeconds(command, "--http-header-timeout-secs", limits.head_timeout,
             "For all of a request's header, and for the TLS handshake");
  AddSeconds(command, "--http-idle-timeout-secs", limits.idle_timeout,
             "Between two requests of a connection");
  AddSeconds(command, "--http-body-timeout-secs", limits.body_timeout,
             "For a body, beside what --http-min-body-rate gives it");
  command
      .add_option("--http-min-body-rate", limits.body_bytes_per_s,
                  "Bytes a second at which a client must send and receive bodies")
      ->check(CLI::Range(1000, 1 << 30))
      ->capture_default_str();
}

void AddHttpFlags(CLI::App& command, ServerOptions& server) {
  BeginGroup(command, "HTTP connections");
  command
      .add_option("--http-thread-count", server.http_thread_count,
                  "Threads that read and write HTTP")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--http-max-input-size", server.http_max_input_bytes,
                  "Bytes of a request's body, also after decompression")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option(
          "--http-max-buffered-size", server.http_max_buffered_bytes,
          "Bytes of bodies being received or waiting for images behind URLs, and of these images, "
          "of all connections, and as many of answers' text being written; more are refused with "
          "503")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--http-max-connections", server.http_max_connections,
                  "Connections at a time to each port; more are closed")
      ->check(AtLeast(1))
      ->capture_default_str();
  AddHttpLimits(command, server.http_limits);
  command
      .add_option("--http-header-forward-pattern", server.http_header_forward_pattern,
                  "Headers whose name has this expression become request parameters")
      ->type_name("REGEX");
}

void AddGrpcFlags(CLI::App& command, ServerOptions& server) {
  BeginGroup(command, "gRPC connections");
  command
      .add_option("--grpc-max-input-size", server.grpc_max_input_bytes, "Bytes of a gRPC message")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--grpc-infer-response-compression-level", server.grpc_compression_level,
                  "Of answers: none, low, medium or high")
      ->transform(OneOf<int>({{"none", 0}, {"low", 1}, {"medium", 2}, {"high", 3}}))
      ->transform(AnyCase())
      ->type_name("LEVEL")
      ->default_str("none");
  command
      .add_option("--grpc-header-forward-pattern", server.grpc_header_forward_pattern,
                  "As --http-header-forward-pattern")
      ->type_name("REGEX");
  GrpcLimits& limits = server.grpc_limits;
  command
      .add_option("--grpc-max-concurrent-streams", limits.concurrent_streams,
                  "Calls of one connection at a time")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--grpc-memory-quota", limits.memory_quota_bytes,
                  "Bytes that gRPC buffers for all connections")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--grpc-handshake-timeout", limits.handshake_timeout_ms,
                  "Milliseconds for a new connection's first frames")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--grpc-answer-timeout", limits.answer_timeout_ms,
                  "Milliseconds for an answer to be read, and 1 s more for each 64 kB")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--grpc-max-connection-idle", limits.max_connection_idle_ms,
                  "Milliseconds after which a connection without calls is told to go; 0 = never")
      ->check(AtLeast(0))
      ->capture_default_str();
  GrpcKeepalive& keepalive = server.grpc_keepalive;
  const auto add = [&command](const char* name, int& value, const char* text) {
    command.add_option(name, value, text)->check(AtLeast(0))->capture_default_str();
  };
  constexpr const char* kTime = "gRPC's own, in milliseconds";
  constexpr const char* kLimit = "gRPC's own, in milliseconds; 0 = no limit";
  constexpr const char* kCount = "gRPC's own, a number of pings";
  add("--grpc-keepalive-time", keepalive.time_ms, kTime);
  add("--grpc-keepalive-timeout", keepalive.timeout_ms, kTime);
  add("--grpc-http2-max-pings-without-data", keepalive.max_pings_without_data, kCount);
  add("--grpc-http2-min-recv-ping-interval-without-data",
      keepalive.min_recv_ping_interval_without_data_ms, kTime);
  add("--grpc-http2-max-ping-strikes", keepalive.max_ping_strikes, kCount);
  add("--grpc-max-connection-age", keepalive.max_connection_age_ms, kLimit);
  add("--grpc-max-connection-age-grace", keepalive.max_connection_age_grace_ms, kLimit);
  command
      .add_option("--grpc-keepalive-permit-without-calls", keepalive.permit_without_calls,
                  "gRPC's own: also on connections without calls")
      ->capture_default_str();
}

void AddImageUrlFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Pictures behind URLs");
  AddRepeatable(
      command, "--image-url-allow", flags.server.image_url_allow,
      "HOST[:PORT] or http://HOST[:PORT]: /v1/embeddings fetches images from there; repeatable. "
      "Without it URLs are refused")
      ->type_name("HOST");
  command
      .add_option("--image-url-allow-private", flags.server.image_url_allow_private,
                  "These hosts may have private and loopback addresses")
      ->capture_default_str();
  command
      .add_option("--image-url-root-cert", flags.server.image_url_root_cert,
                  "PEM file: the roots that these hosts' certificates are checked with, in place "
                  "of the system's")
      ->type_name("FILE");
  command
      .add_option("--image-url-timeout-secs", flags.image_url_timeout_s,
                  "How long the images of a request may take to come")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
}

void AddMetricsFlags(CLI::App& command, ServerOptions& server) {
  BeginGroup(command, "Metrics");
  command
      .add_option("--allow-gpu-metrics", server.allow_gpu_metrics,
                  "Tell what NVIDIA's driver says of the machine's GPUs")
      ->capture_default_str();
  command
      .add_option("--allow-cpu-metrics", server.allow_cpu_metrics,
                  "Tell how much of the machine's CPUs and memory is in use")
      ->capture_default_str();
  AddRepeatable(command, "--metrics-config", server.metrics_config,
                "counter_latencies, histogram_latencies or summary_latencies=true|false, "
                "summary_quantiles=0.5:0.05,...; repeatable. Others have no effect")
      ->type_name("SETTING");
}

void AddCacheFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Cache of answers");
  AddRepeatable(command, "--cache-config", flags.cache_config,
                "local,size=BYTES: keep answers of models with response_cache { enable: true }")
      ->type_name("SETTING");
  command
      .add_option_function<std::int64_t>(
          "--response-cache-byte-size",
          [&flags](std::int64_t bytes) {
            flags.cache_config.push_back("local,size=" + std::to_string(bytes));
          },
          "The older form of --cache-config")
      ->check(AtLeast(0));
}

// What is accepted at a time.
void AddOverloadFlags(CLI::App& command, ServiceOptions& service) {
  BeginGroup(command, "Limits of load");
  command
      .add_option("--max-inflight-requests", service.max_inflight_requests,
                  "Requests accepted and not yet answered; more are refused with 503")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option(
          "--max-inflight-input-bytes", service.max_input_bytes,
          "Bytes of accepted requests' inputs; a request that does not fit beside others is "
          "refused with 503")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option(
          "--max-inflight-output-bytes", service.max_output_bytes,
          "Bytes of what the steps of accepted requests make, pixels and embeddings; likewise")
      ->check(AtLeast(1))
      ->capture_default_str();
}

// Under the heading that AddEngineFlags ends with.
void AddDecodeFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, kPicturesHeading);
  command
      .add_option("--max-decode-bytes", flags.service.max_running_cost_bytes,
                  "Memory for images that a model decodes at a time; a larger one runs alone")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option(
          "--decode-workers", flags.decode_workers,
          "Processes that decode pictures, each in a sandbox: a number; auto: one per core, "
          "or none where the system allows no sandbox; off: decode in the server")
      ->check(DecodeWorkersWord())
      ->type_name("N|auto|off")
      ->capture_default_str();
  command
      .add_option("--decode-timeout-secs", flags.decode_timeout_s,
                  "How long a worker may take for one picture")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
}

void AddStopFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Stopping");
  command
      .add_option("--drain-delay-secs", flags.drain_delay_s,
                  "After SIGTERM, how long a server that is no longer ready takes requests: what "
                  "load balancers need to notice")
      ->check(CLI::Range(0, 3'600))
      ->capture_default_str();
  command
      .add_option("--exit-timeout-secs", flags.exit_timeout_s,
                  "After SIGTERM, how long accepted requests may take")
      ->check(CLI::Range(0, 86'400))
      ->capture_default_str();
}

void AddPageFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Page and search");
  command.add_option("--allow-ui", flags.server.allow_ui, "The page at /ui of the HTTP port")
      ->capture_default_str();
  command
      .add_option("--search-index", flags.search_index,
                  "What siglip embed wrote of pictures, FILE.npy or a folder of them, or what "
                  "siglip index made of it: the page at /ui searches it")
      ->type_name("PATH");
  command
      .add_option("--search-root", flags.search_root,
                  "The page shows found pictures below this folder alone; names in the index "
                  "that are no absolute paths begin there")
      ->type_name("DIR")
      ->capture_default_str();
  command
      .add_option("--search-ef", flags.search_ef,
                  "Of an index of siglip index: rows that are measured per search, at the least; "
                  "more miss less")
      ->check(CLI::Range(std::int64_t{1}, PictureIndexOptions::kMaxEf))
      ->capture_default_str();
}

void AddLogFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Log");
  command
      .add_option("--log-verbose", flags.log.verbose_level, "0 = off; 1 adds a line per request")
      ->transform(SwitchOrLevel())
      ->capture_default_str();
  command.add_option("--log-info", flags.log.info, "Lines of level info")->capture_default_str();
  command.add_option("--log-warning", flags.log.warning, "Lines of level warning")
      ->capture_default_str();
  command.add_option("--log-error", flags.log.error, "Lines of level error")->capture_default_str();
  command.add_option("--log-format", flags.log.iso8601, "default or ISO8601")
      ->transform(OneOf<bool>({{"default", false}, {"ISO8601", true}}))
      ->type_name("FORMAT")
      ->default_str("default");
  command.add_option("--log-file", flags.log_file, "Instead of stderr")->type_name("FILE");
}

void AddTraceFlags(CLI::App& command, ServeFlags& flags) {
  BeginGroup(command, "Trace");
  AddRepeatable(command, "--trace-config", flags.server.trace_config,
                "level=TIMESTAMPS|OFF, rate=N, count=N, mode=triton|chrome, triton,file=FILE, "
                "triton,log-frequency=N; repeatable")
      ->type_name("SETTING");
  const std::pair<const char*, const char*> older[] = {
      {"--trace-file", "triton,file="},
      {"--trace-level", "level="},
      {"--trace-rate", "rate="},
      {"--trace-count", "count="},
      {"--trace-log-frequency", "triton,log-frequency="}};
  for (const auto& [name, setting] : older) {
    command
        .add_option_function<std::vector<std::string>>(
            name,
            [&flags, setting](const std::vector<std::string>& values) {
              for (const std::string& value : values) {
                flags.server.trace_config.push_back(setting + value);
              }
            },
            "The older form of --trace-config")
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
}

void AddSharedMemoryFlags(CLI::App& command, ServerOptions& server) {
  BeginGroup(command, "Shared memory");
  command
      .add_option("--allow-client-shm", server.allow_client_shm,
                  "Clients may pass tensors in shared memory of this machine")
      ->capture_default_str();
  command
      .add_option("--client-shm-prefix", server.client_shm_prefix,
                  "Of the names of POSIX shared memory that clients may pass; none: any name")
      ->type_name("PREFIX");
}

// Options that launch scripts of Triton pass and that have no meaning here.
constexpr const char* kIgnored[] = {"--disable-auto-complete-config",
                                    "--strict-model-config",
                                    "--model-load-thread-count",
                                    "--model-namespacing",
                                    "--enable-peer-access",
                                    "--grpc-infer-thread-count",
                                    "--grpc-infer-allocation-pool-size",
                                    "--grpc-max-response-pool-size",
                                    "--metrics-interval-ms",
                                    "--rate-limit",
                                    "--rate-limit-resource",
                                    "--pinned-memory-pool-byte-size",
                                    "--cuda-memory-pool-byte-size",
                                    "--cuda-virtual-address-size",
                                    "--min-supported-compute-capability",
                                    "--buffer-manager-thread-count",
                                    "--host-policy",
                                    "--model-load-gpu-limit",
                                    "--backend-directory",
                                    "--backend-config",
                                    "--repoagent-directory",
                                    "--cache-directory",
                                    "--allow-sagemaker",
                                    "--sagemaker-port",
                                    "--sagemaker-safe-port-range",
                                    "--sagemaker-thread-count",
                                    "--allow-vertex-ai",
                                    "--vertex-ai-port",
                                    "--vertex-ai-thread-count",
                                    "--vertex-ai-default-model"};

void AddIgnoredFlags(CLI::App& command, ServeFlags& flags) {
  for (const char* name : kIgnored) {
    command
        .add_option_function<std::vector<std::string>>(
            name,
            [&flags, name](const std::vector<std::string>&) { flags.ignored.push_back(name); })
        ->expected(0, 1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group("");  // told in one sentence: IgnoredOptions
  }
}

}  // namespace

std::string IgnoredOptions() {
  return absl::StrCat("Options of Triton that are taken and have no effect here: ",
                      absl::StrJoin(kIgnored, ", "), ".");
}

void AddServeFlags(CLI::App& command, ServeFlags& flags) {
  // As Triton, so that scripts may append to what others set.
  command.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  // The headings of --help in its order: what everybody needs, what some do, what hardly anybody.
  AddCheckpointFlag(command, flags.model, false);
  AddRepositoryFlags(command, flags);
  AddPortFlags(command, flags);
  AddEngineFlags(command, flags.model);
  AddDecodeFlags(command, flags);
  AddOverloadFlags(command, flags.service);
  AddAccessFlags(command, flags.server);
  AddMetricsFlags(command, flags.server);
  AddLogFlags(command, flags);
  AddTraceFlags(command, flags);
  AddPageFlags(command, flags);
  AddCacheFlags(command, flags);
  AddImageUrlFlags(command, flags);
  AddModelControlFlags(command, flags);
  AddStopFlags(command, flags);
  AddHttpFlags(command, flags.server);
  AddGrpcFlags(command, flags.server);
  AddSharedMemoryFlags(command, flags.server);
  AddIgnoredFlags(command, flags);
}

}  // namespace siglip::cli
