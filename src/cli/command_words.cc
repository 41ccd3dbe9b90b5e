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

// True for an option of any command whose value is the next word.
bool TakesNextWord(const CLI::App& app, const std::string& word) {
  if (!word.starts_with('-')) return false;
  const CLI::Option* const option = app.get_option_no_throw(word);
  if (option != nullptr && option->get_items_expected_min() > 0) return true;
  const std::vector<const CLI::App*> commands =
      app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(commands.begin(), commands.end(),
                     [&word](const CLI::App* command) { return TakesNextWord(*command, word); });
}

// By CLI11's names for what it makes of a word.
bool IsNumberOrSwitch(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  for (const char* name : {"INT", "UINT", "FLOAT", "BOOLEAN"}) {
    if (type == name || type.starts_with(std::string(name) + ":")) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> MarkedWords(const CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> words;
  bool options = true;
  bool is_value = false;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    const bool was_value = is_value;
    is_value = options && !was_value && TakesNextWord(app, word);
    if (options && !was_value && word == "--") {
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
        [needs_text = IsNumberOrSwitch(*option)](std::string& word) {
          word = Unmarked(word);
          return std::string(needs_text && word.empty() ? "expected a value, got none" : "");
        },
        ""));
  }
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    TakeMarkedWords(*command);
  }
}

}  // namespace siglip::cli
