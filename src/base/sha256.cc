#include "base/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace siglip {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  SIGLIP_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;

void Sha256::Add(std::string_view bytes) {
  SIGLIP_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

void Sha256::AddField(std::string_view bytes) {
  Add(absl::StrCat(bytes.size(), ":"));
  Add(bytes);
}

Sha256Digest Sha256::Digest() {
  Sha256Digest digest;
  unsigned int size = 0;
  SIGLIP_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), &size) == 1);
  SIGLIP_CHECK(size == digest.size());
  return digest;
}

std::string Sha256::Hex() {
  std::string hex;
  for (const std::uint8_t byte : Digest()) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.Add(bytes);
  return hash.Hex();
}

}  // namespace siglip
