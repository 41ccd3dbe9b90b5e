#include "server/api_keys.h"

#include <algorithm>

#include "base/file_map.h"
#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

constexpr std::uint64_t kMaxFileBytes = 1 << 20;
// Shorter ones can be guessed; longer ones are a file of something else.
constexpr std::size_t kMinKeyBytes = 16;
constexpr std::size_t kMaxKeyBytes = 512;
constexpr std::string_view kScheme = "Bearer";

Sha256Digest DigestOf(std::string_view key) {
  Sha256 hash;
  hash.Add(key);
  return hash.Digest();
}

// The key of "Bearer KEY"; empty if it is something else.
std::string_view BearerKey(std::string_view authorization) {
  const std::string_view scheme = NextPart(authorization, ' ');
  return EqualsIgnoreCase(scheme, kScheme) ? Stripped(authorization) : std::string_view();
}

bool Equal(const Sha256Digest& a, const Sha256Digest& b) {
  std::uint8_t difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<std::uint8_t>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

}  // namespace

absl::StatusOr<ApiKeys::Digests> ApiKeys::Parse(std::string_view text, const std::string& path) {
  Digests digests;
  for (int number = 1; !text.empty(); ++number) {
    std::string_view line = NextPart(text, '\n');
    if (line.ends_with('\r')) line.remove_suffix(1);
    line = Stripped(line);
    if (line.empty() || line.front() == '#') continue;
    const bool visible =
        std::all_of(line.begin(), line.end(), [](char c) { return c > ' ' && c <= '~'; });
    if (!visible || line.size() < kMinKeyBytes || line.size() > kMaxKeyBytes) {
      return absl::InvalidArgumentError(
          Concat("API keys '", path, "' line ", number, ": expected a key of ", kMinKeyBytes,
                 " to ", kMaxKeyBytes, " visible ASCII characters, got ", line.size(),
                 visible ? " characters" : " bytes with others among them"));
    }
    digests.push_back(DigestOf(line));
  }
  if (digests.empty()) {
    return absl::InvalidArgumentError(Concat("API keys '", path, "': expected a key, got none"));
  }
  return digests;
}

absl::Status ApiKeys::Load(const std::string& path) {
  std::shared_ptr<const Digests> digests;
  if (!path.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
    SIGLIP_ASSIGN_OR_RETURN(Digests parsed, Parse(text, path));
    digests = std::make_shared<const Digests>(std::move(parsed));
  }
  MutexLock lock(mu_);
  digests_ = std::move(digests);
  return absl::OkStatus();
}

bool ApiKeys::asked_for() const {
  MutexLock lock(mu_);
  return digests_ != nullptr;
}

ApiKeys::Verdict ApiKeys::Check(std::optional<std::string_view> authorization) const {
  std::shared_ptr<const Digests> digests;
  {
    MutexLock lock(mu_);
    digests = digests_;
  }
  if (digests == nullptr) return Verdict::kAllowed;
  const std::string_view key = BearerKey(authorization.value_or(""));
  if (key.empty()) return Verdict::kMissing;
  const Sha256Digest given = DigestOf(key);
  bool known = false;
  for (const Sha256Digest& digest : *digests) known |= Equal(digest, given);
  return known ? Verdict::kAllowed : Verdict::kWrong;
}

std::string_view ApiKeyRefusal(ApiKeys::Verdict verdict) {
  return verdict == ApiKeys::Verdict::kMissing ? "an API key is needed: Authorization: Bearer <key>"
                                               : "the API key is not known";
}

std::string_view ApiKeyChallenge(ApiKeys::Verdict verdict) {
  return verdict == ApiKeys::Verdict::kMissing ? R"(Bearer realm="siglip")"
                                               : R"(Bearer realm="siglip", error="invalid_token")";
}

}  // namespace siglip
