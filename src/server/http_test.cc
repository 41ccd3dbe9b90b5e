#include "server/http.h"

#include <chrono>
#include <latch>
#include <memory>
#include <numeric>
#include <sstream>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/http_connection.h"
#include "server/kserve_routes.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr std::string_view kInfer = "/v2/models/echo/infer";
constexpr std::string_view kJson =
    R"({"inputs":[{"name":"X","shape":[2],"datatype":"FP32","data":[1,2.5]}]})";

HttpSettings ShortLimits() {
  HttpSettings limits;
  limits.body_bytes = 1 << 20;
  limits.connections = 64;
  limits.linger_timeout = milliseconds(500);
  return limits;
}

class HttpTest : public ::testing::Test {
 protected:
  explicit HttpTest(HttpSettings limits = ShortLimits()) {
    limits.refusals = &state_.http_refusals;
    auto started = HttpServer::Start("http", "127.0.0.1", 0, 2, limits, handler_);
    if (started.ok()) server_ = *std::move(started);
  }

  // The server is alive and answers a new client.
  void ExpectServes() {
    EXPECT_EQ(RawClient(server_->port()).Ask(Get("/v2/health/live")).status, 200);
  }

  // `request` is being worked on for the client, and is finished then.
  void ExpectThatClosingCancels(RawClient& client, std::unique_ptr<InferRequest> request) {
    EXPECT_FALSE(request->is_cancelled());
    client.Close();
    for (int i = 0; i < 1000 && !request->is_cancelled(); ++i) {
      std::this_thread::sleep_for(milliseconds(5));
    }
    EXPECT_TRUE(request->is_cancelled());
    service_.Finish(std::move(request));
    ExpectServes();
  }

  void ExpectRefusedAndClosed(std::string_view request, int status) {
    RawClient client(server_->port());
    const RawResponse response = client.Ask(request);
    EXPECT_EQ(response.status, status) << request.substr(0, 200);
    EXPECT_THAT(response.body, HasSubstr("{\"error\":\""));
    EXPECT_EQ(response.Header("Connection"), "close");
    EXPECT_TRUE(client.ClosedByPeer());
    ExpectServes();
  }

  FakeService service_;
  DoorState state_;
  KServeHandler handler_{service_, state_, 1 << 20};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTest, JsonInferAnswersJson) {
  RawClient client(server_->port());
  const RawResponse response = client.Ask(Post(kInfer, kJson));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "application/json");
  EXPECT_EQ(response.body,
            R"({"model_name":"echo","model_version":"1","outputs":[{"name":"Y","datatype":"FP32",)"
            R"("shape":[2],"data":[1.0,2.5]}]})");
}

TEST_F(HttpTest, RawInferAnswersBinary) {
  RawClient client(server_->port());
  const RawResponse response =
      client.Ask(Post(kInfer, "abcdefgh", "Inference-Header-Content-Length: 0\r\n"));
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "application/octet-stream");
  const std::size_t head = std::stoul(response.Header("Inference-Header-Content-Length"));
  EXPECT_THAT(response.body.substr(0, head), HasSubstr(R"("parameters":{"binary_data_size":8})"));
  EXPECT_EQ(response.body.substr(head), "abcdefgh");
}

TEST_F(HttpTest, KeepAliveAndPipeliningAnswerInOrder) {
  RawClient client(server_->port());
  std::string requests;
  for (int i = 0; i < 20; ++i) {
    requests +=
        Post(kInfer, R"({"id":")" + std::to_string(i) + R"(",)" + std::string(kJson.substr(1)));
  }
  client.Send(requests);
  for (int i = 0; i < 20; ++i) {
    const RawResponse response = client.Receive();
    EXPECT_EQ(response.status, 200);
    EXPECT_THAT(response.body, HasSubstr("\"id\":\"" + std::to_string(i) + "\""));
  }
}

// HTTP/1.0 closes unless both sides say otherwise.
TEST_F(HttpTest, KeptConnectionsOfHttp10AreToldSo) {
  const std::string get = "GET /v2/health/live HTTP/1.";
  RawClient kept(server_->port());
  for (int i = 0; i < 2; ++i) {
    const RawResponse response = kept.Ask(get + "0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.Header("Connection"), "keep-alive");
  }
  RawClient closed(server_->port());
  EXPECT_EQ(closed.Ask(get + "0\r\n\r\n").Header("Connection"), "close");
  EXPECT_TRUE(closed.ClosedByPeer());
  RawClient newer(server_->port());
  EXPECT_EQ(newer.Ask(get + "1\r\nHost: x\r\n\r\n").Header("Connection"), "");
  EXPECT_EQ(newer.Ask(get + "1\r\nHost: x\r\nConnection: close\r\n\r\n").Header("Connection"),
            "close");
}

TEST_F(HttpTest, TargetsInAbsoluteFormAreTheirPaths) {
  const std::pair<const char*, int> targets[] = {{"http://x/v2/health/live", 200},
                                                 {"HTTP://u@x:80/v2/health/live?a=http://y/", 200},
                                                 {"https://[::1]:8000/v2/health/live", 200},
                                                 {"/v2/health/live?u=http://x/nothing", 200},
                                                 {"http://x", 404},
                                                 {"http://x?/v2/health/live", 404},
                                                 {"http://x//v2/health/live", 404},
                                                 {"http://x/http://x/v2/health/live", 404},
                                                 {"ftp://x/v2/health/live", 404},
                                                 {"x/http://x/v2/health/live", 404},
                                                 {"http:///v2/health/live", 400},
                                                 {"http://", 400}};
  for (const auto& [target, status] : targets) {
    EXPECT_EQ(RawClient(server_->port())
                  .Ask("GET " + std::string(target) + " HTTP/1.1\r\nHost: y\r\n\r\n")
                  .status,
              status)
        << target;
  }
}

TEST_F(HttpTest, BodiesInPiecesAndChunksAreTheSame) {
  RawClient client(server_->port());
  const std::string whole = Post(kInfer, kJson);
  for (const char byte : whole) client.Send({&byte, 1});
  const RawResponse sized = client.Receive();
  std::string chunked =
      "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char byte : kJson) chunked += std::string("1\r\n") + byte + "\r\n";
  const RawResponse pieces = client.Ask(chunked + "0\r\n\r\n");
  EXPECT_EQ(sized.status, 200);
  EXPECT_EQ(pieces.status, 200);
  EXPECT_EQ(sized.body, pieces.body);
}

TEST_F(HttpTest, ExpectContinueIsAnsweredBeforeTheBody) {
  RawClient client(server_->port());
  client.Send("POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" +
              "Content-Length: " + std::to_string(kJson.size()) + "\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 100);
  EXPECT_EQ(client.Ask(kJson).status, 200);
}

TEST_F(HttpTest, TooLargeIsRefusedBeforeTheBodyIsSent) {
  RawClient client(server_->port());
  const RawResponse response = client.Ask("POST " + std::string(kInfer) +
                                          " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                                          "Content-Length: 99999999999\r\n\r\n");
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("--http-max-input-size"));
}

TEST_F(HttpTest, TooLargeIsReadByAClientThatKeepsSending) {
  RawClient client(server_->port());
  const RawResponse response = client.Ask(Post(kInfer, std::string(3 << 20, 'x')));
  EXPECT_EQ(response.status, 400);
  ExpectServes();
}

TEST_F(HttpTest, AmbiguousFramingIsRefused) {
  const std::string start = "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\n";
  for (const char* headers :
       {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5, 5\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: -5\r\n\r\n",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: 5 5\r\n\r\nhello",
        "Content-Length: 99999999999999999999999\r\n\r\n",
        "Content-Length : 5\r\n\r\nhello",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nX: \x01\r\n\r\nhello",
        "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "Content-Length:\r\n\t5\r\n\r\nhello",
        "Content-Length: 5\r\nX: a\r\n b\r\n\r\nhello",
        "Content-Length: 5\r\nX:\r\n \r\n\r\nhello",
        "Content-Length: 5\r\nInference-Header-Content-Length: 5\r\n"
        "Inference-Header-Content-Length: 0\r\n\r\nhello",
        "Content-Length: 5\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\n\r\nhello"}) {
    ExpectRefusedAndClosed(start + headers, 400);
  }
  ExpectRefusedAndClosed("POST /v2 HTTP/1.1\r\n\r\n", 400);                       // no Host
  ExpectRefusedAndClosed("GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);  // two
  ExpectRefusedAndClosed("GET /v2 HTTP/1.1\nHost: a\n\n\r\n\r\n", 400);           // bare line feeds
  ExpectRefusedAndClosed("POST /v2 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
  ExpectRefusedAndClosed("\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03\r\n\r\n", 400);  // TLS
}

TEST_F(HttpTest, BadChunksAreRefused) {
  const std::string start =
      "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char* chunks :
       {"-2\r\nab\r\n0\r\n\r\n", "+2\r\nab\r\n0\r\n\r\n", "0x2\r\nab\r\n0\r\n\r\n",
        "2;\nx\r\nab\r\n0\r\n\r\n", "2\r\nabc\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFF\r\n", "\r\n\r\n",
        "10000000000000002\r\nab\r\n0\r\n\r\n", "G\r\n\r\n", "2;a=\"\n\"\r\n{}\r\n0\r\n\r\n",
        "2;a=\"\r\"\r\n{}\r\n0\r\n\r\n", "2;a=\"\x01\"\r\n{}\r\n0\r\n\r\n",
        "2;a=\"\x7f\"\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n0;a=\"\n\"\r\n\r\n"}) {
    ExpectRefusedAndClosed(start + chunks, 400);
  }
  RawClient client(server_->port());
  std::ostringstream extended;
  extended << start << std::hex << kJson.size() << ";a=b;c=\"d\te\"\r\n"
           << kJson << "\r\n0;f\r\n\r\n";
  EXPECT_EQ(client.Ask(extended.str()).status, 200) << "extensions are ignored";
}

// Each head is looked at by itself, however its bytes arrive.
TEST_F(HttpTest, AFoldIsFoundInPiecesAndForgotten) {
  const std::string folded = "GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n";
  RawClient pieces(server_->port());
  for (const char byte : folded) pieces.Send({&byte, 1});
  EXPECT_EQ(pieces.Receive().status, 400);
  RawClient many(server_->port());
  many.Send(Get("/v2/health/live") + Get("/v2/health/live") + folded);
  EXPECT_EQ(many.Receive().status, 200);
  EXPECT_EQ(many.Receive().status, 200);
  EXPECT_EQ(many.Receive().status, 400);
}

TEST_F(HttpTest, ChunksCountAgainstTheLimits) {
  RawClient large(server_->port());
  const std::string start =
      "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  large.Send(start + "100001\r\n");
  EXPECT_EQ(large.Receive().status, 400);
  RawClient many(server_->port());
  std::string chunks = start;
  for (int i = 0; i < 70000; ++i) chunks += "1\r\n \r\n";
  many.Send(chunks);
  const RawResponse response = many.Receive();
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("65536 chunks"));
  ExpectServes();
}

std::string ChunkedWithTrailer(std::string_view body, std::string_view trailer,
                               std::string_view fields = "") {
  std::ostringstream text;
  text << "POST " << kInfer << " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
       << fields << "\r\n"
       << std::hex << body.size() << "\r\n"
       << body << "\r\n0\r\n"
       << trailer << "\r\n";
  return text.str();
}

TEST_F(HttpTest, FieldsOfATrailerAreNoneOfTheHead) {
  RawClient client(server_->port());
  const std::string plain = client.Ask(ChunkedWithTrailer(kJson, "")).body;
  EXPECT_THAT(plain, HasSubstr("[1.0,2.5]"));
  for (const char* trailer : {"Inference-Header-Content-Length: 0\r\n", "Content-Encoding: br\r\n",
                              "Accept-Encoding: gzip\r\n", "Connection: close\r\n", "X: y\r\n"}) {
    const RawResponse response = client.Ask(ChunkedWithTrailer(kJson, trailer));
    EXPECT_EQ(response.status, 200) << trailer;
    EXPECT_EQ(response.body, plain) << trailer;
  }
  const RawResponse raw =
      client.Ask(ChunkedWithTrailer("abcdefgh", "", "Inference-Header-Content-Length: 0\r\n"));
  EXPECT_EQ(raw.status, 200);
}

TEST_F(HttpTest, FieldsOfATrailerCountAgainstTheLimit) {
  const auto fields = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "a: b\r\n";
    return text;
  };
  EXPECT_EQ(RawClient(server_->port()).Ask(ChunkedWithTrailer(kJson, fields(98))).status, 200);
  ExpectRefusedAndClosed(ChunkedWithTrailer(kJson, fields(99)), 431);
  ExpectRefusedAndClosed(ChunkedWithTrailer(kJson, fields(1000)), 431);
}

class HttpRestrictedTest : public HttpTest {
 protected:
  HttpRestrictedTest() : HttpTest(Limits()) {
    ServerOptions options;
    options.http_restricted_apis = {"inference:secret=open"};
    EXPECT_TRUE(state_.Configure(options).ok());
  }
  static HttpSettings Limits() {
    HttpSettings limits = ShortLimits();
    limits.keep_headers = true;
    return limits;
  }
};

TEST_F(HttpRestrictedTest, ATrailerOpensNothing) {
  RawClient client(server_->port());
  EXPECT_EQ(client.Ask(ChunkedWithTrailer(kJson, "", "secret: open\r\n")).status, 200);
  EXPECT_EQ(client.Ask(ChunkedWithTrailer(kJson, "secret: open\r\n")).status, 403);
}

HttpSettings SmallBodyBudget() {
  HttpSettings limits = ShortLimits();
  limits.body_budget = std::make_shared<Budget>(1000);
  return limits;
}

class HttpBudgetTest : public HttpTest {
 protected:
  HttpBudgetTest() : HttpTest(SmallBodyBudget()) {}
};

TEST_F(HttpBudgetTest, BodiesOnTheirWayAreBoundedTogether) {
  const std::string body(800, ' ');
  const std::string request = Post(kInfer, body);
  RawClient slow(server_->port());
  slow.Send(request.substr(0, request.size() - 1));  // all but the last byte
  RawResponse refused;
  // Until the server has seen the slow one; both are broken JSON, 400, when there is room.
  for (int i = 0; i < 1000 && refused.status != 503; ++i) {
    refused = RawClient(server_->port()).Ask(request);
  }
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("memory for request bodies"));
  const std::string chunked =
      "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(RawClient(server_->port()).Ask(chunked + "320\r\n" + body + "\r\n0\r\n\r\n").status,
            503);
  EXPECT_EQ(RawClient(server_->port()).Ask(Post(kInfer, " ")).status, 400)
      << "small ones have room";
  slow.Send(" ");
  EXPECT_EQ(slow.Receive().status, 400);
  EXPECT_EQ(RawClient(server_->port()).Ask(request).status, 400) << "the room is given back";
}

TEST_F(HttpBudgetTest, WhatIsDeclaredAloneTakesNoRoom) {
  const std::string head = "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\n";
  std::vector<std::unique_ptr<RawClient>> silent;
  for (int i = 0; i < 4; ++i) {
    silent.push_back(std::make_unique<RawClient>(server_->port()));
    silent.back()->Send(head + (i % 2 == 0 ? "Content-Length: 900\r\n\r\n "
                                           : "Transfer-Encoding: chunked\r\n\r\n384\r\n "));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // they have been read
  EXPECT_EQ(RawClient(server_->port()).Ask(Post(kInfer, std::string(900, ' '))).status, 400);
}

TEST_F(HttpTest, ARefusalForLackOfRoomSaysWhenToComeAgainAndIsTimed) {
  service_.full = true;
  RawClient client(server_->port());
  const RawResponse refused = client.Ask(Post(kInfer, kJson));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_EQ(refused.Header("Connection"), "") << "the connection stays";
  service_.full = false;
  const RawResponse accepted = client.Ask(Post(kInfer, kJson));
  EXPECT_EQ(accepted.status, 200);
  EXPECT_EQ(accepted.Header("Retry-After"), "");
  EXPECT_EQ(client.Ask(Post("/v2/models/nope/infer", kJson)).Header("Retry-After"), "");
  const RefusalTimes::Snapshot times = state_.http_refusals.Read();
  EXPECT_EQ(std::accumulate(times.counts.begin(), times.counts.end(), std::uint64_t{0}), 1);
  EXPECT_GT(times.sum_s, 0);
}

TEST_F(HttpTest, HeadsAreBounded) {
  ExpectRefusedAndClosed(
      "GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + std::string(20000, 'a') + "\r\n\r\n", 431);
  ExpectRefusedAndClosed("GET /" + std::string(20000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 431);
  std::string fields = "GET /v2 HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 120; ++i) fields += "a: b\r\n";
  ExpectRefusedAndClosed(fields + "\r\n", 431);
}

TEST_F(HttpTest, HostileHeaderLengthsLeaveTheServerAlive) {
  RawClient client(server_->port());
  for (const char* length : {"99999999999", "-1", "+1", "0x10", "1e3", "4294967296", "x"}) {
    const RawResponse response = client.Ask(
        Post(kInfer, kJson, "Inference-Header-Content-Length: " + std::string(length) + "\r\n"));
    EXPECT_EQ(response.status, 400) << length;
    EXPECT_THAT(response.body, HasSubstr("inference header size should be in range")) << length;
  }
  EXPECT_EQ(client.Ask(Post(kInfer, kJson)).status, 200);
}

TEST_F(HttpTest, HeadHasNoBody) {
  RawClient client(server_->port());
  client.Send("HEAD /v2 HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Receive(true).status, 405);
  EXPECT_EQ(client.Ask(Get("/v2/health/live")).status, 200);
}

TEST_F(HttpTest, GzipRequestAndResponse) {
  RawClient client(server_->port());
  const RawResponse refused = client.Ask(Post(kInfer, "x", "Content-Encoding: br\r\n"));
  EXPECT_EQ(refused.status, 501);
  EXPECT_EQ(refused.Header("Accept-Encoding"), "gzip, deflate");
  const RawResponse damaged = client.Ask(Post(kInfer, "not gzip", "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(damaged.status, 400);
  const RawResponse packed = client.Ask(Post(kInfer, kJson, "Accept-Encoding: gzip\r\n"));
  EXPECT_EQ(packed.Header("Content-Encoding"), "gzip");
  EXPECT_EQ(packed.body.substr(0, 2), "\x1F\x8B");
  const RawResponse again = client.Ask(
      Post(kInfer, packed.body, "Content-Encoding: gzip\r\n"));  // unpacks to an answer: no inputs
  EXPECT_THAT(again.body, HasSubstr("Unable to find 'inputs'"));
}

// The whole body has to go through within the time, on a machine with other work too.
class HttpLingerTest : public HttpTest {
 protected:
  HttpLingerTest() : HttpTest(Limits()) {}
  static HttpSettings Limits() {
    HttpSettings limits = ShortLimits();
    limits.linger_timeout = std::chrono::seconds(60);
    return limits;
  }
};

TEST_F(HttpLingerTest, ARefusedBodyMayBeSentToItsEnd) {
  RawClient client(server_->port());
  const std::string body(std::size_t{80} << 20, 'x');
  EXPECT_TRUE(client.Send(Post(kInfer, body)));
  EXPECT_EQ(client.Receive().status, 400);
}

TEST_F(HttpTest, AnswersComeBackFromOtherThreads) {
  service_.hold = true;
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    clients.back()->Send(Post(kInfer, kJson));
  }
  service_.AwaitHeld(8);
  std::thread worker([&] {
    for (int i = 0; i < 8; ++i) service_.Finish(service_.Take(0));
  });
  for (const auto& client : clients) EXPECT_EQ(client->Receive().status, 200);
  worker.join();
}

TEST_F(HttpTest, ADroppedRequestIsA500) {
  service_.hold = true;
  RawClient client(server_->port());
  client.Send(Post(kInfer, kJson));
  service_.AwaitHeld(1);
  service_.Take(0).reset();
  EXPECT_EQ(client.Receive().status, 500);
}

TEST_F(HttpTest, ADisconnectCancels) {
  service_.hold = true;
  RawClient client(server_->port());
  client.Send(Post(kInfer, kJson));
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  ExpectThatClosingCancels(client, std::move(request));
}

// What it sent before is not read yet, so that its end is behind bytes.
TEST_F(HttpTest, ADisconnectBehindAPipelinedRequestCancels) {
  service_.hold = true;
  RawClient client(server_->port());
  client.Send(Post(kInfer, kJson));
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  client.Send(Get("/v2/health/live"));
  std::this_thread::sleep_for(milliseconds(150));
  ExpectThatClosingCancels(client, std::move(request));
}

TEST_F(HttpTest, DrainFinishesAcceptedWorkAndClosesIdleConnections) {
  service_.hold = true;
  RawClient idle(server_->port());
  EXPECT_EQ(idle.Ask(Get("/v2/health/live")).status, 200);
  RawClient busy(server_->port());
  busy.Send(Post(kInfer, kJson));
  service_.AwaitHeld(1);
  server_->BeginDrain();
  EXPECT_TRUE(idle.ClosedByPeer());
  EXPECT_FALSE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(20)));
  service_.Finish(service_.Take(0));
  const RawResponse response = busy.Receive();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Connection"), "close");
  busy.Close();
  EXPECT_TRUE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(5000)));
  EXPECT_FALSE(RawClient(server_->port()).connected());
}

TEST_F(HttpTest, DrainAnswersAClientThatHasSentMore) {
  service_.hold = true;
  RawClient client(server_->port());
  client.Send(Post(kInfer, kJson));
  service_.AwaitHeld(1);
  client.Send("GET /v2");  // from now on nothing watches the connection
  std::this_thread::sleep_for(milliseconds(20));
  server_->BeginDrain();
  EXPECT_FALSE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(20)));
  service_.Finish(service_.Take(0));
  EXPECT_EQ(client.Receive().status, 200);
}

// Holds its server's only thread until told to go on.
class BlockingHandler final : public HttpHandler {
 public:
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    if (request.target == "/block") {
      entered.count_down();
      go_on.wait();
    }
    exchange->Respond([] { return HttpResponse(); });
  }

  std::latch entered{1};
  std::latch go_on{1};
};

TEST(HttpDrainTest, WhatWasSentBeforeTheDrainIsAnswered) {
  BlockingHandler handler;
  auto server = HttpServer::Start("http", "127.0.0.1", 0, 1, ShortLimits(), handler);
  ASSERT_TRUE(server.ok()) << server.status();
  RawClient kept((*server)->port());
  EXPECT_EQ(kept.Ask(Get("/a")).status, 200);
  RawClient blocking((*server)->port());
  blocking.Send(Get("/block"));
  handler.entered.wait();
  kept.Send(Get("/b"));  // arrived, not read
  RawClient fresh((*server)->port());
  fresh.Send(Get("/c"));  // its connection is not even accepted
  (*server)->BeginDrain();
  handler.go_on.count_down();
  EXPECT_EQ(blocking.Receive().status, 200);
  for (RawClient* client : {&kept, &fresh}) {
    const RawResponse response = client->Receive();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.Header("Connection"), "close");
    client->Close();
  }
  blocking.Close();
  EXPECT_TRUE((*server)->WaitDrained(std::chrono::steady_clock::now() + milliseconds(5000)));
}

HttpSettings ShortDrain() {
  HttpSettings limits = ShortLimits();
  limits.drain_read_timeout = milliseconds(300);
  return limits;
}

class HttpDrainReadTest : public HttpTest {
 protected:
  HttpDrainReadTest() : HttpTest(ShortDrain()) {}

  static std::string PostHead(std::string_view fields) {
    return "POST " + std::string(kInfer) + " HTTP/1.1\r\nHost: x\r\n" + std::string(fields) +
           "\r\n\r\n";
  }
};

// What has begun and does not come to its end was never accepted.
TEST_F(HttpDrainReadTest, RequestsThatDoNotComeWholeAreRefused) {
  std::vector<std::unique_ptr<RawClient>> clients;
  const std::string sized = PostHead("Content-Length: 1000000") + "half";
  const std::string chunked = PostHead("Transfer-Encoding: chunked") + "5\r\nhalf";
  for (const std::string& bytes : {std::string("GET /v2 HT"), sized, chunked}) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    clients.back()->Send(bytes);
  }
  RawClient waits(server_->port());  // for leave to send its body
  waits.Send(PostHead("Content-Length: 10\r\nExpect: 100-continue"));
  EXPECT_TRUE(waits.Await("100 Continue\r\n\r\n"));
  RawClient in_time(server_->port());
  in_time.Send(Post(kInfer, kJson).substr(0, 80));
  RawClient late(server_->port());  // idle until after the drain begins
  EXPECT_EQ(late.Ask(Get("/v2/health/live")).status, 200);
  ExpectServes();
  server_->BeginDrain();
  late.Send(sized);
  in_time.Send(Post(kInfer, kJson).substr(80));
  EXPECT_EQ(in_time.Receive().status, 200);
  for (RawClient* client : {clients[0].get(), clients[1].get(), clients[2].get(), &waits, &late}) {
    const RawResponse response = client->Receive();
    EXPECT_EQ(response.status, 503);
    EXPECT_THAT(response.body, HasSubstr("stopping"));
    EXPECT_EQ(response.Header("Connection"), "close");
  }
  // Though none of them hangs up.
  EXPECT_TRUE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(5000)));
}

class HttpTimeoutTest : public HttpTest {
 protected:
  static HttpSettings Limits() {
    HttpSettings limits = ShortLimits();
    limits.head_timeout = milliseconds(200);
    limits.idle_timeout = milliseconds(300);
    limits.body_timeout = milliseconds(200);
    limits.body_bytes_per_s = 1 << 30;
    limits.connections = 4;
    return limits;
  }
  HttpTimeoutTest() : HttpTest(Limits()) {}
};

TEST_F(HttpTimeoutTest, SlowHeadsBodiesAndIdleConnectionsAreClosed) {
  RawClient silent(server_->port());
  RawClient slow_head(server_->port());
  slow_head.Send("GET /v2 HT");
  RawClient slow_body(server_->port());
  slow_body.Send("POST " + std::string(kInfer) +
                 " HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab");
  RawClient idle(server_->port());
  EXPECT_EQ(idle.Ask(Get("/v2/health/live")).status, 200);
  EXPECT_TRUE(silent.ClosedByPeer());
  EXPECT_TRUE(slow_head.ClosedByPeer());
  EXPECT_TRUE(slow_body.ClosedByPeer());
  EXPECT_TRUE(idle.ClosedByPeer());
}

HttpSettings SlowestRate() {
  HttpSettings limits = ShortLimits();
  limits.body_bytes = std::size_t{1} << 30;
  limits.body_timeout = milliseconds(100);
  limits.body_bytes_per_s = 4 << 20;  // the limit of a body has four minutes, a megabyte 0.25 s
  return limits;
}

class HttpRateTest : public HttpTest {
 protected:
  HttpRateTest() : HttpTest(SlowestRate()) {}
};

TEST_F(HttpRateTest, WhatAHeadDeclaresBuysADribbledBodyNoTime) {
  RawClient sized(server_->port());
  sized.Send("POST " + std::string(kInfer) +
             " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nab");
  RawClient chunked(server_->port());
  chunked.Send("POST " + std::string(kInfer) +
               " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
  EXPECT_TRUE(sized.ClosedByPeer());
  EXPECT_TRUE(chunked.ClosedByPeer());
  ExpectServes();
}

// Answers with `parts`, the first of them as its body.
class PartsHandler final : public HttpHandler {
 public:
  void Handle(HttpRequest, std::shared_ptr<HttpExchange> exchange) override {
    exchange->Respond([this] {
      HttpResponse response;
      response.body = parts.front();
      for (std::size_t i = 1; i < parts.size(); ++i) {
        for (int j = 0; j < repeats; ++j)
          response.blocks.push_back(std::as_bytes(std::span(parts[i])));
      }
      return response;
    });
  }

  std::vector<std::string> parts;
  int repeats = 1;
};

TEST(HttpAnswerTest, AnswersOfManyPiecesAreWhole) {
  PartsHandler handler;
  std::string whole;
  for (const std::size_t size : {3'000'001, 0, 1, 1'048'576, 700'000, 2'500'003}) {
    handler.parts.emplace_back(size, static_cast<char>('a' + handler.parts.size()));
    whole += handler.parts.back();
  }
  const auto server = HttpServer::Start("http", "127.0.0.1", 0, 1, ShortLimits(), handler);
  ASSERT_TRUE(server.ok()) << server.status();
  RawClient client((*server)->port());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(client.Ask(Get("/")).body == whole);
}

TEST(HttpAnswerTest, TheLengthOfAnAnswerBuysAClientThatDoesNotReadNoTime) {
  PartsHandler handler;
  handler.parts = {"", std::string(1 << 20, 'x')};
  handler.repeats = 800;  // 200 s at the slowest rate; the socket takes the first few
  const auto server = HttpServer::Start("http", "127.0.0.1", 0, 1, SlowestRate(), handler);
  ASSERT_TRUE(server.ok()) << server.status();
  RawClient client((*server)->port());
  client.Send(Get("/"));
  for (int i = 0; i < 6000 && (*server)->num_connections() != 1; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  for (int i = 0; i < 6000 && (*server)->num_connections() != 0; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ((*server)->num_connections(), 0);
}

TEST(HttpAnswerTest, AnswersThatAreNotReadAreBoundedTogether) {
  PartsHandler handler;
  handler.parts = {std::string(std::size_t{40} << 20, 'x')};  // more than sockets take
  HttpSettings settings = ShortLimits();
  settings.answer_budget = std::make_shared<Budget>(std::int64_t{50} << 20);
  const auto server = HttpServer::Start("http", "127.0.0.1", 0, 1, settings, handler);
  ASSERT_TRUE(server.ok()) << server.status();
  auto unread = std::make_unique<RawClient>((*server)->port());
  unread->Send(Get("/"));
  RawResponse other;
  for (int i = 0; i < 1000 && other.status != 503; ++i) {  // until the first is being written
    other = RawClient((*server)->port()).Ask(Get("/"));
  }
  EXPECT_EQ(other.status, 503);
  EXPECT_EQ(other.Header("Retry-After"), "1");
  EXPECT_EQ(unread->Receive().body.size(), std::size_t{40} << 20);
  for (int i = 0; i < 1000 && other.status != 200; ++i) {
    other = RawClient((*server)->port()).Ask(Get("/"));
  }
  EXPECT_EQ(other.status, 200) << "the room is given back";
}

TEST_F(HttpTimeoutTest, ConnectionsOverTheLimitAreClosed) {
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    EXPECT_EQ(clients.back()->Ask(Get("/v2/health/live")).status, 200);
  }
  EXPECT_TRUE(RawClient(server_->port()).ClosedByPeer());
  clients.clear();
}

// Whoever waits for the last connection to go ends what its socket and timers live in.
TEST(ConnectionRegistryTest, AConnectionStaysUntilAllThatItHadIsGone) {
  boost::asio::io_context io;
  FakeService service;
  DoorState state;
  KServeHandler handler(service, state, 1 << 20);
  const HttpSettings settings;
  const auto registry = std::make_shared<ConnectionRegistry>();
  std::size_t size_at_end = 0;
  std::shared_ptr<boost::asio::ssl::context> tls(
      new boost::asio::ssl::context(boost::asio::ssl::context::tls),
      [&](boost::asio::ssl::context* context) {
        size_at_end = registry->size();
        delete context;
      });
  auto connection =
      std::make_shared<HttpConnection>(HttpStream::Socket(boost::asio::make_strand(io)),
                                       std::move(tls), settings, handler, registry);
  registry->Add(connection);
  connection.reset();
  EXPECT_EQ(size_at_end, 1);
  EXPECT_EQ(registry->size(), 0);
}

TEST(HttpServer, APortInUseIsNamed) {
  FakeService service;
  DoorState state;
  KServeHandler handler(service, state, 1);
  const auto first = HttpServer::Start("http", "127.0.0.1", 0, 1, {}, handler);
  ASSERT_TRUE(first.ok());
  const auto second = HttpServer::Start("http", "127.0.0.1", (*first)->port(), 1, {}, handler);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("http port " + std::to_string((*first)->port())));
  EXPECT_FALSE(HttpServer::Start("http", "nowhere", 0, 1, {}, handler).ok());
}

}  // namespace
}  // namespace siglip
