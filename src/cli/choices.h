#pragma once

// Kinds of options that several commands have.

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace siglip::cli {

// For CLI::Option::transform: the words alone, in help and errors too; CLI11's own takes the
// numbers behind them as well and shows both.
template <class T>
CLI::Validator OneOf(std::vector<std::pair<std::string, T>> choices) {
  return CLI::Validator(
      [choices = std::move(choices)](std::string& word) -> std::string {
        std::vector<std::string> words;
        for (const auto& [name, value] : choices) {
          if (name == word) {
            word = absl::StrCat(static_cast<int>(value));
            return {};
          }
          words.push_back(name);
        }
        return absl::StrCat("expected ", absl::StrJoin(words, " or "), ", got \"", word, "\"");
      },
      "");
}

// For CLI::Option::check: a number of at least `least`. CLI11's own names the largest double too.
inline CLI::Validator AtLeast(int least) {
  return CLI::Validator(
      [least](const std::string& word) -> std::string {
        double number = 0;
        if (absl::SimpleAtod(word, &number) && std::isfinite(number) && number >= least) return {};
        return absl::StrCat("expected a number of at least ", least, ", got \"", word, "\"");
      },
      "");
}

// An option that may be given again for one more value. It takes one word each time: what follows
// is another option, or a path.
inline CLI::Option* AddRepeatable(CLI::App& command, const std::string& names,
                                  std::vector<std::string>& values, const std::string& text) {
  return command.add_option(names, values, text)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace siglip::cli
