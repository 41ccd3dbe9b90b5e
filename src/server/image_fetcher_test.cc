#include "server/image_fetcher.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <atomic>
#include <cstring>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

bool IsPublic(const char* text) {
  sockaddr_storage storage{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &v6.sin6_addr), 1) << text;
    v6.sin6_family = AF_INET6;
  }
  return IsPublicAddress(reinterpret_cast<const sockaddr&>(storage));
}

TEST(IsPublicAddress, KnowsWhatIsNotTheInternet) {
  for (const char* text : {"0.0.0.0",
                           "0.1.2.3",
                           "10.0.0.1",
                           "10.255.255.255",
                           "100.64.0.1",
                           "100.127.255.255",
                           "127.0.0.1",
                           "127.9.9.9",
                           "169.254.169.254",
                           "172.16.0.1",
                           "172.31.255.255",
                           "192.0.0.192",
                           "192.0.2.1",
                           "192.168.1.1",
                           "198.18.0.1",
                           "198.19.255.255",
                           "198.51.100.7",
                           "203.0.113.9",
                           "224.0.0.1",
                           "239.255.255.255",
                           "240.0.0.1",
                           "255.255.255.255",
                           "168.63.129.16",
                           "::",
                           "::1",
                           "::7f00:1",
                           "::ffff:127.0.0.1",
                           "::ffff:10.0.0.1",
                           "64:ff9b::7f00:1",
                           "64:ff9b::a9fe:a9fe",
                           "64:ff9b:1::808:808",
                           "fe80::1",
                           "fec0::1",
                           "fc00::1",
                           "fd00:ec2::254",
                           "ff02::1",
                           "2001::1",
                           "2001:1ff::1",
                           "2001:db8::1",
                           "2002:7f00:1::",
                           "3fff::1",
                           "3fff:fff::1",
                           "5f00::1"}) {
    EXPECT_FALSE(IsPublic(text)) << text;
  }
  for (const char* text :
       {"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "126.255.255.255", "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.20.0.0",
        "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:200::1",
        "2606:4700:4700::1111", "2a00:1450::1", "3ffe::1"}) {
    EXPECT_TRUE(IsPublic(text)) << text;
  }
  sockaddr unix_socket{};
  unix_socket.sa_family = AF_UNIX;
  EXPECT_FALSE(IsPublicAddress(unix_socket));
}

TEST(ImageHosts, AreSchemeHostAndPort) {
  const auto hosts = ImageHosts::Parse(
      {"Images.Example.com", "cdn.example.com:8443", "http://plain.example.com", "[2606:4700::1]"});
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  for (const char* url :
       {"https://images.example.com/a.png", "HTTPS://IMAGES.EXAMPLE.COM:443/a?b#c",
        "https://images.example.com", "https://cdn.example.com:8443/", "http://plain.example.com/a",
        "http://plain.example.com:80/a", "https://[2606:4700::1]/a",
        "https:///images.example.com"}) {  // libcurl drops the third slash, and fetches there
    EXPECT_TRUE(hosts->Check(url).ok()) << url << hosts->Check(url);
  }
  for (const std::string& url : {std::string("http://images.example.com/a"),
                                 std::string("https://images.example.com:444/"),
                                 std::string("https://cdn.example.com/"),
                                 std::string("https://plain.example.com/"),
                                 std::string("https://images.example.com.evil.org/"),
                                 std::string("https://evil.org/images.example.com"),
                                 std::string("https://evil.org?images.example.com"),
                                 std::string("https://evil.org#@images.example.com"),
                                 std::string("https://evil.org\\@images.example.com/"),
                                 std::string("https://images.example.com@evil.org/"),
                                 std::string("https://user@images.example.com/"),
                                 std::string("https://user:pw@images.example.com/"),
                                 std::string("https://images.example.com./"),
                                 std::string("https://images.example.com\0.evil.org/", 38),
                                 std::string("https://images.example.com\n.evil.org/"),
                                 std::string("https://images.example.com%2eevil.org/"),
                                 std::string("file:///etc/passwd"),
                                 std::string("file://images.example.com/etc/passwd"),
                                 std::string("ftp://images.example.com/"),
                                 std::string("gopher://images.example.com/"),
                                 std::string("dict://images.example.com:443/"),
                                 std::string("//images.example.com/"),
                                 std::string("images.example.com/a"),
                                 std::string(),
                                 "https://images.example.com/" + std::string(5000, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(hosts->Check(url))) << url;
  }
}

TEST(ImageHosts, WrongTextsAreQuoted) {
  for (const char* text : {"", "a/b", "https://a", "a b", "user@a", "a:b", "http://", "a:99999999",
                           "*.example.com/", "file://a", "a?b", "a#b"}) {
    const auto hosts = ImageHosts::Parse({text});
    ASSERT_FALSE(hosts.ok()) << text;
    EXPECT_THAT(std::string(hosts.status().message()), HasSubstr(text));
  }
}

// Answers by path; "/never" not before it is told to.
class PicturesHandler final : public HttpHandler {
 public:
  std::atomic<int> asked{0};

  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    ++asked;
    if (request.target == "/never") {
      MutexLock lock(mu_);
      return held_.push_back(std::move(exchange));
    }
    exchange->Respond([target = request.target] {
      HttpResponse response;
      response.body = "picture of " + target;
      if (target.starts_with("/redirect")) {
        response.status = 302;
        response.headers.emplace_back("Location", "http://127.0.0.1/inside");
      }
      if (target == "/gone") response.status = 404;
      if (target == "/large") response.body.assign(2000, 'x');
      if (target == "/head") response.headers.emplace_back("X", std::string(20'000, 'x'));
      return response;
    });
  }
  void LetGo() {
    MutexLock lock(mu_);
    held_.clear();
  }

 private:
  Mutex mu_;
  std::vector<std::shared_ptr<HttpExchange>> held_ SIGLIP_GUARDED_BY(mu_);
};

class ImageFetcherTest : public ::testing::Test {
 protected:
  ImageFetcherTest() {
    server_ = *HttpServer::Start("pictures", "127.0.0.1", 0, 1, {}, handler_);
    origin_ = "http://127.0.0.1:" + std::to_string(server_->port());
    options_.allow = {origin_, "http://localhost:" + std::to_string(server_->port())};
    options_.allow_private = true;
    options_.max_bytes = 1000;
  }
  ~ImageFetcherTest() override {
    fetcher_.reset();
    handler_.LetGo();
  }

  void Start() { fetcher_ = *ImageFetcher::Start(options_); }

  std::future<absl::StatusOr<std::string>> Begin(const std::string& url,
                                                 std::function<bool()> is_cancelled = {}) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<std::string>>>();
    fetcher_->Fetch(url, std::move(is_cancelled), [promise](absl::StatusOr<FetchedImage> image) {
      auto bytes = image.ok() ? absl::StatusOr<std::string>(std::move(image->bytes))
                              : absl::StatusOr<std::string>(image.status());
      image = absl::UnknownError("gives its memory back before the test looks");
      promise->set_value(std::move(bytes));
    });
    return promise->get_future();
  }
  std::string Refusal(const std::string& path) {
    return std::string(Begin(origin_ + path).get().status().message());
  }

  PicturesHandler handler_;
  std::unique_ptr<HttpServer> server_;
  std::string origin_;
  ImageFetchOptions options_;
  std::unique_ptr<ImageFetcher> fetcher_;
};

TEST_F(ImageFetcherTest, FetchesWhatIsAllowed) {
  options_.budget = std::make_shared<Budget>(100);
  Start();
  const auto image = Begin(origin_ + "/a?b").get();
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(*image, "picture of /a?b");
  EXPECT_EQ(options_.budget->held(), 0);
}

TEST_F(ImageFetcherTest, PrivateAddressesAreRefusedWhateverTheNameSays) {
  options_.allow_private = false;
  Start();
  EXPECT_THAT(Refusal("/a"), HasSubstr("no public address"));
  const std::string named = "http://localhost:" + std::to_string(server_->port()) + "/a";
  const auto refused = Begin(named).get();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("no public address"));
  EXPECT_THAT(std::string(refused.status().message()), Not(HasSubstr("127.0.0.1")));
  EXPECT_EQ(handler_.asked, 0) << "nothing was connected to";
}

TEST_F(ImageFetcherTest, AnswersThatAreNoPictureAreRefused) {
  Start();
  EXPECT_THAT(Refusal("/redirect"), HasSubstr("redirects, which is not followed"));
  EXPECT_THAT(Refusal("/gone"), HasSubstr("answered 404"));
  EXPECT_THAT(Refusal("/large"), HasSubstr("larger than the limit of 1000 bytes"));
  EXPECT_THAT(Refusal("/head"), HasSubstr("head of more than"));
  EXPECT_EQ(handler_.asked, 4);
  EXPECT_THAT(std::string(Begin("https://elsewhere.org/").get().status().message()),
              HasSubstr("not fetched from https://elsewhere.org:443"));
}

TEST_F(ImageFetcherTest, TheEnvironmentsProxyIsNotAsked) {
  ASSERT_EQ(setenv("http_proxy", "http://127.0.0.1:9", 1), 0);
  Start();
  EXPECT_TRUE(Begin(origin_ + "/a").get().ok());
  unsetenv("http_proxy");
}

TEST_F(ImageFetcherTest, TimeMemoryAndQueueAreBounded) {
  options_.timeout = std::chrono::milliseconds(200);
  options_.max_running = 1;
  options_.max_waiting = 1;
  options_.budget = std::make_shared<Budget>(10);
  const auto other = options_.budget->TryHold(9);
  Start();
  EXPECT_TRUE(absl::IsResourceExhausted(Begin(origin_ + "/a").get().status()));
  auto slow = Begin(origin_ + "/never");
  while (handler_.asked < 2) std::this_thread::yield();
  auto waiting = Begin(origin_ + "/never");
  EXPECT_TRUE(absl::IsUnavailable(Begin(origin_ + "/a").get().status()));
  for (auto* late : {&slow, &waiting}) {
    EXPECT_THAT(std::string(late->get().status().message()), HasSubstr("within 200 ms"));
  }
}

TEST_F(ImageFetcherTest, CancelledAndLeftOverOnesAreAnswered) {
  std::atomic<bool> gone{false};
  Start();
  auto cancelled = Begin(origin_ + "/never", [&gone] { return gone.load(); });
  auto left = Begin(origin_ + "/never");
  while (handler_.asked < 2) std::this_thread::yield();
  gone = true;
  EXPECT_TRUE(absl::IsCancelled(cancelled.get().status()));
  fetcher_.reset();
  EXPECT_TRUE(absl::IsUnavailable(left.get().status()));
}

TEST_F(ImageFetcherTest, MemoryThatFailsAfterAnImageCostsThatImage) {
  Start();
  std::promise<void> failed;
  fetcher_->Fetch(origin_ + "/a", {}, [&failed](const absl::StatusOr<FetchedImage>&) {
    failed.set_value();
    throw std::bad_alloc();
  });
  failed.get_future().wait();
  EXPECT_TRUE(Begin(origin_ + "/b").get().ok()) << "the thread goes on";
}

TEST(ImageFetcherStart, WrongOptionsAreNamed) {
  EXPECT_THAT(std::string(ImageFetcher::Start({.allow = {"a/b"}}).status().message()),
              HasSubstr("a/b"));
  EXPECT_THAT(
      std::string(ImageFetcher::Start({.allow = {"a"}, .root_cert = "/no/pem"}).status().message()),
      HasSubstr("/no/pem"));
}

}  // namespace
}  // namespace siglip
