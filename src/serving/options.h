#pragma once

// The service's limits, and why they are what they are.

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace siglip {

// Who decides what is loaded: nobody after the start, a client, or the repository's files.
enum class ModelControlMode { kNone, kExplicit, kPoll };

struct ServiceOptions {
  std::string server_name = "triton";  // what Triton's own clients look for
  std::string server_version = {};
  // Of ServerMetadata. "statistics" is what makes perf_analyzer read server-side statistics.
  std::vector<std::string> extensions = {"classification",
                                         "sequence",
                                         "model_repository",
                                         "model_repository(unload_dependents)",
                                         "schedule_policy",
                                         "model_configuration",
                                         "system_shared_memory",
                                         "cuda_shared_memory",
                                         "binary_tensor_data",
                                         "parameters",
                                         "statistics",
                                         "trace",
                                         "logging"};

  // --max-inflight-requests: between the door and their answer. 16 times the 60 of the reference
  // load: enough to keep every stage full, while the last in the queue still gets an answer and not
  // a timeout.
  std::int64_t max_inflight_requests = 1024;
  // --max-inflight-input-bytes: encoded inputs of requests in flight, 64 bodies of 64 MiB, the
  // server's own limit of a body.
  std::int64_t max_input_bytes = std::int64_t{4} << 30;
  // --max-inflight-output-bytes: outputs of steps that wait for the next step or for the client to
  // read: some 2400 images of 384 x 384 between preprocessing and the encoder.
  std::int64_t max_output_bytes = std::int64_t{4} << 30;
  // --max-decode-bytes: working set of the images that are decoded at a time, by what their heads
  // declare. One picture of Pillow's limit, 179 Mpx, takes 0.5 to 1.6 GB: a larger one than this
  // runs alone.
  std::int64_t max_running_cost_bytes = std::int64_t{1} << 30;
  // Answers kept for models with response_cache, with --cache-config local,size=N; 0 = none.
  std::int64_t cache_bytes = 0;
  // Threads for base64 and hashes of large requests, as many for tokenizing long texts, and one for
  // texts of more than that (work_lanes.h).
  int num_forward_threads = 2;
  // False: a model that fails to load is UNAVAILABLE, the others are served (Triton's
  // exit-on-error).
  bool exit_on_error = true;
  // Told once, by an instance's thread, when a model's device is lost: its requests fail with
  // INTERNAL, readiness is false, and whoever runs the service should end the process.
  std::function<void(const absl::Status&)> on_lost = {};

  // --max-model-threads: of all models' instances and queues. Each costs some 50 kB and a place in
  // the system's own limit, which doors and decode workers need too; the six deployments have some
  // 10, and one more per core.
  int max_model_threads = 4096;
  // --max-models: names that are loaded, and ensembles that wait for a step; doors and ensembles
  // have no threads. Each costs some 35 kB, and what its configuration does (kMaxLoadConfigBytes).
  int max_models = 1024;

  // --model-control-mode; --load-model names what the explicit mode starts with ("*" = all).
  ModelControlMode control_mode = ModelControlMode::kNone;
  std::vector<std::string> load_models = {};
  // --repository-poll-secs
  std::chrono::seconds poll_interval{15};
  // --model-load-retry-count, at the start only.
  int load_retries = 0;
  // --strict-readiness: ready only if every model is; otherwise once the server is up.
  bool strict_readiness = true;
};

}  // namespace siglip
