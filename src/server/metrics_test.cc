#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Metrics, NamesAndLabelsAreTritons) {
  FakeService service;
  DoorState state;
  CpuSampler cpu;
  auto request = std::make_unique<InferRequest>();
  request->model_name = "echo";
  request->done = [](const InferResponse&) {};
  service.Infer(std::move(request));
  state.http_refusals.Record(7'000'000);
  state.http_refusals.Record(3'000'000'000);
  const std::string text = RenderMetrics(service, state, {}, cpu);
  EXPECT_THAT(text, HasSubstr("\nnv_inference_request_success{model=\"echo\",version=\"1\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("\nnv_inference_request_duration_us{model=\"echo\",version=\"1\"} 2000\n"));
  for (const char* reason : {"REJECTED", "CANCELED", "BACKEND", "OTHER"}) {
    EXPECT_THAT(text, HasSubstr("\nnv_inference_request_failure{model=\"echo\",reason=\"" +
                                std::string(reason) + "\",version=\"1\"} 0\n"));
  }
  EXPECT_THAT(text, HasSubstr("# TYPE nv_inference_pending_request_count gauge\n"));
  EXPECT_THAT(text, HasSubstr("\nnv_cpu_memory_total_bytes "));
  EXPECT_THAT(text, HasSubstr("\nnv_cpu_utilization "));
  EXPECT_THAT(RenderMetrics(service, state, {.machine = false}, cpu), Not(HasSubstr("nv_cpu")));
  EXPECT_THAT(text,
              HasSubstr("\nsiglip_refusal_duration_seconds_bucket{door=\"http\",le=\"0.01\"} 1\n"));
  EXPECT_THAT(
      text, HasSubstr("\nsiglip_refusal_duration_seconds_bucket{door=\"http\",le=\"0.005\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nsiglip_refusal_duration_seconds_count{door=\"http\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("\nsiglip_refusal_duration_seconds_sum{door=\"http\"} 3.007\n"));
  EXPECT_THAT(text, HasSubstr("\nsiglip_refusal_duration_seconds_count{door=\"grpc\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nsiglip_build_info{version=\"2.73.0\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nsiglip_inflight_requests 0\n"));
  const auto place = service.TakePlace();
  EXPECT_THAT(RenderMetrics(service, state, {}, cpu), HasSubstr("\nsiglip_inflight_requests 1\n"));
}

// One model with something in every number.
class CountingService final : public FakeService {
 public:
  absl::StatusOr<std::vector<ModelStatistics>> GetStatistics(const std::string&,
                                                             const std::string&) const override {
    ModelStatistics m;
    m.name = "m";
    m.version = "1";
    m.metric_tags = {{"team", "a"}};
    m.cached = cached;
    m.cache_hit = {3, 9000};
    m.cache_miss = {4, 8000};
    m.responses = {.bounds_ms = {100, 500}, .counts = {2, 1, 4}, .sum_ns = 7'500'000};
    for (LatencyRecord& record : m.latencies) {
      record.all = {10, 55000};
      for (std::uint64_t us = 1; us <= 10; ++us) record.window.Record(us * 1000, 0);
    }
    m.step.stages["decode"] = {2, 3'000'000'000};
    m.step.refused["too_large"] = 5;
    return std::vector<ModelStatistics>{m};
  }
  std::optional<CacheStatistics> GetCacheStatistics() const override {
    if (!cached) return std::nullopt;
    return CacheStatistics{.entries = 2,
                           .utilization = 0.25,
                           .hits = 3,
                           .misses = 4,
                           .evictions = 5,
                           .lookup_ns = 6000,
                           .insertion_ns = 7999};
  }
  bool cached = true;
};

TEST(Metrics, CacheHistogramAndImagesHaveTheirNames) {
  CountingService service;
  DoorState state;
  CpuSampler cpu;
  const std::string text = RenderMetrics(service, state, {}, cpu);
  const std::string labels = "{_team=\"a\",model=\"m\",version=\"1\"";
  for (const char* line : {"nv_cache_num_hits_per_model", "nv_cache_num_misses_per_model"}) {
    EXPECT_THAT(text, HasSubstr(line + labels + "} "));
  }
  EXPECT_THAT(text, HasSubstr("nv_cache_hit_duration_per_model" + labels + "} 9\n"));
  EXPECT_THAT(text, HasSubstr("nv_cache_miss_duration_per_model" + labels + "} 8\n"));
  for (const char* line :
       {"nv_cache_util 0.25", "nv_cache_num_entries 2", "nv_cache_num_hits 3",
        "nv_cache_num_misses 4", "nv_cache_num_lookups 7", "nv_cache_num_evictions 5",
        "nv_cache_lookup_duration 6", "nv_cache_insertion_duration 7"}) {
    EXPECT_THAT(text, HasSubstr(std::string("gauge\n") + line + "\n"));
  }
  const std::string histogram = "nv_inference_first_response_histogram_ms";
  EXPECT_THAT(text, HasSubstr("# TYPE " + histogram + " histogram\n"));
  EXPECT_THAT(text, HasSubstr(histogram + "_bucket" + labels + ",le=\"100\"} 2\n"));
  EXPECT_THAT(text, HasSubstr(histogram + "_bucket" + labels + ",le=\"500\"} 3\n"));
  EXPECT_THAT(text, HasSubstr(histogram + "_bucket" + labels + ",le=\"+Inf\"} 7\n"));
  EXPECT_THAT(text, HasSubstr(histogram + "_sum" + labels + "} 7.5\n"));
  EXPECT_THAT(text,
              HasSubstr("siglip_image_stage_seconds_total{_team=\"a\",model=\"m\",stage=\"decode\","
                        "version=\"1\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("siglip_images_rejected_total{_team=\"a\",model=\"m\","
                              "reason=\"too_large\",version=\"1\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("\nnv_pinned_memory_pool_total_bytes 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("_summary_")));
  service.cached = false;
  EXPECT_THAT(RenderMetrics(service, state, {}, cpu), Not(HasSubstr("nv_cache")));
}

TEST(Metrics, SettingsChooseTheLatencies) {
  CountingService service;
  DoorState state;
  CpuSampler cpu;
  const auto settings = ParseMetricsConfig(
      std::vector<std::string>{"counter_latencies=false", "histogram_latencies=false",
                               "summary_latencies=true", "summary_quantiles=0.5:0.05,0.9:0.01"});
  ASSERT_TRUE(settings.ok()) << settings.status();
  const std::string text = RenderMetrics(service, state, *settings, cpu);
  const std::string labels = "{_team=\"a\",model=\"m\",version=\"1\"";
  EXPECT_THAT(text, Not(HasSubstr("nv_inference_request_duration_us")));
  EXPECT_THAT(text, Not(HasSubstr("_histogram_ms")));
  for (const char* name :
       {"nv_inference_request_summary_us", "nv_inference_queue_summary_us",
        "nv_inference_compute_input_summary_us", "nv_inference_compute_infer_summary_us",
        "nv_inference_compute_output_summary_us", "nv_cache_hit_summary_per_model",
        "nv_cache_miss_summary_per_model"}) {
    EXPECT_THAT(text, HasSubstr(name + labels + ",quantile=\"0.5\"} 5\n"));
    EXPECT_THAT(text, HasSubstr(name + labels + ",quantile=\"0.9\"} 9\n"));
    EXPECT_THAT(text, HasSubstr(name + std::string("_count") + labels + "} 10\n"));
    EXPECT_THAT(text, HasSubstr(name + std::string("_sum") + labels + "} 55\n"));
  }
}

TEST(Metrics, SettingsThatAreNotKnownHaveNoEffect) {
  const auto parse = [](const char* text) {
    return ParseMetricsConfig(std::vector<std::string>{text});
  };
  for (const char* other :
       {"summary_latencies=TRUE", "summary_latencies=1", "counter_latencies=FALSE", "x=true",
        "model:embed_text=true", "summary_quantiles=0.5", "summary_quantiles=2:0.1",
        "summary_quantiles=nan:0.1,a:0.1,1e999:0.1"}) {
    const auto settings = parse(other);
    ASSERT_TRUE(settings.ok()) << settings.status();
    EXPECT_TRUE(settings->counters && settings->histograms && !settings->summaries) << other;
    EXPECT_EQ(settings->quantiles, MetricsSettings().quantiles) << other;
  }
  EXPECT_THAT(parse("summary_quantiles=0.5:0.1,0.2,0:0.1,0.5:0.2,1:0.1,")->quantiles,
              ::testing::ElementsAre(0.5, 0, 1));
  for (const char* wrong : {"counter_latencies", "counter_latencies=", "=true", "", "=",
                            "model:m,counter_latencies=true"}) {
    EXPECT_THAT(std::string(parse(wrong).status().message()),
                HasSubstr(std::string("expected <setting>=<value>, got '") + wrong + "'"));
  }
}

TEST(Metrics, UtilizationIsAShare) {
  CpuSampler cpu;
  for (int i = 0; i < 3; ++i) {
    const double share = cpu.Utilization();
    EXPECT_GE(share, 0);
    EXPECT_LE(share, 1);
  }
}

TEST(Metrics, AreServedAsText) {
  FakeService service;
  DoorState state;
  MetricsHandler handler(service, state, {});
  const auto server = HttpServer::Start("metrics", "127.0.0.1", 0, 1, {}, handler);
  ASSERT_TRUE(server.ok());
  RawClient client((*server)->port());
  const RawResponse response = client.Ask(Get("/metrics"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "text/plain; charset=utf-8");
  EXPECT_EQ(client.Ask(Get("/metrics/")).status, 200);
  EXPECT_EQ(client.Ask(Get("/metrics/x")).status, 404);
  EXPECT_EQ(client.Ask(Get("/")).status, 404);
  EXPECT_EQ(client.Ask(Post("/metrics", "")).status, 405);
}

}  // namespace
}  // namespace siglip
