#include "cli/help_format.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace siglip::cli {
namespace {

// More than these are not listed: each of them names this one.
constexpr std::size_t kMaxExcluded = 2;
// A terminal that nobody made wider.
constexpr std::size_t kWidth = 80;
// Where what an option does begins.
constexpr std::size_t kColumn = 30;

// `text` in lines of at most `width` bytes, as far as its words allow. Lines that it has stay.
std::vector<std::string> Wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines;
  for (const std::string& paragraph : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
    std::string line;
    for (const std::string& word : std::vector<std::string>(absl::StrSplit(paragraph, ' '))) {
      if (!line.empty() && line.size() + 1 + word.size() > width) {
        lines.push_back(std::exchange(line, ""));
      }
      absl::StrAppend(&line, line.empty() ? "" : " ", word);
    }
    lines.push_back(line);
  }
  return lines;
}

std::string Paragraph(const std::string& text) {
  return text.empty() ? "" : absl::StrCat(absl::StrJoin(Wrapped(text, kWidth), "\n"), "\n");
}

// "  --name VALUE   what it does"
std::string Entry(const std::string& head, const std::string& text) {
  std::string entry = absl::StrCat("  ", head);
  // At least two spaces between them, else the text begins in a line of its own.
  if (entry.size() + 2 > kColumn) {
    absl::StrAppend(&entry, "\n", std::string(kColumn, ' '));
  } else {
    entry.resize(kColumn, ' ');
  }
  const std::string indent = "\n" + std::string(kColumn, ' ');
  return absl::StrCat(entry, absl::StrJoin(Wrapped(text, kWidth - kColumn), indent), "\n");
}

// What an option takes, from CLI11's text for it: the type, and behind a colon what its checks say
// of themselves, "{a,b}" or "INT in [1 - 8]".
struct Value {
  std::string label;
  std::string range;  // "1 to 8"; "" if it is not limited
};

Value ValueOf(const CLI::Option& option) {
  const std::string text = option.get_type_name();
  const std::size_t colon = std::min(text.find(':'), text.size());
  const std::string type = text.substr(0, colon);
  const bool number = type == "INT" || type == "UINT" || type == "FLOAT";
  if (type == "BOOLEAN") return {"true|false", ""};
  if (!number && type != "TEXT") return {type, ""};  // its own words
  const std::string checks = text.substr(colon);
  if (checks.starts_with(":{") && checks.ends_with('}')) {
    return {absl::StrReplaceAll(checks.substr(2, checks.size() - 3), {{",", "|"}}), ""};
  }
  Value value{number ? "N" : "TEXT", ""};
  const std::size_t range = checks.find(" in [");
  if (range != std::string::npos) {
    const std::size_t begin = range + 5;
    value.range = absl::StrReplaceAll(checks.substr(begin, checks.find(']', begin) - begin),
                                      {{" - ", " to "}});
  }
  return value;
}

std::string DefaultOf(const CLI::Option& option) {
  const std::string text = option.get_default_str();
  if (!option.get_type_name().starts_with("BOOLEAN")) return text;
  return text == "0" || text == "false" ? "false" : "true";
}

std::string EntryOf(const CLI::Option& option, bool positional) {
  std::string head = option.get_name(positional, !positional);
  std::vector<std::string> notes;
  if (option.get_required()) notes.push_back("required");
  if (option.get_type_size() != 0) {
    const Value value = ValueOf(option);
    if (!positional) absl::StrAppend(&head, " ", value.label);
    if (!value.range.empty()) notes.push_back(value.range);
    if (!option.get_default_str().empty()) {
      notes.push_back(absl::StrCat("default: ", DefaultOf(option)));
    }
  }
  if (positional && option.get_expected_max() > 1) head += "...";
  std::vector<std::string> others;
  for (const CLI::Option* other : option.get_excludes()) others.push_back(other->get_name());
  std::sort(others.begin(), others.end());  // CLI11 keeps a set of addresses
  if (!others.empty() && others.size() <= kMaxExcluded)
    notes.push_back(absl::StrCat("not with ", absl::StrJoin(others, ", ")));
  return Entry(head, notes.empty() ? option.get_description()
                                   : absl::StrCat(option.get_description(), " [",
                                                  absl::StrJoin(notes, "; "), "]"));
}

std::string Group(const std::string& heading, const std::vector<const CLI::Option*>& options,
                  bool positional = false) {
  if (options.empty()) return "";
  std::string text = absl::StrCat("\n", heading, ":\n");
  for (const CLI::Option* option : options) text += EntryOf(*option, positional);
  return text;
}

bool IsShown(const CLI::Option* option) { return !option->get_group().empty(); }

std::string Options(const CLI::App& app) {
  std::string text = Group("Positionals", app.get_options([](const CLI::Option* option) {
    return IsShown(option) && option->get_positional();
  }),
                           true);
  // CLI11's groups with rules of their own are commands without a name.
  for (const CLI::App* group :
       app.get_subcommands([](const CLI::App* command) { return command->get_name().empty(); })) {
    const bool one = group->get_require_option_max() == 1;
    text += Group(absl::StrCat(group->get_group(), one ? " (one of them)" : " (at least one)"),
                  group->get_options([group](const CLI::Option* option) {
                    return IsShown(option) && option != group->get_help_ptr();
                  }));
  }
  for (const std::string& heading : app.get_groups()) {
    text += Group(heading, app.get_options([&heading](const CLI::Option* option) {
      return IsShown(option) && option->nonpositional() && option->get_group() == heading;
    }));
  }
  return text;
}

std::string Subcommands(const CLI::App& app) {
  std::string text;
  for (const CLI::App* command :
       app.get_subcommands([](const CLI::App* found) { return !found->get_name().empty(); })) {
    text += Entry(command->get_name(), command->get_description());
  }
  return text.empty() ? text : "\nSubcommands:\n" + text;
}

}  // namespace

std::string HelpFormatter::make_help(const CLI::App* app, std::string name,
                                     CLI::AppFormatMode) const {
  return absl::StrCat(Paragraph(app->get_description()), make_usage(app, std::move(name)),
                      Options(*app), Subcommands(*app), "\n", Paragraph(app->get_footer()));
}

}  // namespace siglip::cli
