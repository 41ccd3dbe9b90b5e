#include "server/http_answers.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "protocol/status_map.h"
#include "protocol/text.h"
#include "serving/overload.h"

namespace siglip {
namespace {

bool HasHeader(const HttpRequest& request, const RestrictedApis::Rule& rule) {
  return std::any_of(request.headers.begin(), request.headers.end(), [&rule](const auto& field) {
    return EqualsIgnoreCase(field.first, rule.header) &&
           RestrictedApis::Matches(rule, field.second);
  });
}

}  // namespace

HttpResponse JsonResponse(std::string json) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = std::move(json);
  return response;
}

HttpResponse EmptyResponse(int status) {
  HttpResponse response;
  response.status = status;
  return response;
}

HttpResponse StatusResponse(const absl::Status& status) {
  const absl::string_view text = status.message();
  HttpResponse response = ErrorResponse(HttpStatusOf(status), {text.data(), text.size()});
  response.overloaded = IsOverloaded(status);
  return response;
}

void CompressResponse(Encoding encoding, HttpResponse& response) {
  if (encoding == Encoding::kIdentity) return;
  std::vector<std::string_view> parts = {response.body};
  for (const auto& block : response.blocks) {
    parts.emplace_back(reinterpret_cast<const char*>(block.data()), block.size());
  }
  std::string packed = Compress(parts, encoding);
  if (packed.empty()) return;
  response.body = std::move(packed);
  response.blocks.clear();
  response.headers.emplace_back("Content-Encoding", std::string(EncodingName(encoding)));
}

absl::StatusOr<std::shared_ptr<PaddedBody>> DecodedBody(HttpRequest& request,
                                                        std::size_t max_bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Encoding encoding,
                          ParseContentEncoding(request.content_encoding.value_or("")));
  if (encoding == Encoding::kIdentity) return std::move(request.body);
  return Decompress(request.body->view(), max_bytes);
}

std::optional<std::string> RestrictedText(const RestrictedApis& restricted, Api api,
                                          const HttpRequest& request) {
  const RestrictedApis::Rule* rule = restricted.RuleOf(api);
  if (rule == nullptr || HasHeader(request, *rule)) return std::nullopt;
  return Concat("This API is restricted, expecting header '", rule->header, "'");
}

std::optional<HttpResponse> Restricted(const RestrictedApis& restricted, Api api,
                                       const HttpRequest& request) {
  const std::optional<std::string> text = RestrictedText(restricted, api, request);
  if (!text) return std::nullopt;
  return ErrorResponse(403, *text);
}

}  // namespace siglip
