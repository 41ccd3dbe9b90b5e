#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

namespace siglip {

void AddedTokenMatcher::Add(std::u32string content, std::size_t token) {
  if (content.empty()) return;
  std::vector<Entry>& entries = by_first_[content.front()];
  const auto shorter = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.content.size() < content.size();
  });
  entries.insert(shorter, {std::move(content), token});
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::At(std::u32string_view text,
                                                              std::size_t at) const {
  const auto entries = by_first_.find(text[at]);
  if (entries == by_first_.end()) return std::nullopt;
  for (const Entry& entry : entries->second) {
    if (text.substr(at, entry.content.size()) == entry.content) {
      return Match{entry.token, entry.content.size()};
    }
  }
  return std::nullopt;
}

}  // namespace siglip
