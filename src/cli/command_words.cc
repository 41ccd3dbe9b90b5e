#include "cli/command_words.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace siglip::cli {
namespace {

// No word of argv can hold it.
constexpr char kMark = '\0';

// Where the mark of a word goes; npos if it needs none.
std::size_t MarkPlace(std::string_view word) {
  if (word.starts_with('[') || word == "++") return 0;
  const std::size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;
  const bool misread = value > 0 && (value == word.size() || word[value] == '[');
  return misread ? value : std::string_view::npos;
}

}  // namespace

std::vector<std::string> MarkedWords(int argc, const char* const* argv) {
  std::vector<std::string> words;
  bool options = true;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (options && word == "--") {
      options = false;
      continue;
    }
    const std::size_t place = options ? MarkPlace(word) : 0;
    if (place != std::string_view::npos) word.insert(place, 1, kMark);
    words.push_back(std::move(word));
  }
  std::reverse(words.begin(), words.end());
  return words;
}

std::string Unmarked(std::string_view word) {
  std::string text(word);
  std::erase(text, kMark);
  return text;
}

void TakeMarkedWords(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    // Before what else looks at the value.
    option->transform(CLI::Validator(
        [](std::string& word) {
          word = Unmarked(word);
          return std::string();
        },
        ""));
  }
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    TakeMarkedWords(*command);
  }
}

}  // namespace siglip::cli
