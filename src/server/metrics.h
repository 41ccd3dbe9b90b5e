#pragma once

// Prometheus metrics with Triton's names and labels, made from the service's statistics at each
// scrape.

#include <string>

#include "base/mutex.h"
#include "server/http.h"
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

// The text of GET /metrics.
std::string RenderMetrics(const Service& service, CpuSampler& cpu);

class MetricsHandler final : public HttpHandler {
 public:
  // `service` outlives the handler.
  explicit MetricsHandler(const Service& service) : service_(service) {}
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;

 private:
  const Service& service_;
  CpuSampler cpu_;
};

}  // namespace siglip
