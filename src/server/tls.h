#pragma once

// A TLS context from an operator's PEM files. Private to this folder.

#include <memory>
#include <string_view>

#include <boost/asio/ssl/context.hpp>

#include "absl/status/statusor.h"
#include "server/options.h"

namespace siglip {

// TLS 1.2 and newer. InvalidArgument names door and file: one that is missing or no PEM, a key that
// is not the certificate's, mutual TLS without a root certificate.
absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> MakeTlsContext(std::string_view door,
                                                                          const TlsFiles& files);

}  // namespace siglip
