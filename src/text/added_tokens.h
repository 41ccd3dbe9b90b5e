#pragma once

// Finds the tokens that a tokenizer looks for in a text before anything else is done to it.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace siglip {

// Thread-safe.
class AddedTokenMatcher {
 public:
  struct Entry {
    std::u32string content;
    std::size_t token = 0;  // the caller's number
  };
  AddedTokenMatcher() = default;
  // Empty contents are never found; of equal ones the first is.
  explicit AddedTokenMatcher(std::vector<Entry> entries);

  struct Match {
    std::size_t token = 0;
    std::size_t length = 0;
  };
  // The longest that begins at text[at]. O(its length * log(number of entries)).
  std::optional<Match> At(std::u32string_view text, std::size_t at) const;

 private:
  std::vector<Entry> entries_;  // by content
  // The entries that begin so: first, and past the last. Gemma has hundreds, of which a place in a
  // text begins none, mostly.
  std::unordered_map<char32_t, std::pair<std::size_t, std::size_t>> by_first_;
};

}  // namespace siglip
