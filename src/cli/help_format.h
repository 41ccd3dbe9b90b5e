#pragma once

// How every --help looks: options under headings, in the order in which they were added, wrapped
// to the width of a terminal; of each what it takes, what it does, and its limits and default.

#include <string>

#include <CLI/CLI.hpp>

namespace siglip::cli {

// Headings that several commands have.
inline constexpr const char* kInputsHeading = "Inputs";
inline constexpr const char* kOutputHeading = "Output";
inline constexpr const char* kModelHeading = "Model";
inline constexpr const char* kComputingHeading = "Computing";
inline constexpr const char* kPicturesHeading = "Pictures";
inline constexpr const char* kGeneralHeading = "General";

// Options that are added from now on stand under it.
inline void BeginGroup(CLI::App& command, const char* heading) {
  command.option_defaults()->group(heading);
}

class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override;
};

}  // namespace siglip::cli
