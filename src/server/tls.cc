#include "server/tls.h"

#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

namespace ssl = boost::asio::ssl;

absl::Status Check(std::string_view door, std::string_view what, const std::string& path,
                   const boost::system::error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Concat(door, " TLS: ", what, " '", path, "': ", error.message()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<ssl::context>> MakeTlsContext(std::string_view door,
                                                             const TlsFiles& files) {
  if (files.mutual && files.root_cert.empty()) {
    return absl::InvalidArgumentError(
        Concat(door, " TLS: expected a root certificate, which mutual TLS needs, got none"));
  }
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  boost::system::error_code error;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                           ssl::context::no_sslv3 | ssl::context::no_tlsv1 |
                           ssl::context::no_tlsv1_1,
                       error);
  SIGLIP_RETURN_IF_ERROR(Check(door, "options", "", error));
  context->use_certificate_chain_file(files.server_cert, error);
  SIGLIP_RETURN_IF_ERROR(Check(door, "server certificate", files.server_cert, error));
  context->use_private_key_file(files.server_key, ssl::context::pem, error);
  SIGLIP_RETURN_IF_ERROR(Check(door, "server key", files.server_key, error));
  if (!files.root_cert.empty()) {
    context->load_verify_file(files.root_cert, error);
    SIGLIP_RETURN_IF_ERROR(Check(door, "root certificate", files.root_cert, error));
  }
  if (files.mutual) {
    context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
    SIGLIP_RETURN_IF_ERROR(Check(door, "verification", files.root_cert, error));
    // Sessions of clients that were verified are not taken up again without their certificate.
    SSL_CTX_set_session_cache_mode(context->native_handle(), SSL_SESS_CACHE_OFF);
  }
  return context;
}

}  // namespace siglip
