// What the OpenAI door does when memory runs out under a request whose images are fetched from
// URLs. In a program of its own, whose operator new fails when told.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "base/failing_new_for_test.h"
#include "server/fake_embedding_service.h"
#include "server/image_fetcher.h"
#include "server/openai_routes.h"
#include "server/raw_client_for_test.h"

namespace {

// The allocation that fails of one thread's, counted from now; 0: none. Orders nothing else.
std::atomic<int> failing{0};
std::atomic<std::thread::id> failing_thread{};

}  // namespace

void* TestAllocate(std::size_t bytes) {
  if (failing > 0 && failing_thread == std::this_thread::get_id() && --failing == 0) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

namespace siglip {
namespace {

// Tells which thread fetches.
class FetchedService final : public EmbeddingService {
 public:
  std::atomic<std::thread::id> fetching_thread{};

 private:
  void Infer(std::unique_ptr<InferRequest> request) override {
    fetching_thread = std::this_thread::get_id();
    EmbeddingService::Infer(std::move(request));
  }
};

// Has a picture at "/a" alone.
class Pictures final : public HttpHandler {
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    exchange->Respond([found = request.target == "/a"] {
      HttpResponse response;
      response.status = found ? 200 : 404;
      response.body = "GIF";
      return response;
    });
  }
};

class NoOthers final : public HttpHandler {
  void Handle(HttpRequest, std::shared_ptr<HttpExchange> exchange) override {
    exchange->Respond([] { return ErrorResponse(404, "not ours"); });
  }
};

// Lets an allocation of `rest` fail, once told.
class FailingHandler final : public HttpHandler {
 public:
  explicit FailingHandler(HttpHandler& rest) : rest_(rest) {}

  // Of the next request, counted from one.
  void FailNext(int number) { number_ = number; }
  // Whether there were so many. Waits for the request's handling to end.
  bool HasFailed() {
    while (number_ != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return failed_;
  }

 private:
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    if (number_ == 0) return rest_.Handle(std::move(request), std::move(exchange));
    failing_thread = std::this_thread::get_id();
    failing = number_.load();
    rest_.Handle(std::move(request), std::move(exchange));
    failed_ = failing.exchange(0) == 0;
    number_ = 0;
  }
  HttpHandler& rest_;
  std::atomic<int> number_{0};
  std::atomic<bool> failed_{false};
};

class OpenAiMemoryTest : public ::testing::Test {
 protected:
  OpenAiMemoryTest() {
    host_ = *HttpServer::Start("pictures", "127.0.0.1", 0, 1, {}, pictures_);
    origin_ = "http://127.0.0.1:" + std::to_string(host_->port());
    fetcher_ = *ImageFetcher::Start({.allow = {origin_}, .allow_private = true, .budget = budget_});
    openai_ = std::make_unique<OpenAiHandler>(service_, state_, 1 << 20, fetcher_.get(), others_);
    failing_handler_ = std::make_unique<FailingHandler>(*openai_);
    server_ = *HttpServer::Start("http", "127.0.0.1", 0, 1, {}, *failing_handler_);
  }

  // For two pictures.
  std::string Request(const std::string& first, const std::string& second) const {
    return Post("/v1/embeddings", R"({"model":"embed_image","input":[{"image_url":")" + origin_ +
                                      first + R"("},{"image_url":")" + origin_ + second +
                                      R"("}]})");
  }
  RawResponse Ask(const std::string& request) { return RawClient(server_->port()).Ask(request); }

  // Nothing of a request is kept; what answers it may still be about to give it back.
  void ExpectNothingIsKept() {
    for (int i = 0; i < 10'000 && (service_.places() != 0 || budget_->held() != 0); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(service_.places(), 0);
    EXPECT_EQ(budget_->held(), 0);
  }

  // Asks while one allocation of the fetching thread after the other fails, until none does.
  void FailEachOfTheFetch(const std::string& request, int status) {
    failing_thread = service_.fetching_thread.load();
    for (int number = 1, left = 0; left == 0; ++number) {
      SCOPED_TRACE(number);
      ASSERT_LT(number, 200);
      failing = number;
      const RawResponse response = Ask(request);
      left = failing.exchange(0);
      EXPECT_TRUE(response.status == status || response.status == 500 || response.status == 503)
          << response.status << " " << response.body;
      ExpectNothingIsKept();
    }
  }

  FetchedService service_;
  Pictures pictures_;
  NoOthers others_;
  DoorState state_;
  const std::shared_ptr<Budget> budget_ = std::make_shared<Budget>(1 << 20);
  std::unique_ptr<HttpServer> host_;
  std::string origin_;
  std::unique_ptr<ImageFetcher> fetcher_;
  std::unique_ptr<OpenAiHandler> openai_;
  std::unique_ptr<FailingHandler> failing_handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(OpenAiMemoryTest, ARequestIsAnsweredWhateverTheFetchHasNoMemoryFor) {
  ASSERT_EQ(Ask(Request("/a", "/a")).status, 200);
  FailEachOfTheFetch(Request("/a", "/a"), 200);
  FailEachOfTheFetch(Request("/a", "/missing"), 400);
}

TEST_F(OpenAiMemoryTest, ARequestWithoutMemoryToStartItsFetchesIsNotKept) {
  bool failed = true;
  for (int number = 1; failed; ++number) {
    SCOPED_TRACE(number);
    ASSERT_LT(number, 200);
    failing_handler_->FailNext(number);
    const RawResponse response = Ask(Request("/a", "/a"));
    failed = failing_handler_->HasFailed();
    EXPECT_EQ(response.status, failed ? 503 : 200) << response.body;
    ExpectNothingIsKept();
  }
}

}  // namespace
}  // namespace siglip
