// For tests/oracle and tools: tokenizes what Python sends.
//   tokenize_dump DIR T < records > lines
// A record is a little-endian uint32 length and as many bytes; a line is the un-padded ids, or
// "error: ...".

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <string>

#include "text/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tokenize_dump DIR T\n";
    return 2;
  }
  const auto tokenizer = siglip::Tokenizer::Open(argv[1], std::atoll(argv[2]),
                                                 std::numeric_limits<std::int32_t>::max());
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << '\n';
    return 1;
  }
  std::uint32_t length = 0;
  while (std::cin.read(reinterpret_cast<char*>(&length), sizeof(length))) {
    std::string text(length, '\0');
    if (!std::cin.read(text.data(), length)) return 1;
    const auto ids = (*tokenizer)->EncodeUnpadded(text);
    if (!ids.ok()) {
      std::cout << "error: " << ids.status().message() << '\n';
      continue;
    }
    for (std::size_t i = 0; i < ids->size(); ++i) std::cout << (i > 0 ? " " : "") << (*ids)[i];
    std::cout << '\n';
  }
  return 0;
}
