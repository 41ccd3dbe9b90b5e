#include "server/ui.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/kserve_routes.h"
#include "server/raw_client_for_test.h"

namespace siglip {
namespace {

using std::string_literals::operator""s;
using ::testing::HasSubstr;
using ::testing::Not;

// Three rows of two numbers; the first two have pictures, the last is lost.
class FakeIndex final : public SearchIndex {
 public:
  std::int64_t rows() const override { return 3; }
  std::int64_t width() const override { return 2; }
  std::string_view name(std::int64_t row) const override {
    return row == 0 ? "a \"quoted\".png" : row == 1 ? "b.svg" : "c.jpg";
  }
  absl::StatusOr<std::vector<Hit>> Search(std::span<const float> query,
                                          std::int64_t count) const override {
    std::vector<Hit> hits = {{1, static_cast<double>(query[0])}, {0, 0.25}, {2, -1}};
    hits.resize(static_cast<std::size_t>(std::min<std::int64_t>(count, 3)));
    return hits;
  }
  absl::StatusOr<std::string> ReadPicture(std::int64_t row) const override {
    if (row == 0) return "\x89PNG\r\n\x1a\nrest"s;
    if (row == 1) return "<svg onload='alert(1)'/>"s;
    return absl::NotFoundError("c.jpg: not there");
  }
};

class UiTest : public testing::Test {
 protected:
  explicit UiTest(const SearchIndex* index, const std::vector<std::string>& restricted = {})
      : ui_(state_, index, kserve_) {
    ServerOptions options;
    options.http_restricted_apis = restricted;
    EXPECT_TRUE(state_.Configure(options).ok());
    HttpSettings settings;
    settings.keep_headers = true;
    auto started = HttpServer::Start("http", "127.0.0.1", 0, 2, settings, ui_);
    if (started.ok()) server_ = *std::move(started);
  }
  UiTest() : UiTest(&index_) {}
  RawResponse Ask(std::string_view request) { return RawClient(server_->port()).Ask(request); }

  FakeIndex index_;
  FakeService service_;
  DoorState state_;
  KServeHandler kserve_{service_, state_, 1 << 20};
  UiHandler ui_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(UiTest, ThePageRunsItsOwnScriptAloneAndIsInNoFrame) {
  const RawResponse page = Ask(Get("/ui?x"));
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.Header("Content-Type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.Header("X-Content-Type-Options"), "nosniff");
  const std::string policy = page.Header("Content-Security-Policy");
  EXPECT_EQ(policy, UiSecurityPolicy(page.body));
  EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
  EXPECT_THAT(policy, HasSubstr("frame-ancestors 'none'"));
  EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
  EXPECT_THAT(page.body, Not(HasSubstr("http://")));
  EXPECT_THAT(page.body, Not(HasSubstr("https://")));
}

TEST(UiSecurityPolicy, HasTheHashOfEachInlineElement) {
  // printf 'a' | openssl sha256 -binary | base64
  EXPECT_THAT(UiSecurityPolicy("<style>a</style><script>a</script><script>b</script>"),
              HasSubstr("script-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs=' 'sha256-"
                        "PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='; style-src "
                        "'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs=';"));
}

TEST_F(UiTest, TheRootLeadsToThePageAndTheProtocolIsUntouched) {
  EXPECT_EQ(Ask(Get("/")).status, 302);
  EXPECT_EQ(Ask(Get("/")).Header("Location"), "ui");
  EXPECT_EQ(Ask(Get("/ui/")).Header("Location"), "../ui");
  EXPECT_EQ(Ask(Post("/ui", "")).status, 405);
  EXPECT_EQ(Ask(Post("/ui/picture/0", "")).status, 405);
  EXPECT_EQ(Ask(Get("/ui/else")).status, 404);
  EXPECT_EQ(Ask(Get("/v2/health/ready")).status, 200);
}

TEST_F(UiTest, SearchAnswersNamesAndScores) {
  EXPECT_EQ(Ask(Get("/ui/search")).body, R"({"rows":3,"width":2})");
  const RawResponse found = Ask(Post("/ui/search", R"({"embedding":[0.5,1],"count":2})"));
  EXPECT_EQ(found.status, 200);
  EXPECT_EQ(found.body, R"({"hits":[{"row":1,"name":"b.svg","score":0.5},)"
                        R"({"row":0,"name":"a \"quoted\".png","score":0.25}]})");
}

TEST_F(UiTest, WrongSearchesAreRefused) {
  for (const char* body :
       {"", "[]", "{}", R"({"embedding":[1,2]})", R"({"embedding":[1,2],"count":0})",
        R"({"embedding":[1,2],"count":101})", R"({"embedding":[1],"count":1})",
        R"({"embedding":[1,"2"],"count":1})", R"({"embedding":[[1],2],"count":1})",
        R"({"embedding":"12","count":1})", R"({"embedding":[1,2],"count":1.5})"}) {
    const RawResponse refused = Ask(Post("/ui/search", body));
    EXPECT_EQ(refused.status, 400) << body;
    EXPECT_THAT(refused.body, HasSubstr("{\"error\":\"")) << body;
  }
}

// Bodies that wait for their search are counted by nobody, so their size is judged from the head.
TEST_F(UiTest, ALargeSearchIsRefusedBeforeItIsSent) {
  for (const char* length :
       {"Content-Length: 1048577\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n100001\r\n"}) {
    const RawResponse refused =
        Ask("POST /ui/search HTTP/1.1\r\nHost: x\r\n" + std::string(length));
    EXPECT_EQ(refused.status, 400) << length;
    EXPECT_THAT(refused.body, HasSubstr("larger than the limit of 1048576 bytes of this path"));
  }
}

TEST_F(UiTest, PicturesAreFoundByRowAloneAndAreNoMarkup) {
  const RawResponse picture = Ask(Get("/ui/picture/0"));
  EXPECT_EQ(picture.status, 200);
  EXPECT_EQ(picture.Header("Content-Type"), "image/png");
  EXPECT_EQ(picture.Header("Content-Security-Policy"), "default-src 'none'; sandbox");
  EXPECT_EQ(picture.Header("X-Content-Type-Options"), "nosniff");
  EXPECT_EQ(Ask(Get("/ui/picture/1")).status, 415);
  EXPECT_EQ(Ask(Get("/ui/picture/2")).status, 404);
  for (const char* row : {"3", "-1", "", "0/", "../../etc/passwd", "%2e%2e", "a", "0x0", "+0",
                          "99999999999999999999"}) {
    EXPECT_EQ(Ask(Get("/ui/picture/" + std::string(row))).status, 404) << row;
  }
}

class UiWithoutIndexTest : public UiTest {
 protected:
  UiWithoutIndexTest() : UiTest(nullptr) {}
};

TEST_F(UiWithoutIndexTest, SaysHowToGetOne) {
  EXPECT_EQ(Ask(Get("/ui/search")).body, R"({"rows":0,"width":0})");
  const RawResponse refused = Ask(Post("/ui/search", R"({"embedding":[],"count":1})"));
  EXPECT_EQ(refused.status, 404);
  EXPECT_THAT(refused.body, HasSubstr("--search-index"));
  EXPECT_EQ(Ask(Get("/ui/picture/0")).status, 404);
}

class RestrictedUiTest : public UiTest {
 protected:
  RestrictedUiTest() : UiTest(&index_, {"inference:secret=open"}) {}
};

TEST_F(RestrictedUiTest, SearchAndPicturesNeedTheHeaderOfInference) {
  const std::string body = R"({"embedding":[1,0],"count":1})";
  EXPECT_EQ(Ask(Get("/ui")).status, 200);
  EXPECT_EQ(Ask(Get("/ui/search")).status, 403);
  EXPECT_EQ(Ask(Post("/ui/search", body)).status, 403);
  EXPECT_EQ(Ask(Get("/ui/picture/0")).status, 403);
  EXPECT_EQ(Ask(Post("/ui/search", body, "secret: open\r\n")).status, 200);
}

TEST(PictureMediaType, KnowsWhatBrowsersShow) {
  EXPECT_EQ(PictureMediaType("\xff\xd8\xff\xe0"), "image/jpeg");
  EXPECT_EQ(PictureMediaType("GIF89a..."), "image/gif");
  EXPECT_EQ(PictureMediaType("RIFF\1\1\1\1WEBPVP8 "), "image/webp");
  EXPECT_EQ(PictureMediaType("\1\1\1\1ftypavif...."), "image/avif");
  EXPECT_EQ(PictureMediaType("BM......"), "image/bmp");
  EXPECT_EQ(PictureMediaType("II*\1"), "");
  EXPECT_EQ(PictureMediaType("RIFF"), "");
  EXPECT_EQ(PictureMediaType(""), "");
}

}  // namespace
}  // namespace siglip
