#pragma once

// A fast hash that recognises content: damage, truncation, another version. Not against forgery.

#include <cstddef>
#include <cstdint>
#include <span>

namespace siglip {

// Every step is a bijection of the word it takes in, so a change within one aligned 8-byte word,
// any flipped bit among them, always changes the result; any other change does but for one case in
// 2^64. Equal on all little-endian machines and for any alignment of `bytes`.
std::uint64_t ContentHash(std::span<const std::byte> bytes, std::uint64_t seed = 0);

}  // namespace siglip
