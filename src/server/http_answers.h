#pragma once

// Pieces of answers, and checks of requests, that all HTTP routes share.

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "protocol/compression.h"
#include "server/access.h"
#include "server/http.h"

namespace siglip {

HttpResponse JsonResponse(std::string json);
HttpResponse EmptyResponse(int status);
// Triton's form of a refusal.
HttpResponse StatusResponse(const absl::Status& status);

// Packs the answer if the client can unpack it; leaves it as it is if packing fails.
void CompressResponse(Encoding encoding, HttpResponse& response);
// The body as the client meant it: unpacked if it is packed.
absl::StatusOr<std::shared_ptr<PaddedBody>> DecodedBody(HttpRequest& request,
                                                        std::size_t max_bytes);

// The refusal's text, unless the part of the protocol is open or the request has its header.
std::optional<std::string> RestrictedText(const RestrictedApis& restricted, Api api,
                                          const HttpRequest& request);
// The same as an answer in Triton's form.
std::optional<HttpResponse> Restricted(const RestrictedApis& restricted, Api api,
                                       const HttpRequest& request);

}  // namespace siglip
