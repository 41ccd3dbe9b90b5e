#pragma once

// SHA-256: what tells contents apart even when somebody wants two to be taken for one.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace siglip {

using Sha256Digest = std::array<std::uint8_t, 32>;

// Of what is added. Confined to one thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(std::string_view bytes);
  // `bytes` with its length in front, so that "a","b" and "ab","" differ.
  void AddField(std::string_view bytes);
  // Nothing is added after it, and one of the two is called once.
  Sha256Digest Digest();
  std::string Hex();  // in lower case

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

// Of `bytes` alone, in lower case.
std::string Sha256Hex(std::string_view bytes);

}  // namespace siglip
