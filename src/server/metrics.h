#pragma once

// Prometheus metrics with Triton's names and labels, made from the service's statistics at each
// scrape.

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#include "base/mutex.h"
#include "server/door_state.h"
#include "server/http.h"
#include "server/nvml_gpus.h"
#include "serving/service.h"

namespace siglip {

// Share of the machine's CPU time in use since the previous call. Thread-safe.
class CpuSampler {
 public:
  double Utilization();

 private:
  Mutex mu_;
  std::uint64_t busy_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::uint64_t total_ SIGLIP_GUARDED_BY(mu_) = 0;
};

// Which of a model's durations are told, as --metrics-config says.
struct MetricsSettings {
  bool counters = true;    // sums
  bool histograms = true;  // of answers; unlike Triton's they cost nothing to speak of
  bool summaries = false;  // quantiles of the last minute or two
  std::vector<double> quantiles = {0.5, 0.9, 0.95, 0.99, 0.999};
  bool machine = true;  // its CPUs and memory; an option of its own says
};

// Texts such as "summary_latencies=true", "summary_quantiles=0.5:0.05,0.9:0.01" (a quantile's error
// is not looked at: ours is at most 1/16 of the value). As in Triton settings and values that are
// not known have no effect, with a warning; what is not <setting>=<value> is InvalidArgument.
absl::StatusOr<MetricsSettings> ParseMetricsConfig(std::span<const std::string> texts);

// The text of GET /metrics.
std::string RenderMetrics(const Service& service, const DoorState& state,
                          const MetricsSettings& settings, CpuSampler& cpu,
                          std::span<const GpuReading> gpus = {});

class MetricsHandler final : public HttpHandler {
 public:
  // `service` and `state` outlive the handler. `gpus`: null = nothing is told of GPUs.
  MetricsHandler(const Service& service, const DoorState& state, MetricsSettings settings,
                 std::unique_ptr<NvmlGpus> gpus = nullptr)
      : service_(service), state_(state), settings_(std::move(settings)), gpus_(std::move(gpus)) {}
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;

 private:
  const Service& service_;
  const DoorState& state_;
  const MetricsSettings settings_;
  CpuSampler cpu_;
  const std::unique_ptr<NvmlGpus> gpus_;
};

}  // namespace siglip
