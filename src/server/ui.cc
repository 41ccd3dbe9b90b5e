#include "server/ui.h"

#include <charconv>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "base/json_text.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "protocol/json_object.h"
#include "protocol/json_writer.h"
#include "protocol/text.h"
#include "server/http_answers.h"

namespace siglip {
namespace {

// One that searches while the other reads pictures.
constexpr int kThreads = 2;
// A page of results, in several windows; more wait longer than a person does.
constexpr int kMaxWaiting = 256;
// 65,536 numbers of 16 digits; real widths are below 2,000.
constexpr std::size_t kMaxSearchBytes = 1 << 20;
constexpr std::int64_t kMaxHits = 100;
constexpr int kSearchDepth = 3;
constexpr std::string_view kSearch = "/ui/search";
constexpr std::string_view kPictures = "/ui/picture/";

constexpr RouteRow kUiRoutes[] = {
    {"GET", "/", {}},
    {"GET", "/ui", {}},
    {"GET", "/ui/", {}},
    {"", kSearch, Api::kInference},
    {"GET", "/ui/picture/{row}", Api::kInference},
};

// The route of `path`; null if it is none of the page's.
const RouteRow* FindRow(std::string_view path) {
  for (const RouteRow& row : kUiRoutes) {
    const std::size_t name = row.path.find('{');
    const bool fits = name == std::string_view::npos ? path == row.path
                                                     : path.starts_with(row.path.substr(0, name));
    if (fits) return &row;
  }
  return nullptr;
}

std::string Sha256Base64(std::string_view text) {
  Sha256 hash;
  hash.Add(text);
  const Sha256Digest digest = hash.Digest();
  return absl::Base64Escape({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

// " 'sha256-...'" for the content of every element that begins with `open`.
std::string HashesOf(std::string_view page, std::string_view open, std::string_view close) {
  std::string hashes;
  for (std::size_t at = page.find(open); at != std::string_view::npos; at = page.find(open, at)) {
    at += open.size();
    const std::string_view content = page.substr(at, page.find(close, at) - at);
    AppendAll(hashes, " 'sha256-", Sha256Base64(content), "'");
  }
  return hashes;
}

HttpResponse Secured(HttpResponse response) {
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  response.headers.emplace_back("Referrer-Policy", "no-referrer");
  response.headers.emplace_back("Cross-Origin-Resource-Policy", "same-origin");
  response.headers.emplace_back("Cache-Control", "no-cache");
  return response;
}

void Answer(HttpExchange& exchange, HttpResponse response) {
  exchange.Respond(
      [response = Secured(std::move(response))]() mutable { return std::move(response); });
}

// Relative, so that it holds behind a proxy with a prefix too.
HttpResponse Redirect(std::string location) {
  HttpResponse response;
  response.status = 302;
  response.headers.emplace_back("Location", std::move(location));
  return response;
}

struct SearchQuery {
  std::vector<float> embedding;
  std::int64_t count = 0;
};

absl::StatusOr<SearchQuery> ParseSearch(std::string_view body, std::int64_t width) {
  SIGLIP_ASSIGN_OR_RETURN(
      const auto json,
      ParseJsonObject<nlohmann::json>(body, kSearchDepth, R"({"embedding":[...],"count":N})"));
  SearchQuery query;
  const auto count = json.find("count");
  if (count != json.end() && count->is_number_integer()) query.count = count->get<std::int64_t>();
  if (query.count < 1 || query.count > kMaxHits) {
    return absl::InvalidArgumentError(Concat("search: count: expected 1 to ", kMaxHits));
  }
  const auto embedding = json.find("embedding");
  if (embedding == json.end() || !embedding->is_array() ||
      static_cast<std::int64_t>(embedding->size()) != width) {
    return absl::InvalidArgumentError(
        Concat("search: embedding: expected ", width, " numbers, as the index has"));
  }
  for (const auto& value : *embedding) {
    if (!value.is_number()) {
      return absl::InvalidArgumentError("search: embedding: expected numbers alone");
    }
    query.embedding.push_back(value.get<float>());
  }
  return query;
}

}  // namespace

std::string UiSecurityPolicy(std::string_view page) {
  return Concat("default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; script-src",
                HashesOf(page, "<script>", "</script>"), "; style-src",
                HashesOf(page, "<style>", "</style>"),
                "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
}

std::string_view PictureMediaType(std::string_view bytes) {
  using std::string_view_literals::operator""sv;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n"sv)) return "image/png";
  if (bytes.starts_with("\xff\xd8\xff"sv)) return "image/jpeg";
  if (bytes.starts_with("GIF87a"sv) || bytes.starts_with("GIF89a"sv)) return "image/gif";
  if (bytes.size() > 12 && bytes.starts_with("RIFF"sv) && bytes.substr(8, 4) == "WEBP"sv) {
    return "image/webp";
  }
  if (bytes.size() > 12 && bytes.substr(4, 8) == "ftypavif"sv) return "image/avif";
  if (bytes.starts_with("BM"sv)) return "image/bmp";
  return "";
}

UiHandler::UiHandler(const DoorState& state, const SearchIndex* index, HttpHandler& rest)
    : state_(state),
      index_(index),
      rest_(rest),
      policy_(UiSecurityPolicy(UiPage())),
      pool_(kThreads) {}

std::span<const RouteRow> UiRoutes() { return kUiRoutes; }

HttpResponse UiHandler::Refusal(std::string_view target, int status, std::string_view text) const {
  return rest_.Refusal(target, status, text);
}

// A search's body waits in the queue, where nothing counts it.
std::size_t UiHandler::BodyLimit(std::string_view target) const {
  const RouteRow* const row = FindRow(PathOf(target));
  if (row == nullptr) return rest_.BodyLimit(target);
  return ReadsBody(*row) ? kMaxSearchBytes : kUnreadBodyBytes;
}

void UiHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const std::string path(PathOf(request.target));
  const RouteRow* const row = FindRow(path);
  if (row == nullptr) return rest_.Handle(std::move(request), std::move(exchange));
  const bool is_search = path == kSearch;
  if (request.method != "GET" && !(is_search && request.method == "POST")) {
    return Answer(*exchange, ErrorResponse(405, "Method Not Allowed"));
  }
  if (path == "/ui") return Answer(*exchange, PageResponse());
  if (!row->api) return Answer(*exchange, Redirect(path == "/" ? "ui" : "../ui"));
  auto refusal = Restricted(state_.http_restricted, *row->api, request);
  if (refusal) return Answer(*exchange, *std::move(refusal));
  if (is_search && request.method == "GET") return Answer(*exchange, IndexResponse());
  if (index_ == nullptr) {
    return Answer(*exchange,
                  ErrorResponse(404, "no pictures to search: start with --search-index"));
  }
  if (is_search) {
    return AnswerLater(std::move(exchange), [this, body = std::move(request.body)] {
      return SearchResponse(body->view());
    });
  }
  AnswerLater(std::move(exchange),
              [this, row = path.substr(kPictures.size())] { return PictureResponse(row); });
}

void UiHandler::AnswerLater(std::shared_ptr<HttpExchange> exchange,
                            std::function<HttpResponse()> make) {
  if (waiting_.fetch_add(1) >= kMaxWaiting) {
    waiting_.fetch_sub(1);
    return Answer(*exchange, OverloadResponse("too many searches wait"));
  }
  absl::Cleanup leave = [this] { waiting_.fetch_sub(1); };
  pool_.Submit([this, exchange = std::move(exchange), make = std::move(make)] {
    HttpResponse response;
    try {
      response = make();
    } catch (const std::bad_alloc&) {
      response = OverloadResponse("no memory for the search");
    }
    waiting_.fetch_sub(1);
    Answer(*exchange, std::move(response));
  });
  std::move(leave).Cancel();
}

HttpResponse UiHandler::PageResponse() const {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.headers.emplace_back("Content-Security-Policy", policy_);
  response.body = std::string(UiPage());
  return response;
}

HttpResponse UiHandler::IndexResponse() const {
  if (index_ == nullptr) return JsonResponse(R"({"rows":0,"width":0})");
  return JsonResponse(Concat("{\"rows\":", index_->rows(), ",\"width\":", index_->width(), "}"));
}

HttpResponse UiHandler::SearchResponse(std::string_view body) const {
  const auto query = ParseSearch(body, index_->width());
  if (!query.ok()) return StatusResponse(query.status());
  const auto hits = index_->Search(query->embedding, query->count);
  if (!hits.ok()) return StatusResponse(hits.status());
  std::string json = "{\"hits\":[";
  for (const SearchIndex::Hit& hit : *hits) {
    AppendAll(json, json.back() == '[' ? "" : ",", "{\"row\":", hit.row, ",\"name\":");
    AppendJsonString(index_->name(hit.row), json);
    json += ",\"score\":";
    AppendJsonDouble(hit.score, json);
    json += '}';
  }
  return JsonResponse(json + "]}");
}

HttpResponse UiHandler::PictureResponse(std::string_view row_text) const {
  std::int64_t row = -1;
  const char* const end = row_text.data() + row_text.size();
  const auto [stop, error] = std::from_chars(row_text.data(), end, row);
  if (error != std::errc() || stop != end || row < 0 || row >= index_->rows()) {
    return ErrorResponse(404, Concat("picture: expected a row from 0 to ", index_->rows() - 1,
                                     ", got something else"));
  }
  auto bytes = index_->ReadPicture(row);
  if (!bytes.ok()) return StatusResponse(bytes.status());
  const std::string_view media_type = PictureMediaType(*bytes);
  if (media_type.empty()) {
    return ErrorResponse(415, Concat("picture ", row, ": not of a format that browsers show"));
  }
  HttpResponse response;
  response.content_type = std::string(media_type);
  response.headers.emplace_back("Content-Security-Policy", "default-src 'none'; sandbox");
  response.body = *std::move(bytes);
  return response;
}

}  // namespace siglip
