#pragma once

// The subcommands of `siglip`. Each registers its flags and, when it was chosen, sets `run`.

#include <functional>

#include <CLI/CLI.hpp>

namespace siglip::cli {

// What a process ends with.
enum ExitCode {
  kSuccess = 0,
  kFailure = 1,     // nothing, or not all, was done: the error is on stderr
  kUsage = 2,       // the command line is wrong
  kSomeFailed = 3,  // a bulk job ended, with a list of items that failed
};

// Set by the chosen subcommand; returns an ExitCode.
using RunCommand = std::function<int()>;

void AddServeCommand(CLI::App& app, RunCommand& run);
void AddEmbedCommand(CLI::App& app, RunCommand& run);
void AddClassifyCommand(CLI::App& app, RunCommand& run);
void AddIndexCommand(CLI::App& app, RunCommand& run);
void AddSearchCommand(CLI::App& app, RunCommand& run);
void AddInspectCommand(CLI::App& app, RunCommand& run);
void AddValidateCommand(CLI::App& app, RunCommand& run);
void AddSampleImagenetCommand(CLI::App& app, RunCommand& run);
void AddBenchCommand(CLI::App& app, RunCommand& run);

}  // namespace siglip::cli
