#include "server/metrics.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include "base/log.h"
#include "protocol/text.h"

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
  for (const auto& [tag, value] : model.metric_tags) metric.label.push_back({"_" + tag, value});
  return metric;
}

// When a model has the metric.
enum class When { kAlways, kCounterLatencies, kCached };

struct ModelMetric {
  const char* name;
  const char* help;
  MetricType type;
  When when;
  double (*value)(const ModelStatistics&);
};

constexpr ModelMetric kModelMetrics[] = {
    {"nv_inference_request_success", "Inference requests that were answered", MetricType::Counter,
     When::kAlways, [](const ModelStatistics& m) { return static_cast<double>(m.success.count); }},
    {"nv_inference_count",
     "Inferences made, a batch of n counts n, answers from a cache do not count",
     MetricType::Counter, When::kAlways,
     [](const ModelStatistics& m) { return static_cast<double>(m.inference_count); }},
    {"nv_inference_exec_count", "Batches executed", MetricType::Counter, When::kAlways,
     [](const ModelStatistics& m) { return static_cast<double>(m.execution_count); }},
    {"nv_inference_request_duration_us", "Microseconds that requests took, from arrival to answer",
     MetricType::Counter, When::kCounterLatencies,
     [](const ModelStatistics& m) { return Microseconds(m.success); }},
    {"nv_inference_queue_duration_us", "Microseconds that requests waited in a queue",
     MetricType::Counter, When::kCounterLatencies,
     [](const ModelStatistics& m) { return Microseconds(m.queue); }},
    {"nv_inference_compute_input_duration_us", "Microseconds spent on preparing inputs",
     MetricType::Counter, When::kCounterLatencies,
     [](const ModelStatistics& m) { return Microseconds(m.compute_input); }},
    {"nv_inference_compute_infer_duration_us", "Microseconds spent in models", MetricType::Counter,
     When::kCounterLatencies,
     [](const ModelStatistics& m) { return Microseconds(m.compute_infer); }},
    {"nv_inference_compute_output_duration_us", "Microseconds spent on handing over outputs",
     MetricType::Counter, When::kCounterLatencies,
     [](const ModelStatistics& m) { return Microseconds(m.compute_output); }},
    {"nv_inference_pending_request_count", "Requests that wait for execution: the queue's depth",
     MetricType::Gauge, When::kAlways,
     [](const ModelStatistics& m) { return static_cast<double>(m.pending_requests); }},
    {"nv_model_load_duration_secs", "Seconds that loading the model took", MetricType::Gauge,
     When::kAlways, [](const ModelStatistics& m) { return m.load_duration_s; }},
    {"nv_cache_num_hits_per_model", "Requests answered from the response cache",
     MetricType::Counter, When::kCached,
     [](const ModelStatistics& m) { return static_cast<double>(m.cache_hit.count); }},
    {"nv_cache_num_misses_per_model", "Requests whose answer the response cache did not have",
     MetricType::Counter, When::kCached,
     [](const ModelStatistics& m) { return static_cast<double>(m.cache_miss.count); }},
    {"nv_cache_hit_duration_per_model", "Microseconds spent on finding answers in the cache",
     MetricType::Counter, When::kCached,
     [](const ModelStatistics& m) { return Microseconds(m.cache_hit); }},
    {"nv_cache_miss_duration_per_model",
     "Microseconds spent on looking in vain and on keeping answers", MetricType::Counter,
     When::kCached, [](const ModelStatistics& m) { return Microseconds(m.cache_miss); }},
};

bool Applies(When when, const ModelStatistics& model, const MetricsSettings& settings) {
  switch (when) {
    case When::kCounterLatencies:
      return settings.counters;
    case When::kCached:
      return model.cached;
    case When::kAlways:
      break;
  }
  return true;
}

MetricFamily ModelFamily(const ModelMetric& row, const std::vector<ModelStatistics>& models,
                         const MetricsSettings& settings) {
  MetricFamily family{row.name, row.help, row.type, {}};
  for (const ModelStatistics& model : models) {
    if (!Applies(row.when, model, settings)) continue;
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

MetricFamily HistogramFamily(const std::vector<ModelStatistics>& models) {
  MetricFamily family{"nv_inference_first_response_histogram_ms",
                      "Milliseconds from a request's arrival to its answer",
                      MetricType::Histogram,
                      {}};
  for (const ModelStatistics& model : models) {
    const ResponseHistogram& responses = model.responses;
    ClientMetric metric = Labelled(model);
    std::uint64_t cumulated = 0;
    for (std::size_t i = 0; i < responses.counts.size(); ++i) {
      cumulated += responses.counts[i];
      const double bound = i < responses.bounds_ms.size() ? responses.bounds_ms[i]
                                                          : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulated, bound});
    }
    metric.histogram.sample_count = cumulated;
    metric.histogram.sample_sum = static_cast<double>(responses.sum_ns) * 1e-6;
    family.metric.push_back(std::move(metric));
  }
  return family;
}

struct Summary {
  const char* name;
  const char* help;
  LatencyKind kind;
  When when;
};

constexpr Summary kSummaries[] = {
    {"nv_inference_request_summary_us", "Microseconds from arrival to answer",
     LatencyKind::kRequest, When::kAlways},
    {"nv_inference_queue_summary_us", "Microseconds in a queue", LatencyKind::kQueue,
     When::kAlways},
    {"nv_inference_compute_input_summary_us", "Microseconds of preparing inputs",
     LatencyKind::kInput, When::kAlways},
    {"nv_inference_compute_infer_summary_us", "Microseconds in the model", LatencyKind::kInfer,
     When::kAlways},
    {"nv_inference_compute_output_summary_us", "Microseconds of handing over outputs",
     LatencyKind::kOutput, When::kAlways},
    {"nv_cache_hit_summary_per_model", "Microseconds of finding an answer in the cache",
     LatencyKind::kCacheHit, When::kCached},
    {"nv_cache_miss_summary_per_model", "Microseconds of looking in vain and of keeping the answer",
     LatencyKind::kCacheMiss, When::kCached},
};

MetricFamily SummaryFamily(const Summary& row, const std::vector<ModelStatistics>& models,
                           const MetricsSettings& settings) {
  MetricFamily family{row.name, row.help, MetricType::Summary, {}};
  for (const ModelStatistics& model : models) {
    if (!Applies(row.when, model, settings)) continue;
    const LatencyRecord& record = model.latencies[static_cast<std::size_t>(row.kind)];
    ClientMetric metric = Labelled(model);
    metric.summary.sample_count = record.all.count;
    metric.summary.sample_sum = Microseconds(record.all);
    for (const double q : settings.quantiles) {
      metric.summary.quantile.push_back({q, record.window.QuantileNs(q, model.taken_ns) / 1000});
    }
    family.metric.push_back(std::move(metric));
  }
  return family;
}

// What steps count on their own: the ways of images.
std::vector<MetricFamily> StepFamilies(const std::vector<ModelStatistics>& models) {
  MetricFamily seconds{"siglip_image_stage_seconds_total",
                       "Seconds spent on images, by stage; encoding is the compute_infer of the "
                       "model behind",
                       MetricType::Counter,
                       {}};
  MetricFamily items{"siglip_image_stage_items_total",
                     "Images that went through a stage",
                     MetricType::Counter,
                     {}};
  MetricFamily refused{"siglip_images_rejected_total",
                       "Images that were refused, by reason",
                       MetricType::Counter,
                       {}};
  const auto add = [](const ModelStatistics& model, const char* label, const std::string& value,
                      double count, MetricFamily& family) {
    ClientMetric metric = Labelled(model);
    metric.label.push_back({label, value});
    metric.counter.value = count;
    family.metric.push_back(std::move(metric));
  };
  for (const ModelStatistics& model : models) {
    for (const auto& [stage, duration] : model.step.stages) {
      add(model, "stage", stage, static_cast<double>(duration.ns) * 1e-9, seconds);
      add(model, "stage", stage, static_cast<double>(duration.count), items);
    }
    for (const auto& [reason, count] : model.step.refused) {
      add(model, "reason", reason, static_cast<double>(count), refused);
    }
  }
  return {std::move(seconds), std::move(items), std::move(refused)};
}

MetricFamily RefusalFamily(const DoorState& state) {
  MetricFamily family{"siglip_refusal_duration_seconds",
                      "Seconds from a whole request to its refusal for lack of room, by door",
                      MetricType::Histogram,
                      {}};
  const auto add = [&family](const char* door, const RefusalTimes& times) {
    const RefusalTimes::Snapshot snapshot = times.Read();
    ClientMetric metric;
    metric.label = {{"door", door}};
    std::uint64_t cumulated = 0;
    for (std::size_t i = 0; i < snapshot.counts.size(); ++i) {
      cumulated += snapshot.counts[i];
      const double bound = i < RefusalTimes::kBoundsS.size()
                               ? RefusalTimes::kBoundsS[i]
                               : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulated, bound});
    }
    metric.histogram.sample_count = cumulated;
    metric.histogram.sample_sum = snapshot.sum_s;
    family.metric.push_back(std::move(metric));
  };
  add("http", state.http_refusals);
  add("grpc", state.grpc_refusals);
  return family;
}

struct CacheMetric {
  const char* name;
  const char* help;
  double (*value)(const CacheStatistics&);
};

// Triton has all of them as gauges, and all durations in microseconds.
constexpr CacheMetric kCacheMetrics[] = {
    {"nv_cache_util", "Share of the response cache's bytes that is in use, 0 to 1",
     [](const CacheStatistics& c) { return c.utilization; }},
    {"nv_cache_num_entries", "Answers in the response cache",
     [](const CacheStatistics& c) { return static_cast<double>(c.entries); }},
    {"nv_cache_num_hits", "Look-ups in the response cache that found an answer",
     [](const CacheStatistics& c) { return static_cast<double>(c.hits); }},
    {"nv_cache_num_misses", "Look-ups in the response cache in vain",
     [](const CacheStatistics& c) { return static_cast<double>(c.misses); }},
    {"nv_cache_num_lookups", "Look-ups in the response cache",
     [](const CacheStatistics& c) { return static_cast<double>(c.hits + c.misses); }},
    {"nv_cache_num_evictions", "Answers that left the response cache to make room",
     [](const CacheStatistics& c) { return static_cast<double>(c.evictions); }},
    {"nv_cache_lookup_duration", "Microseconds spent on look-ups in the response cache",
     [](const CacheStatistics& c) { return static_cast<double>(c.lookup_ns / 1000); }},
    {"nv_cache_insertion_duration", "Microseconds spent on keeping answers",
     [](const CacheStatistics& c) { return static_cast<double>(c.insertion_ns / 1000); }},
};

struct GpuMetric {
  const char* name;
  const char* help;
  MetricType type;
  std::optional<double> GpuReading::*value;
};

constexpr GpuMetric kGpuMetrics[] = {
    {"nv_gpu_utilization", "Share of time that the GPU was busy, 0 to 1", MetricType::Gauge,
     &GpuReading::utilization},
    {"nv_gpu_memory_total_bytes", "Memory of the GPU", MetricType::Gauge,
     &GpuReading::memory_total_bytes},
    {"nv_gpu_memory_used_bytes", "Memory in use on the GPU", MetricType::Gauge,
     &GpuReading::memory_used_bytes},
    {"nv_gpu_power_usage", "Watts that the GPU draws", MetricType::Gauge,
     &GpuReading::power_usage_w},
    {"nv_gpu_power_limit", "Watts that the GPU may draw", MetricType::Gauge,
     &GpuReading::power_limit_w},
    {"nv_energy_consumption", "Joules that the GPU used since the server's start",
     MetricType::Counter, &GpuReading::energy_j},
};

MetricFamily GpuFamily(const GpuMetric& row, std::span<const GpuReading> gpus) {
  MetricFamily family{row.name, row.help, row.type, {}};
  for (const GpuReading& gpu : gpus) {
    const std::optional<double> value = gpu.*row.value;
    if (!value) continue;
    ClientMetric metric;
    // The only label: perf_analyzer's --collect-metrics does not find lines with others.
    metric.label = {{"gpu_uuid", gpu.uuid}};
    (row.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = *value;
    family.metric.push_back(std::move(metric));
  }
  return family;
}

std::vector<MetricFamily> MachineFamilies(CpuSampler& cpu) {
  const double memory_total = ReadMemInfo("MemTotal:");
  const double memory_used = memory_total - ReadMemInfo("MemAvailable:");
  return {
      Gauge("nv_cpu_utilization",
            "CPU utilization of the machine, 0 to 1, since the previous scrape", cpu.Utilization()),
      Gauge("nv_cpu_memory_total_bytes", "Memory of the machine", memory_total),
      Gauge("nv_cpu_memory_used_bytes", "Memory in use on the machine", memory_used)};
}

// By name, as Triton's are: who reads the lines as text finds the same.
void SortLabels(std::vector<MetricFamily>& families) {
  for (MetricFamily& family : families) {
    for (ClientMetric& metric : family.metric) {
      std::sort(metric.label.begin(), metric.label.end());
    }
  }
}

MetricFamily BuildInfo(const ServerMetadata& metadata) {
  MetricFamily family = Gauge("siglip_build_info", "1, labelled with what is running", 1);
  family.metric[0].label = {{"version", metadata.version}};
  return family;
}

void WarnWithoutEffect(std::string_view text) {
  SIGLIP_LOG_WARN("metrics_config_without_effect setting=\"{}\"", LogSafe(text));
}

// Quantiles of "0.5:0.05,0.9:0.01", without those that are none or are there already.
std::vector<double> ParseQuantiles(std::string_view text) {
  std::vector<double> quantiles;
  while (!text.empty()) {
    const std::string_view pair = NextPart(text, ',');
    std::string_view error = pair;
    const std::string_view number = NextPart(error, ':');
    double q = -1;
    const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), q);
    const bool good = code == std::errc() && end == number.data() + number.size() &&
                      !error.empty() && q >= 0 && q <= 1 &&
                      std::find(quantiles.begin(), quantiles.end(), q) == quantiles.end();
    if (good) {
      quantiles.push_back(q);
    } else {
      WarnWithoutEffect(pair);
    }
  }
  return quantiles;
}

// False if it has no effect at all.
bool SetMetrics(std::string_view key, std::string_view value, MetricsSettings& settings) {
  if (key == "summary_quantiles") {
    std::vector<double> quantiles = ParseQuantiles(value);
    if (!quantiles.empty()) settings.quantiles = std::move(quantiles);
    return true;
  }
  bool* flag = key == "counter_latencies"     ? &settings.counters
               : key == "histogram_latencies" ? &settings.histograms
               : key == "summary_latencies"   ? &settings.summaries
                                              : nullptr;
  if (flag == nullptr || (value != "true" && value != "false")) return false;
  *flag = value == "true";
  return true;
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

absl::StatusOr<MetricsSettings> ParseMetricsConfig(std::span<const std::string> texts) {
  MetricsSettings settings;
  for (const std::string& text : texts) {
    std::string_view value = text;
    const std::string_view key = NextPart(value, '=');
    if (key.empty() || value.empty() || key.find(',') != std::string_view::npos) {
      return absl::InvalidArgumentError(
          Concat("--metrics-config: expected <setting>=<value>, got '", text, "'"));
    }
    if (!SetMetrics(key, value, settings)) WarnWithoutEffect(text);
  }
  return settings;
}

std::string RenderMetrics(const Service& service, const DoorState& state,
                          const MetricsSettings& settings, CpuSampler& cpu,
                          std::span<const GpuReading> gpus) {
  std::vector<MetricFamily> families;
  if (const auto models = service.GetStatistics("", ""); models.ok()) {
    for (const ModelMetric& row : kModelMetrics) {
      families.push_back(ModelFamily(row, *models, settings));
    }
    families.push_back(FailureFamily(*models));
    if (settings.histograms) families.push_back(HistogramFamily(*models));
    for (const Summary& row : kSummaries) {
      if (settings.summaries) families.push_back(SummaryFamily(row, *models, settings));
    }
    for (MetricFamily& family : StepFamilies(*models)) families.push_back(std::move(family));
  }
  if (const std::optional<CacheStatistics> cache = service.GetCacheStatistics()) {
    for (const CacheMetric& row : kCacheMetrics) {
      families.push_back(Gauge(row.name, row.help, row.value(*cache)));
    }
  }
  for (const GpuMetric& row : kGpuMetrics) families.push_back(GpuFamily(row, gpus));
  // A family without members would be a name without values.
  std::erase_if(families, [](const MetricFamily& family) { return family.metric.empty(); });
  SortLabels(families);
  families.push_back(Gauge("siglip_inflight_requests",
                           "Requests accepted and not answered, those whose images are still being "
                           "fetched among them",
                           static_cast<double>(service.InflightRequests())));
  families.push_back(RefusalFamily(state));
  if (settings.machine) {
    for (MetricFamily& family : MachineFamilies(cpu)) families.push_back(std::move(family));
  }
  // Without a GPU there is no pinned memory; dashboards of Triton ask for the two.
  families.push_back(Gauge("nv_pinned_memory_pool_total_bytes", "Pinned memory of the pool", 0));
  families.push_back(Gauge("nv_pinned_memory_pool_used_bytes", "Pinned memory in use", 0));
  families.push_back(BuildInfo(service.Metadata()));
  return prometheus::TextSerializer().Serialize(families);
}

void MetricsHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  HttpResponse response;
  if (const std::string_view path = PathOf(request.target);
      path != "/metrics" && path != "/metrics/") {
    response = ErrorResponse(404, "Not Found");
  } else if (request.method != "GET") {
    response = ErrorResponse(405, "Method Not Allowed");
  } else {
    response.content_type = "text/plain; charset=utf-8";
    const std::vector<GpuReading> gpus =
        gpus_ == nullptr ? std::vector<GpuReading>() : gpus_->Read();
    response.body = RenderMetrics(service_, state_, settings_, cpu_, gpus);
  }
  exchange->Respond([response = std::move(response)]() mutable { return std::move(response); });
}

}  // namespace siglip
