#include "server/openai_routes.h"

#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_embedding_service.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class OthersHandler final : public HttpHandler {
  void Handle(HttpRequest, std::shared_ptr<HttpExchange> exchange) override {
    exchange->Respond([] { return ErrorResponse(404, "not ours"); });
  }
};

class OpenAiRoutesTest : public ::testing::Test {
 protected:
  OpenAiRoutesTest() {
    HttpSettings settings;
    settings.keep_headers = true;
    server_ = *HttpServer::Start("http", "127.0.0.1", 0, 1, settings, handler_);
    client_ = std::make_unique<RawClient>(server_->port());
  }
  RawResponse Embed(const std::string& body) { return client_->Ask(Post("/v1/embeddings", body)); }

  EmbeddingService service_;
  DoorState state_;
  OthersHandler others_;
  OpenAiHandler handler_{service_, state_, 1 << 20, nullptr, others_};
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<RawClient> client_;
};

TEST_F(OpenAiRoutesTest, TextsAreSplitIntoBatchesAndComeBackInOrder) {
  const RawResponse response =
      Embed(R"({"model":"embed_text","input":["a","bb","ccc"],"normalized":false})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body,
            R"({"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0,0.0]},)"
            R"({"object":"embedding","index":1,"embedding":[2.0,0.0]},)"
            R"({"object":"embedding","index":2,"embedding":[3.0,0.0]}],"model":"embed_text",)"
            R"("normalized":false,"usage":{"prompt_tokens":6,"total_tokens":6}})");
  EXPECT_THAT(service_.batches(), ElementsAre("embed_text 2", "embed_text 1"));
}

TEST_F(OpenAiRoutesTest, TheJointModelTakesBothInOneList) {
  const RawResponse response =
      Embed(R"({"model":"siglip","input":["a",{"image":"QUJD"},"bb"],"normalized":false})");
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr(R"("index":1,"embedding":[4.0,1.0]})"));
  EXPECT_THAT(response.body, HasSubstr(R"("index":2,"embedding":[2.0,0.0]})"));
  EXPECT_THAT(response.body, HasSubstr(R"("prompt_tokens":3,)")) << "images have none";
  EXPECT_THAT(service_.batches(), ElementsAre("embed_text 2", "embed_image 1"));
}

TEST_F(OpenAiRoutesTest, RefusalsAreOpenAis) {
  const RawResponse unknown = Embed(R"({"model":"ada","input":"a"})");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.body,
            R"({"error":{"message":"model: expected one of siglip, embed_text, embed_image, got )"
            R"('ada'","type":"invalid_request_error","param":"model","code":"model_not_found"}})");
  const RawResponse bad = Embed(R"({"model":"embed_text","input":["a","b","c","bad"]})");
  EXPECT_EQ(bad.status, 400);
  EXPECT_THAT(bad.body, HasSubstr(R"("message":"input[3]: no good")"));
  EXPECT_THAT(bad.body, HasSubstr(R"("param":"input")"));
  const RawResponse narrow = Embed(R"({"model":"embed_text","input":"a","dimensions":1})");
  EXPECT_EQ(narrow.status, 400);
  EXPECT_THAT(narrow.body, HasSubstr("dimensions: expected 2 or none"));
  EXPECT_EQ(Embed(R"({"model":"embed_text","input":"a","dimensions":2})").status, 200);
  EXPECT_EQ(Embed(R"({"model":"embed_text","input":"a","dimensions":null,"encoding_format":null,)"
                  R"("normalized":null,"user":null})")
                .status,
            200);
  EXPECT_EQ(Embed(R"({"model":null,"input":"a"})").status, 400);
  EXPECT_EQ(Embed(R"({"model":"embed_text","input":null})").status, 400);
}

TEST_F(OpenAiRoutesTest, ItemsAreNamedByTheirPlaceInTheRequest) {
  const auto text_of = [this](const std::string& input) {
    return Embed(R"({"model":"siglip","input":)" + input + "}").body;
  };
  EXPECT_THAT(text_of(R"(["a",{"image":"QUJD"},"b",{"image":"YmFk"}])"),
              HasSubstr(R"("message":"input[3]: no good")"));
  EXPECT_THAT(text_of(R"(["bad",{"image":"YmFk"},"b",{"image":"QUJD"},"c","bad"])"),
              HasSubstr(R"("message":"3 of 6 items failed: input[0]: no good; )"
                        R"(input[1]: no good; input[5]: no good")"));
  std::string many = "[\"bad\"";
  for (int i = 1; i < 12; ++i) many += ",\"bad\"";
  EXPECT_THAT(text_of(many + "]"), HasSubstr("and 4 more: input[8..11]\""));
  EXPECT_THAT(text_of(R"("bad")"), HasSubstr(R"("message":"no good")"));
  const std::string down = text_of(R"(["a",{"image":"QUJD"},"down","bad"])");
  EXPECT_THAT(down, HasSubstr("input[0], input[2]: the engine is down"))
      << "what fails a request is told before its items";
  EXPECT_THAT(down, HasSubstr(R"("type":"server_error")"));
}

TEST_F(OpenAiRoutesTest, ModelsAreToldOneByOne) {
  EXPECT_EQ(client_->Ask(Get("/v1/models/embed_text?x")).body,
            R"({"id":"embed_text","object":"model","created":0,"owned_by":"siglip"})");
  EXPECT_EQ(client_->Ask(Get("/v1/models/siglip")).status, 200);
  const RawResponse unknown = client_->Ask(Get("/v1/models/siglip_text"));
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.body, HasSubstr(R"("param":"model","code":"model_not_found"}})"));
  for (const char* path : {"/v1/models/", "/v1/models/embed_text/", "/v1/models/a/b"}) {
    EXPECT_THAT(client_->Ask(Get(path)).body, HasSubstr("Not Found")) << path;
  }
  EXPECT_EQ(client_->Ask(Post("/v1/models/embed_text", "{}")).Header("Allow"), "GET");
}

TEST_F(OpenAiRoutesTest, AnEncodingThatIsNotKnownIsTheClients) {
  const RawResponse refused =
      client_->Ask(Post("/v1/embeddings", "{}", "Content-Encoding: br\r\n"));
  EXPECT_EQ(refused.status, 415);
  EXPECT_EQ(refused.Header("Accept-Encoding"), "gzip, deflate");
  EXPECT_THAT(refused.body, HasSubstr(R"("type":"invalid_request_error")"));
}

TEST_F(OpenAiRoutesTest, OtherRoutes) {
  EXPECT_THAT(client_->Ask(Get("/v1/models")).body, HasSubstr(R"("id":"siglip")"));
  EXPECT_THAT(client_->Ask(Get("/openapi.json")).body,
              HasSubstr(R"("enum":["siglip","embed_text","embed_image"])"));
  const RawResponse wrong = client_->Ask(Get("/v1/embeddings"));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.Header("Allow"), "POST");
  // Whatever is refused below /v1, and whoever refuses it.
  const std::string chunked =
      "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
  const std::string large =
      "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
  for (const std::string& request :
       {Get("/v1/embeddings"), Get("/v1"), Get("/v1/nothing?x"), Post("/v1/models", "{}"),
        Post("/v1/embeddings", "{"), Post("/v1/embeddings", "{}", "Content-Encoding: br\r\n"),
        Post("/v1/embeddings", "{}", "Expect: x\r\n"), chunked, large}) {
    const RawResponse refused = RawClient(server_->port()).Ask(request);
    EXPECT_GE(refused.status, 400) << request;
    EXPECT_THAT(refused.body, StartsWith(R"({"error":{"message":)")) << request;
  }
  EXPECT_THAT(client_->Ask(Get("/v2")).body, HasSubstr("not ours"));
}

TEST_F(OpenAiRoutesTest, RestrictionsHold) {
  state_.http_restricted = *RestrictedApis::Parse({"inference:key=secret"}, "");
  const RawResponse refused = Embed(R"({"model":"embed_text","input":"a"})");
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr(R"("code":null}})"));
  EXPECT_EQ(client_->Ask(Get("/v1/models")).status, 200);
}

// A server of pictures that keeps its clients waiting until it is told to answer.
class SlowPictures final : public HttpHandler {
 public:
  void Handle(HttpRequest, std::shared_ptr<HttpExchange> exchange) override {
    {
      MutexLock lock(mu_);
      held_.push_back(std::move(exchange));
      arrived_.NotifyAll();
      if (!answering_) return;
    }
    Answer();
  }
  void AwaitOne() {
    MutexLock lock(mu_);
    while (held_.empty()) arrived_.Wait(mu_);
  }
  // From now on at once.
  void Answer() {
    std::vector<std::shared_ptr<HttpExchange>> held;
    {
      MutexLock lock(mu_);
      answering_ = true;
      held.swap(held_);
    }
    for (const auto& exchange : held) {
      exchange->Respond([] {
        HttpResponse response;
        response.body = "GIF";
        return response;
      });
    }
  }

 private:
  Mutex mu_;
  CondVar arrived_;
  bool answering_ SIGLIP_GUARDED_BY(mu_) = false;
  std::vector<std::shared_ptr<HttpExchange>> held_ SIGLIP_GUARDED_BY(mu_);
};

class OpenAiUrlsTest : public ::testing::Test {
 protected:
  OpenAiUrlsTest() {
    host_ = *HttpServer::Start("pictures", "127.0.0.1", 0, 1, {}, pictures_);
    origin_ = "http://127.0.0.1:" + std::to_string(host_->port());
    fetcher_ = *ImageFetcher::Start({.allow = {origin_}, .allow_private = true, .budget = budget_});
  }
  void Serve(Service& service) {
    handler_ = std::make_unique<OpenAiHandler>(service, state_, 1 << 20, fetcher_.get(), others_);
    server_ = *HttpServer::Start("http", "127.0.0.1", 0, 1, {}, *handler_);
  }
  // For a picture of the slow server, in a body of 800 bytes.
  std::string Request() const {
    std::string body = R"({"model":"embed_image","input":[{"image_url":")" + origin_ + R"(/a"}]})";
    return Post("/v1/embeddings", body + std::string(800 - body.size(), ' '));
  }

  SlowPictures pictures_;
  std::unique_ptr<HttpServer> host_;
  std::string origin_;
  const std::shared_ptr<Budget> budget_ = std::make_shared<Budget>(1000);
  std::unique_ptr<ImageFetcher> fetcher_;
  DoorState state_;
  OthersHandler others_;
  std::unique_ptr<OpenAiHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(OpenAiUrlsTest, BodiesThatWaitForPicturesAreBoundedTogether) {
  EmbeddingService service;
  Serve(service);
  RawClient first(server_->port());
  first.Send(Request());
  pictures_.AwaitOne();
  EXPECT_EQ(budget_->held(), 800);
  RawClient second(server_->port());
  const RawResponse refused = second.Ask(Request());
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_THAT(refused.body, HasSubstr("requests whose images are being fetched"));
  pictures_.Answer();
  EXPECT_EQ(first.Receive().status, 200);
  EXPECT_EQ(second.Ask(Request()).status, 200) << "the room is given back";
}

TEST_F(OpenAiUrlsTest, RequestsThatWaitForPicturesAreInFlight) {
  EmbeddingService service;
  Serve(service);
  RawClient client(server_->port());
  client.Send(Request());
  pictures_.AwaitOne();
  EXPECT_EQ(service.places(), 1);
  service.full = true;
  const RawResponse refused = RawClient(server_->port()).Ask(Request());
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_THAT(refused.body, HasSubstr("Exceeds maximum number of requests in flight"));
  pictures_.Answer();
  EXPECT_EQ(client.Receive().status, 200) << "it has its place";
  EXPECT_TRUE(service.came_with_place);
  // Given back when the answer is sent, which its reader may see first.
  for (int i = 0; i < 10'000 && service.places() != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(service.places(), 0);
}

// Memory fails before the request is one that owes an answer.
class NoMemoryService final : public EmbeddingService {
  void Infer(std::unique_ptr<InferRequest> request) override {
    request->done = nullptr;
    throw std::bad_alloc();
  }
};

TEST_F(OpenAiUrlsTest, MemoryThatFailsAfterThePicturesIsA503) {
  NoMemoryService service;
  Serve(service);
  pictures_.Answer();
  RawClient client(server_->port());
  for (int i = 0; i < 2; ++i) {
    const RawResponse refused = client.Ask(Request());
    EXPECT_EQ(refused.status, 503);
    EXPECT_THAT(refused.body, HasSubstr("no memory for the request"));
  }
}

}  // namespace
}  // namespace siglip
