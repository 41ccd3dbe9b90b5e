#pragma once

// Options that take one of some words.

#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

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

}  // namespace siglip::cli
