#pragma once

// SHA-256 in hex, for comparing with goldens. Tests only.

#include <cstddef>
#include <string>

#include <openssl/sha.h>

namespace siglip {

inline std::string Sha256Hex(const void* data, std::size_t size) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(static_cast<const unsigned char*>(data), size, digest);
  std::string hex;
  for (const unsigned char byte : digest) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

}  // namespace siglip
