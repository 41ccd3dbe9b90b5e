#pragma once

// The page at /ui, and the search of embedded pictures behind it. Whatever else the page does, it
// asks the protocol's own routes like any other client.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "server/door_state.h"
#include "server/http.h"

namespace siglip {

// The pictures that the page can search. Thread-safe.
class SearchIndex {
 public:
  struct Hit {
    std::int64_t row = 0;
    double score = 0;  // the cosine
  };

  virtual ~SearchIndex() = default;
  virtual std::int64_t rows() const = 0;
  virtual std::int64_t width() const = 0;
  // Valid as long as the index. REQUIRES: 0 <= row < rows().
  virtual std::string_view name(std::int64_t row) const = 0;
  // The nearest `count` rows, or all if there are fewer, best first. query [width()].
  virtual absl::StatusOr<std::vector<Hit>> Search(std::span<const float> query,
                                                  std::int64_t count) const = 0;
  // The picture's file. NotFound if it may not be shown or is not there. REQUIRES: as name.
  virtual absl::StatusOr<std::string> ReadPicture(std::int64_t row) const = 0;
};

// The page: src/server/ui/index.html, compiled in.
std::string_view UiPage();

// The page's Content-Security-Policy: its own inline scripts and styles by their hashes, requests
// to its own server, and nothing else.
std::string UiSecurityPolicy(std::string_view page);

// The media type of a picture that browsers show, by its first bytes; empty for everything else.
std::string_view PictureMediaType(std::string_view bytes);

// Every route of the page:
//   GET  /                  to /ui
//   GET  /ui                the page
//   GET  /ui/search         {"rows":N,"width":D}; N = 0: there is no index
//   POST /ui/search         {"embedding":[D numbers],"count":1..100} ->
//                           {"hits":[{"row","name","score"}, ...]}
//   GET  /ui/picture/ROW    the picture's file, found by its row in the index alone
// Search and pictures need the header of --http-restricted-api inference, if that is set.
std::span<const RouteRow> UiRoutes();

class UiHandler final : public HttpHandler {
 public:
  // `index` may be null. All outlive the handler. Every other route is left to `rest`.
  UiHandler(const DoorState& state, const SearchIndex* index, HttpHandler& rest);
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse Refusal(std::string_view target, int status, std::string_view text) const override;
  std::size_t BodyLimit(std::string_view target) const override;

 private:
  HttpResponse PageResponse() const;
  HttpResponse IndexResponse() const;
  HttpResponse SearchResponse(std::string_view body) const;
  HttpResponse PictureResponse(std::string_view row) const;
  // What reads the index: it may wait for a disk, which an I/O thread must not.
  void AnswerLater(std::shared_ptr<HttpExchange> exchange, std::function<HttpResponse()> make);

  const DoorState& state_;
  const SearchIndex* const index_;
  HttpHandler& rest_;
  const std::string policy_;
  std::atomic<int> waiting_{0};  // answers owed by pool_; orders nothing else
  ThreadPool pool_;              // the last member: its tasks use the others
};

}  // namespace siglip
