#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include "base/file_map.h"
#include "server/fake_service.h"
#include "server/kserve_routes.h"
#include "server/openai_routes.h"
#include "server/raw_client_for_test.h"
#include "server/server.h"
#include "server/ui.h"

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Verdict = ApiKeys::Verdict;

constexpr char kKey[] = "correct-horse-battery-staple";
constexpr char kOtherKey[] = "0123456789abcdef";

std::string KeyFile(std::string_view name, std::string_view content) {
  const std::string path = ::testing::TempDir() + "api_keys_test_" + std::string(name);
  EXPECT_TRUE(WriteFileAtomically(path, content).ok());
  return path;
}

std::string GoodFile() {
  return KeyFile("good", "# ours\n" + std::string(kKey) + "\n\n  " + kOtherKey + "\r\n");
}

TEST(ApiKeys, KeysOfTheFileAreLetIn) {
  ApiKeys keys;
  EXPECT_EQ(keys.Check(std::nullopt), Verdict::kAllowed);
  ASSERT_TRUE(keys.Load(GoodFile()).ok());
  for (const char* right : {"Bearer correct-horse-battery-staple", "bearer 0123456789abcdef",
                            "BEARER  0123456789abcdef "}) {
    EXPECT_EQ(keys.Check(right), Verdict::kAllowed) << right;
  }
  for (const char* wrong :
       {"Bearer correct-horse-battery-stapl", "Bearer correct-horse-battery-staple2",
        "Bearer Correct-horse-battery-staple", "Bearer # ours", "Bearer 0123456789abcdef\r",
        "Bearer correct-horse-battery-staple 0123456789abcdef"}) {
    EXPECT_EQ(keys.Check(wrong), Verdict::kWrong) << wrong;
  }
  for (const char* none : {"", "Bearer", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef",
                           "Bearer\t0123456789abcdef"}) {
    EXPECT_EQ(keys.Check(none), Verdict::kMissing) << none;
  }
  EXPECT_EQ(keys.Check(std::nullopt), Verdict::kMissing);
}

TEST(ApiKeys, AWrongFileIsNamedAndChangesNothing) {
  ApiKeys keys;
  ASSERT_TRUE(keys.Load(GoodFile()).ok());
  const struct {
    const char* name;
    std::string content;
    const char* said;
  } rows[] = {
      {"empty", "", "expected a key, got none"},
      {"comments", "# a\n\n", "expected a key, got none"},
      {"short", "0123456789abcdef\ns3cret\n", "line 2: expected a key of 16 to 512"},
      {"blank", "s3cret s3cret s3cret\n", "line 1: expected a key of 16 to 512"},
      {"control", "s3cret\x01s3crets3cret\n", "bytes with others among them"},
      {"long", std::string(513, 's') + "\n", "line 1: expected a key of 16 to 512"},
  };
  for (const auto& row : rows) {
    const absl::Status status = keys.Load(KeyFile(row.name, row.content));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << row.name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.said));
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("test_") + row.name));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("s3cret")));
  }
  EXPECT_FALSE(keys.Load("/no/such/file").ok());
  EXPECT_EQ(keys.Check("Bearer 0123456789abcdef"), Verdict::kAllowed);
}

// A whole server, asked for everything it has: the tables are those that it routes by.
class EveryRouteTest : public ::testing::Test {
 protected:
  void Start(ServerOptions options) {
    options.http_address = options.grpc_address = options.metrics_address = "127.0.0.1";
    options.http_port = options.grpc_port = options.metrics_port = 0;
    options.http_thread_count = 1;
    auto started = Server::Start(service_, options);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }

  static std::vector<RouteRow> Routes() {
    std::vector<RouteRow> rows;
    for (const KServeRoute& route : KServeRoutes()) rows.push_back(route.row);
    for (const RouteRow& row : OpenAiRoutes()) rows.push_back(row);
    for (const RouteRow& row : UiRoutes()) rows.push_back(row);
    return rows;
  }

  static std::string PathOf(const RouteRow& row) {
    std::string path(row.path);
    for (std::size_t at; (at = path.find('{')) != std::string::npos;) {
      const std::string name = path.substr(at, path.find('}') - at + 1);
      path.replace(at, name.size(), name == "{version}" || name == "{row}" ? "1" : "echo");
    }
    return path;
  }

  RawResponse Ask(std::string_view method, std::string_view path, std::string_view headers) {
    return RawClient(server_->ports().http)
        .Ask(std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n" +
             std::string(headers) + "Content-Length: 2\r\n\r\n{}");
  }

  // The methods that a row answers; all are asked.
  static std::vector<std::string> MethodsOf(const RouteRow& row) {
    if (row.method.empty()) return {"GET", "POST"};
    return {std::string(row.method)};
  }

  // Every method of both services as "/package.Service/Method", from their descriptors.
  static std::vector<std::string> Calls() {
    std::vector<std::string> calls;
    const auto* pool = google::protobuf::DescriptorPool::generated_pool();
    for (const char* name : {inference::GRPCInferenceService::service_full_name(),
                             grpc::health::v1::Health::service_full_name()}) {
      const auto* service = pool->FindServiceByName(name);
      for (int i = 0; i < service->method_count(); ++i) {
        calls.push_back("/" + service->full_name() + "/" + service->method(i)->name());
      }
    }
    return calls;
  }

  // The status of a call with an empty message, which every method takes. A call that goes on
  // (Watch) has been let in: OK.
  grpc::Status Call(const std::string& method,
                    const std::vector<std::pair<std::string, std::string>>& metadata) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (stub_ == nullptr) {
      stub_ = std::make_unique<grpc::GenericStub>(
          grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->ports().grpc),
                                    grpc::InsecureChannelCredentials(), arguments));
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    grpc::CompletionQueue queue;
    const auto call = stub_->PrepareCall(&context, method, &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    bool going = wait();
    if (going) {
      const grpc::Slice nothing;
      const grpc::ByteBuffer empty(&nothing, 1);
      call->WriteLast(empty, grpc::WriteOptions(), nullptr);
      wait();
      grpc::ByteBuffer answer;
      call->Read(&answer, nullptr);
      going = wait();
    }
    if (going && method.ends_with("/Watch")) context.TryCancel();
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    queue.Shutdown();
    while (wait()) {
    }
    return going ? grpc::Status::OK : status;
  }

  FakeService service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<grpc::GenericStub> stub_;
};

TEST_F(EveryRouteTest, HttpNeedsAKeyOnEveryRouteButHealth) {
  ServerOptions options;
  options.api_key_file = GoodFile();
  options.allow_client_shm = true;
  Start(options);
  std::vector<RouteRow> rows = Routes();
  rows.push_back({"GET", "/no/such/route", {}});
  rows.push_back({"POST", "/v1/no/such/route", {}});
  rows.push_back({"PUT", "/v2/models/echo/infer", {}});
  rows.push_back({"GET", "/v2/health/live/", {}});
  rows.push_back({"GET", "/v2/health/../models/echo", {}});
  rows.push_back({"GET", "/v2/models/stats?/v2/health/live", {}});
  rows.push_back({"GET", "http://x/v2/health/live", Api::kHealth});
  rows.push_back({"GET", "http://x/v2/models/echo", {}});
  rows.push_back({"GET", "http://v2/health/live", {}});
  rows.push_back({"GET", "http://x/http://x/v2/health/live", {}});
  const std::string right = std::string("Authorization: Bearer ") + kKey + "\r\n";
  for (const RouteRow& row : rows) {
    const std::string path = PathOf(row);
    for (const std::string& method : MethodsOf(row)) {
      SCOPED_TRACE(method + " " + path);
      const bool open = row.api == Api::kHealth;
      const RawResponse without = Ask(method, path, "");
      EXPECT_EQ(without.status == 401, !open) << without.body;
      EXPECT_EQ(without.Header("WWW-Authenticate"), open ? "" : "Bearer realm=\"siglip\"");
      for (const std::string& wrong :
           {"Authorization: Bearer " + std::string(kKey) + "x\r\n",
            "Authorization: Basic " + std::string(kKey) + "\r\n", right + right}) {
        const RawResponse refused = Ask(method, path, wrong);
        EXPECT_EQ(refused.status == 401, !open) << wrong << refused.body;
        EXPECT_THAT(refused.head + refused.body, Not(HasSubstr(kKey)));
      }
      EXPECT_NE(Ask(method, path, right).status, 401);
      EXPECT_NE(Ask(method, path, right).status, 0);
    }
  }
  // The form that the clients of each path read.
  EXPECT_THAT(Ask("POST", "/v1/embeddings", "").body, HasSubstr(R"("code":"invalid_api_key"}})"));
  EXPECT_THAT(Ask("GET", "/v2", "").body, HasSubstr(R"({"error":"an API key is needed)"));
  EXPECT_EQ(RawClient(server_->ports().metrics).Ask(Get("/metrics")).status, 200);
}

TEST_F(EveryRouteTest, ARefusedRequestsBodyIsNotRead) {
  ServerOptions options;
  options.api_key_file = GoodFile();
  Start(options);
  RawClient client(server_->ports().http);
  const RawResponse refused = client.Ask(
      "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.Header("Connection"), "close");
}

TEST_F(EveryRouteTest, ARouteThatReadsNoBodyTakesNoLargeOne) {
  ServerOptions options;
  options.api_key_file = GoodFile();
  Start(options);
  const std::string right = std::string("Authorization: Bearer ") + kKey + "\r\n";
  for (const RouteRow& row : Routes()) {
    if (ReadsBody(row)) {
      EXPECT_NE(row.api, Api::kHealth) << "what needs no key reads no body";
      continue;
    }
    // Whatever the method, for that changes nothing about the key.
    for (const char* method : {"GET", "POST"}) {
      for (const char* body :
           {"Content-Length: 67108864\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1001\r\n"}) {
        SCOPED_TRACE(std::string(method) + " " + PathOf(row) + " " + body);
        RawClient client(server_->ports().http);
        const RawResponse refused =
            client.Ask(std::string(method) + " " + PathOf(row) + " HTTP/1.1\r\nHost: x\r\n" +
                       (row.api == Api::kHealth ? "" : right) + body);
        EXPECT_EQ(refused.status, 400);
        EXPECT_THAT(refused.body, HasSubstr("larger than the limit of 4096 bytes of this path"));
        EXPECT_EQ(refused.Header("Connection"), "close");
      }
    }
  }
}

TEST_F(EveryRouteTest, WhoHasNoKeyTakesNoRoomFromThoseWhoHave) {
  ServerOptions options;
  options.api_key_file = GoodFile();
  options.http_max_buffered_bytes = 1 << 20;
  Start(options);
  // Each sends nearly as much as all bodies may hold, and keeps its connection.
  std::vector<std::unique_ptr<RawClient>> strangers;
  for (const char* body :
       {"Content-Length: 1048576\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n100000\r\n"}) {
    strangers.push_back(std::make_unique<RawClient>(server_->ports().http));
    strangers.back()->Send("GET /v2/health/live HTTP/1.1\r\nHost: x\r\n" + std::string(body) +
                           std::string(1'000'000, 'x'));
  }
  const std::string body(900'000, ' ');
  const std::string request =
      "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nAuthorization: "
      "Bearer " +
      std::string(kKey) + "\r\nContent-Length: 900000\r\n\r\n" + body;
  for (const auto& stranger : strangers) EXPECT_EQ(stranger->Receive().status, 400);
  EXPECT_EQ(RawClient(server_->ports().http).Ask(request).status, 400) << "broken JSON, no 503";
}

TEST_F(EveryRouteTest, GrpcNeedsAKeyForEveryCallButHealth) {
  ServerOptions options;
  options.api_key_file = GoodFile();
  options.allow_client_shm = true;
  Start(options);
  const std::vector<std::string> calls = Calls();
  ASSERT_EQ(calls.size(), 22u);
  for (const std::string& call : calls) {
    SCOPED_TRACE(call);
    const bool open = call.find("Health") != std::string::npos || call.ends_with("Live") ||
                      call.ends_with("Ready");
    const std::string bearer = std::string("Bearer ") + kKey;
    using Metadata = std::vector<std::pair<std::string, std::string>>;
    for (const Metadata& wrong :
         {Metadata{}, Metadata{{"authorization", bearer + "x"}}, Metadata{{"x-api-key", kKey}},
          Metadata{{"authorization", bearer}, {"authorization", bearer}}}) {
      const grpc::Status refused = Call(call, wrong);
      EXPECT_EQ(refused.error_code() == grpc::StatusCode::UNAUTHENTICATED, !open)
          << refused.error_code() << refused.error_message();
      EXPECT_THAT(refused.error_message(), Not(HasSubstr(kKey)));
    }
    const grpc::Status let_in = Call(call, {{"authorization", bearer}});
    EXPECT_NE(let_in.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
}

TEST_F(EveryRouteTest, RestrictedPartsNeedTheirHeaderOnEveryRoute) {
  ServerOptions options;
  options.allow_client_shm = true;
  options.http_restricted_apis = {
      "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,"
      "logging:secret=open-sesame"};
  options.grpc_restricted_protocols = options.http_restricted_apis;
  Start(options);
  for (const RouteRow& row : Routes()) {
    const std::string path = PathOf(row);
    for (const std::string& method : MethodsOf(row)) {
      SCOPED_TRACE(method + " " + path);
      for (const char* wrong : {"", "secret: open-sesam\r\n", "other: open-sesame\r\n"}) {
        const RawResponse refused = Ask(method, path, wrong);
        EXPECT_EQ(refused.status == 403, row.api.has_value()) << wrong << refused.status;
        EXPECT_THAT(refused.head + refused.body, Not(HasSubstr("sesame")));
      }
      EXPECT_NE(Ask(method, path, "SECRET: open-sesame\r\n").status, 403);
    }
  }
  const std::string header = "triton-grpc-protocol-secret";
  for (const std::string& call : Calls()) {
    SCOPED_TRACE(call);
    using Metadata = std::vector<std::pair<std::string, std::string>>;
    for (const Metadata& wrong : {Metadata{}, Metadata{{header, "open-sesam"}}}) {
      const grpc::Status refused = Call(call, wrong);
      EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE) << refused.error_message();
      EXPECT_THAT(refused.error_message(), HasSubstr("expecting header '" + header + "'"));
    }
    EXPECT_THAT(Call(call, {{header, "open-sesame"}}).error_message(),
                Not(HasSubstr("restricted")));
  }
}

TEST_F(EveryRouteTest, RestrictedPartsNeedTheirHeaderInAbsoluteFormToo) {
  ServerOptions options;
  options.http_restricted_apis = {"metadata:secret=open-sesame"};
  Start(options);
  for (const char* target : {"/v2", "http://x/v2", "HTTPS://x/v2?y", "http://x/v1/models"}) {
    EXPECT_EQ(Ask("GET", target, "").status, 403) << target;
    EXPECT_EQ(Ask("GET", target, "secret: open-sesame\r\n").status, 200) << target;
  }
}

TEST_F(EveryRouteTest, ReloadTakesUpNewKeysAndKeepsTheOldOnesIfTheFileIsBad) {
  ServerOptions options;
  options.api_key_file = KeyFile("reload", kKey);
  Start(options);
  const std::string old_key = std::string("Authorization: Bearer ") + kKey + "\r\n";
  const std::string new_key = std::string("Authorization: Bearer ") + kOtherKey + "\r\n";
  EXPECT_EQ(Ask("GET", "/v2", old_key).status, 200);
  EXPECT_EQ(Ask("GET", "/v2", new_key).status, 401);
  KeyFile("reload", "bad");
  EXPECT_FALSE(server_->Reload().ok());
  EXPECT_EQ(Ask("GET", "/v2", old_key).status, 200);
  KeyFile("reload", kOtherKey);
  EXPECT_TRUE(server_->Reload().ok());
  EXPECT_EQ(Ask("GET", "/v2", old_key).status, 401);
  EXPECT_EQ(Ask("GET", "/v2", new_key).status, 200);
}

}  // namespace
}  // namespace siglip
