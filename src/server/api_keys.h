#pragma once

// Who may use the doors at all: bearer keys of a file, one a line.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/sha256.h"

namespace siglip {

// Holds the keys' hashes, never the keys. Thread-safe.
class ApiKeys {
 public:
  enum class Verdict { kAllowed, kMissing, kWrong };

  // Reads the file: a key of 16 to 512 visible ASCII characters a line; blank lines and lines that
  // begin with '#' are left out. InvalidArgument names file and line, never what stands there;
  // earlier keys then stay in use. A file without keys is refused. An empty path: everybody may.
  absl::Status Load(const std::string& path);

  // Whether a request without a key is refused.
  bool asked_for() const;

  // `authorization`: the field "Authorization" of a request, nothing if it has none or several.
  // "Bearer KEY" is allowed, also while no keys are asked for. The time it takes does not depend on
  // the keys' characters.
  Verdict Check(std::optional<std::string_view> authorization) const;

 private:
  using Digests = std::vector<Sha256Digest>;
  static absl::StatusOr<Digests> Parse(std::string_view text, const std::string& path);

  mutable Mutex mu_;
  std::shared_ptr<const Digests> digests_ SIGLIP_GUARDED_BY(mu_);  // null: none are asked for
};

// What a refusal of either kind says, and the challenge of an HTTP 401 (RFC 6750).
std::string_view ApiKeyRefusal(ApiKeys::Verdict verdict);
std::string_view ApiKeyChallenge(ApiKeys::Verdict verdict);

}  // namespace siglip
