#pragma once

// The words of the command line, taken as they stand. CLI11 2.1 reads a syntax of its own into
// some:
//   [a,b]      several values, where an option takes many: a folder "[2020]" would be "2020"
//   --name=    an option whose value is the next word
//   --port ""  0, and false of a switch
//   ++         the end of a command
//   -- -x.jpg  once an image was named, words of the program and not of its command

#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace siglip::cli {

// What app.parse takes: the words of argv but the program's name, the last one first. Words that
// would be misread are marked. A "--" that is no option's value is left out: all words behind it
// are marked, so that they are no options.
std::vector<std::string> MarkedWords(const CLI::App& app, int argc, const char* const* argv);
// The word as it was typed.
std::string Unmarked(std::string_view word);
// Lets every option of `app` and of its commands take marked words, and those of numbers and
// switches refuse the empty one. REQUIRES: all were added.
void TakeMarkedWords(CLI::App& app);

}  // namespace siglip::cli
