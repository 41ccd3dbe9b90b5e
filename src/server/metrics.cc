#include "server/metrics.h"

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace siglip {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct CpuTimes {
  std::uint64_t busy = 0;
  std::uint64_t total = 0;
};

// The first line of /proc/stat: user nice system idle iowait irq softirq steal. Zeros if
// unreadable.
CpuTimes ReadCpuTimes() {
  std::ifstream stat("/proc/stat");
  std::string label;
  stat >> label;
  CpuTimes times;
  std::uint64_t value = 0;
  for (int field = 0; field < 8 && stat >> value; ++field) {
    times.total += value;
    const bool idle = field == 3 || field == 4;
    if (!idle) times.busy += value;
  }
  return times;
}

// Bytes of the entry `key` ("MemTotal:") of /proc/meminfo.
double ReadMemInfo(std::string_view key) {
  std::ifstream info("/proc/meminfo");
  std::string name;
  std::string unit;
  double kib = 0;
  while (info >> name >> kib) {
    std::getline(info, unit);
    if (name == key) return kib * 1024;
  }
  return 0;
}

MetricFamily Gauge(std::string name, std::string help, double value) {
  ClientMetric metric;
  metric.gauge.value = value;
  return {std::move(name), std::move(help), MetricType::Gauge, {metric}};
}

double Microseconds(const StatisticDuration& duration) {
  return static_cast<double>(duration.ns / 1000);
}

ClientMetric Labelled(const ModelStatistics& model) {
  ClientMetric metric;
  metric.label = {{"model", model.name}, {"version", model.version}};
  return metric;
}

struct ModelMetric {
  const char* name;
  const char* help;
  MetricType type;
  double (*value)(const ModelStatistics&);
};

constexpr ModelMetric kModelMetrics[] = {
    {"nv_inference_request_success", "Inference requests that were answered", MetricType::Counter,
     [](const ModelStatistics& m) { return static_cast<double>(m.success.count); }},
    {"nv_inference_count",
     "Inferences made, a batch of n counts n, answers from a cache do not count",
     MetricType::Counter,
     [](const ModelStatistics& m) { return static_cast<double>(m.inference_count); }},
    {"nv_inference_exec_count", "Batches executed", MetricType::Counter,
     [](const ModelStatistics& m) { return static_cast<double>(m.execution_count); }},
    {"nv_inference_request_duration_us", "Microseconds that requests took, from arrival to answer",
     MetricType::Counter, [](const ModelStatistics& m) { return Microseconds(m.success); }},
    {"nv_inference_queue_duration_us", "Microseconds that requests waited in a queue",
     MetricType::Counter, [](const ModelStatistics& m) { return Microseconds(m.queue); }},
    {"nv_inference_compute_input_duration_us", "Microseconds spent on preparing inputs",
     MetricType::Counter, [](const ModelStatistics& m) { return Microseconds(m.compute_input); }},
    {"nv_inference_compute_infer_duration_us", "Microseconds spent in models", MetricType::Counter,
     [](const ModelStatistics& m) { return Microseconds(m.compute_infer); }},
    {"nv_inference_compute_output_duration_us", "Microseconds spent on handing over outputs",
     MetricType::Counter, [](const ModelStatistics& m) { return Microseconds(m.compute_output); }},
    {"nv_inference_pending_request_count", "Requests that wait for execution", MetricType::Gauge,
     [](const ModelStatistics& m) { return static_cast<double>(m.pending_requests); }},
    {"nv_model_load_duration_secs", "Seconds that loading the model took", MetricType::Gauge,
     [](const ModelStatistics& m) { return m.load_duration_s; }},
};

MetricFamily ModelFamily(const ModelMetric& row, const std::vector<ModelStatistics>& models) {
  MetricFamily family{row.name, row.help, row.type, {}};
  for (const ModelStatistics& model : models) {
    ClientMetric metric = Labelled(model);
    (row.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) =
        row.value(model);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

MetricFamily FailureFamily(const std::vector<ModelStatistics>& models) {
  MetricFamily family{"nv_inference_request_failure",
                      "Inference requests that failed, by reason",
                      MetricType::Counter,
                      {}};
  constexpr std::pair<FailureReason, const char*> kReasons[] = {
      {FailureReason::kRejected, "REJECTED"},
      {FailureReason::kCanceled, "CANCELED"},
      {FailureReason::kBackend, "BACKEND"},
      {FailureReason::kOther, "OTHER"}};
  for (const ModelStatistics& model : models) {
    for (const auto& [reason, text] : kReasons) {
      ClientMetric metric = Labelled(model);
      metric.label.push_back({"reason", text});
      const auto it = model.failures.find(reason);
      metric.counter.value = it == model.failures.end() ? 0 : static_cast<double>(it->second);
      family.metric.push_back(std::move(metric));
    }
  }
  return family;
}

MetricFamily BuildInfo(const ServerMetadata& metadata) {
  MetricFamily family = Gauge("siglip_build_info", "1, labelled with what is running", 1);
  family.metric[0].label = {{"version", metadata.version}};
  return family;
}

}  // namespace

double CpuSampler::Utilization() {
  const CpuTimes now = ReadCpuTimes();
  MutexLock lock(mu_);
  const std::uint64_t total = now.total - total_;
  const std::uint64_t busy = now.busy - busy_;
  const bool moved = now.total > total_;
  busy_ = now.busy;
  total_ = now.total;
  return moved ? static_cast<double>(busy) / static_cast<double>(total) : 0;
}

std::string RenderMetrics(const Service& service, CpuSampler& cpu) {
  std::vector<MetricFamily> families;
  if (const auto models = service.GetStatistics("", ""); models.ok()) {
    for (const ModelMetric& row : kModelMetrics) families.push_back(ModelFamily(row, *models));
    families.insert(families.begin() + 1, FailureFamily(*models));
  }
  const double memory_total = ReadMemInfo("MemTotal:");
  const double memory_used = memory_total - ReadMemInfo("MemAvailable:");
  families.push_back(Gauge("nv_cpu_utilization",
                           "CPU utilization of the machine, 0 to 1, since the "
                           "previous scrape",
                           cpu.Utilization()));
  families.push_back(Gauge("nv_cpu_memory_total_bytes", "Memory of the machine", memory_total));
  families.push_back(
      Gauge("nv_cpu_memory_used_bytes", "Memory in use on the machine", memory_used));
  families.push_back(BuildInfo(service.Metadata()));
  return prometheus::TextSerializer().Serialize(families);
}

void MetricsHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const std::string_view target(request.target);
  HttpResponse response;
  if (target.substr(0, target.find('?')) != "/metrics") {
    response = ErrorResponse(404, "Not Found");
  } else if (request.method != "GET") {
    response = ErrorResponse(405, "Method Not Allowed");
  } else {
    response.content_type = "text/plain; charset=utf-8";
    response.body = RenderMetrics(service_, cpu_);
  }
  exchange->Respond([response = std::move(response)]() mutable { return std::move(response); });
}

}  // namespace siglip
