#pragma once

// 64-bit FNV-1a: names and checksums, nothing that an attacker could gain from.

#include <cstdint>
#include <string_view>

namespace siglip::cli {

inline constexpr std::uint64_t kFnvStart = 14695981039346656037u;

// Continues from `hash`.
inline std::uint64_t Fnv(std::string_view bytes, std::uint64_t hash = kFnvStart) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

}  // namespace siglip::cli
