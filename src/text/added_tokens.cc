#include "text/added_tokens.h"

#include <algorithm>

namespace siglip {

AddedTokenMatcher::AddedTokenMatcher(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::erase_if(entries_, [](const Entry& entry) { return entry.content.empty(); });
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.content < b.content; });
  const auto equal = [](const Entry& a, const Entry& b) { return a.content == b.content; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), equal), entries_.end());
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const auto found = by_first_.try_emplace(entries_[i].content.front(), i, i).first;
    found->second.second = i + 1;
  }
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::At(std::u32string_view text,
                                                              std::size_t at) const {
  const auto range = by_first_.find(text[at]);
  if (range == by_first_.end()) return std::nullopt;
  auto first = entries_.begin() + static_cast<std::ptrdiff_t>(range->second.first);
  auto last = entries_.begin() + static_cast<std::ptrdiff_t>(range->second.second);
  std::optional<Match> longest;
  // Those from first to last begin with the `length` characters at `at`.
  for (std::size_t length = 1; first != last; ++length) {
    if (first->content.size() == length) longest = Match{(first++)->token, length};
    if (at + length == text.size()) break;
    const char32_t next = text[at + length];
    first = std::lower_bound(first, last, next, [&](const Entry& entry, char32_t c) {
      return entry.content[length] < c;
    });
    last = std::upper_bound(first, last, next, [&](char32_t c, const Entry& entry) {
      return c < entry.content[length];
    });
  }
  return longest;
}

}  // namespace siglip
