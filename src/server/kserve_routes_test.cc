#include "server/kserve_routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

TEST(FindRoute, KnowsTheTable) {
  const struct {
    const char* path;
    RouteKind kind;
  } rows[] = {
      {"/v2", RouteKind::kServerMetadata},
      {"/v2?x=1", RouteKind::kServerMetadata},
      {"/v2/health/live", RouteKind::kLive},
      {"/v2/health/ready", RouteKind::kReady},
      {"/v2/models/stats", RouteKind::kStatistics},
      {"/v2/models/m", RouteKind::kModelMetadata},
      {"/v2/models/m/versions/1", RouteKind::kModelMetadata},
      {"/v2/models/m/ready", RouteKind::kModelReady},
      {"/v2/models/m/versions/12/ready", RouteKind::kModelReady},
      {"/v2/models/m/config", RouteKind::kModelConfig},
      {"/v2/models/m/stats", RouteKind::kStatistics},
      {"/v2/models/m/infer?a/b", RouteKind::kInfer},
      {"/v2/models/m/versions/1/infer", RouteKind::kInfer},
      {"/v2/models/m/generate", RouteKind::kGenerate},
      {"/v2/models/m/generate_stream", RouteKind::kGenerateStream},
      {"/v2/models/m/trace/setting", RouteKind::kTraceSetting},
      {"/v2/trace/setting", RouteKind::kTraceSetting},
      {"/v2/logging", RouteKind::kLogging},
      {"/v2/repository/index", RouteKind::kIndex},
      {"/v2/repository/r/index", RouteKind::kIndex},
      {"/v2/repository/models/m/load", RouteKind::kLoad},
      {"/v2/repository/models/m/unload", RouteKind::kUnload},
      {"/v2/systemsharedmemory/status", RouteKind::kSharedMemoryStatus},
      {"/v2/systemsharedmemory/region/r/status", RouteKind::kSharedMemoryStatus},
      {"/v2/systemsharedmemory/region/r/register", RouteKind::kSharedMemoryRegister},
      {"/v2/systemsharedmemory/unregister", RouteKind::kSharedMemoryUnregister},
      {"/v2/cudasharedmemory/region/r/unregister", RouteKind::kSharedMemoryUnregister},
      {"/v2/models/m/versions/1/trace/setting", RouteKind::kUnknown},
      {"/v2/models/m/versions/1x", RouteKind::kUnknown},
      {"/v2/models/m/versions/", RouteKind::kUnknown},
      {"/v2/models//infer", RouteKind::kUnknown},
      {"/v2/models/m/infer/", RouteKind::kUnknown},
      {"/v2/models/m%2Finfer/infer/x", RouteKind::kUnknown},
      {"/v2/", RouteKind::kUnknown},
      {"/", RouteKind::kUnknown},
      {"", RouteKind::kUnknown},
      {"*", RouteKind::kUnknown},
      {"http://h/v2", RouteKind::kUnknown},
      {"/v2/a/b/c/d/e/f/g/h/i/j/k", RouteKind::kUnknown},
  };
  for (const auto& row : rows) EXPECT_EQ(FindRoute(row.path).kind, row.kind) << row.path;
  EXPECT_EQ(FindRoute("/v2/models/m%20x/versions/7/infer").model, "m%20x");
  EXPECT_EQ(FindRoute("/v2/models/m/versions/7/infer").version, "7");
  EXPECT_EQ(FindRoute("/v2/models/../infer").model, "..");
}

class RoutesTest : public ::testing::Test {
 protected:
  RoutesTest() {
    auto started = HttpServer::Start("http", "127.0.0.1", 0, 1, {}, handler_);
    if (started.ok()) server_ = *std::move(started);
  }
  RawResponse Ask(std::string_view request) { return RawClient(server_->port()).Ask(request); }
  void Expect(std::string_view request, int status, std::string_view text) {
    const RawResponse response = Ask(request);
    EXPECT_EQ(response.status, status) << request;
    EXPECT_THAT(response.body, HasSubstr(text)) << request;
  }

  FakeService service_;
  DoorState state_;
  KServeHandler handler_{service_, state_, 1 << 20};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(RoutesTest, HealthIs200Or400AndEmpty) {
  EXPECT_EQ(Ask(Get("/v2/health/ready")).body, "");
  Expect(Get("/v2/health/live"), 200, "");
  service_.ready = false;
  Expect(Get("/v2/health/ready"), 400, "");
  Expect(Get("/v2/health/live"), 200, "");
  service_.ready = true;
  state_.leaving = true;
  Expect(Get("/v2/health/ready"), 400, "");
  Expect(Get("/v2/health/live"), 200, "");
}

TEST_F(RoutesTest, EveryRouteAnswers) {
  Expect(Get("/v2"), 200,
         R"({"name":"triton","version":"2.73.0","extensions":["statistics","parameters"]})");
  Expect(Get("/v2/models/echo"), 200,
         R"("inputs":[{"name":"X","datatype":"FP32","shape":[-1,-1]}])");
  Expect(Get("/v2/models/echo/versions/1/config"), 200, R"("max_batch_size":8)");
  Expect(Get("/v2/models/echo/ready"), 200, "");
  Expect(Get("/v2/models/loading/ready"), 400, R"({"error":"Model version not ready"})");
  Expect(Get("/v2/models/nope/ready"), 400, R"({"error":"Model version not ready"})");
  Expect(Get("/v2/models/nope"), 404, "unknown model: 'nope'");
  Expect(Get("/v2/models/echo/versions/2/config"), 404, "not found");
  Expect(Get("/v2/models/stats"), 200, R"({"model_stats":[{"name":"echo")");
  Expect(Get("/v2/models/echo/stats"), 200, R"("cache_miss":{"count":0,"ns":0})");
  Expect(Post("/v2/repository/index", ""), 200,
         R"([{"name":"echo","version":"1","state":"READY"},{"name":"loading")");
  Expect(Post("/v2/repository/index", R"({"ready":true})"), 200, R"("state":"READY"}])");
  Expect(Post("/v2/repository/index", "{"), 400, "failed to parse");
  Expect(Post("/v2/repository/other/index", ""), 200, R"("name":"echo")");
  Expect(Post("/v2/repository/models/echo/load", ""), 503,
         "explicit model load / unload is not allowed");
  Expect(Post("/v2/repository/models/echo/unload", "{}"), 503,
         "is not allowed if polling is enabled");
  Expect(Get("/v2/systemsharedmemory/status"), 200, "[]");
  Expect(Get("/v2/cudasharedmemory/status"), 200, "[]");
  Expect(Get("/v2/systemsharedmemory/region/r/status"), 404,
         "Unable to find system shared memory region: 'r'");
  Expect(Post("/v2/systemsharedmemory/region/r/register", "{}"), 501, "shared memory is disabled");
  Expect(Post("/v2/cudasharedmemory/region/r/register", "{}"), 501, "shared memory is disabled");
  Expect(Post("/v2/systemsharedmemory/unregister", ""), 200, "");
  Expect(Post("/v2/cudasharedmemory/region/r/unregister", ""), 200, "");
  Expect(Get("/v2/trace/setting"), 200, R"("trace_level":["OFF"])");
  Expect(Post("/v2/trace/setting", R"({"trace_rate":"7"})"), 200, R"("trace_rate":"7")");
  Expect(Post("/v2/trace/setting", R"({"trace_file":"x"})"), 501, "trace file location");
  Expect(Post("/v2/models/echo/trace/setting", R"({"trace_rate":8})"), 200, R"("trace_rate":"8")");
  Expect(Get("/v2/trace/setting"), 200, R"("trace_rate":"7")");
  Expect(Get("/v2/models/nope/trace/setting"), 400, "Request for unknown model : nope");
  Expect(Get("/v2/logging"), 200, R"("log_warning":true)");
  Expect(Post("/v2/logging", "{}"), 200, R"("log_verbose_level":0)");
  Expect(Post("/v2/logging", R"({"log_info":null})"), 200, R"("log_warning":true)");
  Expect(Post("/v2/logging", R"({"log_file":"x"})"), 501, "log file location");
  Expect(Post("/v2/models/echo/generate", R"({"X":[1.5,2]})"), 200,
         R"({"model_name":"echo","model_version":"1","Y":[1.5,2.0]})");
  Expect(Post("/v2/models/echo/generate_stream", R"({"X":3})"), 200, "data: {\"model_name\"");
  Expect(Post("/v2/models/echo/generate", "{"), 400, "failed to parse");
  Expect(Post("/v2/models/nope/generate", "{}"), 404, "unknown model: 'nope'");
  Expect(Post("/v2/models/echo/generate", "x", "Content-Encoding: gzip\r\n"), 400,
         "only 'identity' is supported");
  Expect(Post("/v2/models/nope/infer", R"({"inputs":[]})"), 404, "unknown model: 'nope'");
  Expect(Post("/v2/models/nope/infer", "{"), 404, "unknown model: 'nope'");
  Expect(Post("/v2/models/nope/infer", "{", "Content-Encoding: br\r\n"), 404,
         "unknown model: 'nope'");
}

TEST_F(RoutesTest, WrongMethodIs405AndUnknownPathIs404) {
  Expect(Post("/v2", ""), 405, R"({"error":"Method Not Allowed"})");
  Expect(Get("/v2/models/echo/infer"), 405, "Method Not Allowed");
  Expect(Get("/v2/repository/index"), 405, "Method Not Allowed");
  Expect("DELETE /v2/logging HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Method Not Allowed");
  Expect("BREW /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Method Not Allowed");
  Expect(Get("/v3"), 404, R"({"error":"Not Found"})");
  Expect(Post("/v3", ""), 404, "Not Found");
  Expect(Get("/v2/../../etc/passwd"), 404, "Not Found");
}

TEST_F(RoutesTest, ExplicitControlLoadsAndUnloads) {
  service_.explicit_mode = true;
  Expect(Post("/v2/repository/models/echo/load", ""), 200, "");
  Expect(Post("/v2/repository/models/echo/load", R"({"parameters":{"config":"{}"}})"), 200, "");
  Expect(Post("/v2/repository/models/nope/load", "{}"), 500, "failed to load 'nope'");
  Expect(Post("/v2/repository/models/echo/load", R"({"parameters":{"x":1}})"), 400,
         "unrecognized load parameter 'x'");
  Expect(Post("/v2/repository/models/echo/unload", R"({"parameters":{"unload_dependents":true}})"),
         200, "");
  Expect(Post("/v2/repository/r/models/echo/load", ""), 501, "repository_name");
}

// A handler whose server keeps headers, under options.
class RulesTest : public ::testing::Test {
 protected:
  RulesTest() {
    ServerOptions options;
    options.allow_client_shm = true;
    options.http_restricted_apis = {"inference:secret=open", "logging:other=x"};
    options.http_header_forward_pattern = "^x-";
    EXPECT_TRUE(state_.Configure(options).ok());
    HttpSettings settings;
    settings.keep_headers = true;
    auto started = HttpServer::Start("http", "127.0.0.1", 0, 1, settings, handler_);
    if (started.ok()) server_ = *std::move(started);
  }
  RawResponse Ask(std::string_view request) { return RawClient(server_->port()).Ask(request); }

  FakeService service_;
  DoorState state_{ServerOptions{.allow_client_shm = true}};
  KServeHandler handler_{service_, state_, 1 << 20};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(RulesTest, RestrictedPartsNeedTheirHeader) {
  const std::string body = R"({"inputs":[{"name":"X","datatype":"FP32","shape":[1],"data":[1]}]})";
  const RawResponse refused = Ask(Post("/v2/models/echo/infer", body));
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(refused.body, R"({"error":"This API is restricted, expecting header 'secret'"})");
  EXPECT_EQ(Ask(Post("/v2/models/echo/infer", body, "secret: wrong\r\n")).status, 403);
  EXPECT_EQ(Ask(Post("/v2/models/echo/infer", body, "SECRET: open\r\n")).status, 200);
  EXPECT_EQ(Ask(Post("/v2/models/echo/generate", R"({"X":1})")).status, 403);
  EXPECT_EQ(Ask(Get("/v2/logging")).status, 403);
  EXPECT_EQ(Ask(Get("/v2/health/ready")).status, 200);
}

TEST_F(RulesTest, HeadersBecomeParameters) {
  service_.hold = true;
  RawClient client(server_->port());
  client.Send(Post("/v2/models/echo/infer",
                   R"({"parameters":{"x-a":"own"},"inputs":[)"
                   R"({"name":"X","datatype":"FP32","shape":[1],"data":[1]}]})",
                   "secret: open\r\nX-B: 2\r\nx-a: theirs\r\n"));
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  EXPECT_EQ(request->parameters.size(), 2u);
  EXPECT_EQ(std::get<std::string>(request->parameters.at("X-B")), "2");
  EXPECT_EQ(std::get<std::string>(request->parameters.at("x-a")), "own");
  service_.Finish(std::move(request));
  EXPECT_EQ(client.Receive().status, 200);
}

TEST_F(RulesTest, CudaMemoryIsRefusedWithoutAGpu) {
  const RawResponse refused = Ask(Post("/v2/cudasharedmemory/region/r/register", "{}"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("GPUs not supported"));
  EXPECT_EQ(Ask(Post("/v2/systemsharedmemory/region/r/register", R"({"key":"/../x"})")).status,
            400);
}

}  // namespace
}  // namespace siglip
