#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, NamesAndLabelsAreTritons) {
  FakeService service;
  CpuSampler cpu;
  auto request = std::make_unique<InferRequest>();
  request->model_name = "echo";
  request->done = [](const InferResponse&) {};
  service.Infer(std::move(request));
  const std::string text = RenderMetrics(service, cpu);
  EXPECT_THAT(text, HasSubstr("\nnv_inference_request_success{model=\"echo\",version=\"1\"} 1\n"));
  EXPECT_THAT(text,
              HasSubstr("\nnv_inference_request_duration_us{model=\"echo\",version=\"1\"} 2000\n"));
  for (const char* reason : {"REJECTED", "CANCELED", "BACKEND", "OTHER"}) {
    EXPECT_THAT(text,
                HasSubstr("\nnv_inference_request_failure{model=\"echo\",version=\"1\",reason=\"" +
                          std::string(reason) + "\"} 0\n"));
  }
  EXPECT_THAT(text, HasSubstr("# TYPE nv_inference_pending_request_count gauge\n"));
  EXPECT_THAT(text, HasSubstr("\nnv_cpu_memory_total_bytes "));
  EXPECT_THAT(text, HasSubstr("\nnv_cpu_utilization "));
  EXPECT_THAT(text, HasSubstr("\nsiglip_build_info{version=\"2.73.0\"} 1\n"));
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
  MetricsHandler handler(service);
  const auto server = HttpServer::Start("metrics", "127.0.0.1", 0, 1, {}, handler);
  ASSERT_TRUE(server.ok());
  RawClient client((*server)->port());
  const RawResponse response = client.Ask(Get("/metrics"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "text/plain; charset=utf-8");
  EXPECT_EQ(client.Ask(Get("/")).status, 404);
  EXPECT_EQ(client.Ask(Post("/metrics", "")).status, 405);
}

}  // namespace
}  // namespace siglip
