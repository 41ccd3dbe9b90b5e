#pragma once

// Finds the tokens that a tokenizer looks for in a text before anything else is done to it.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace siglip {

// Thread-safe once filled.
class AddedTokenMatcher {
 public:
  // `token` is the caller's number. Empty contents are never found; of equal ones the first added
  // is.
  void Add(std::u32string content, std::size_t token);

  struct Match {
    std::size_t token = 0;
    std::size_t length = 0;
  };
  // The longest that begins at text[at].
  std::optional<Match> At(std::u32string_view text, std::size_t at) const;

 private:
  struct Entry {
    std::u32string content;
    std::size_t token = 0;
  };
  // Gemma has hundreds, of which a place in a text begins none, mostly.
  std::unordered_map<char32_t, std::vector<Entry>> by_first_;  // longest first
};

}  // namespace siglip
