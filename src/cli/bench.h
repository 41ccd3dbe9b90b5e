#pragma once

// The subcommands of `siglip bench`, and what they share.

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/samples.h"

namespace siglip::cli {

void AddBenchEngineCommand(CLI::App& bench, RunCommand& run);
void AddBenchKnnCommand(CLI::App& bench, RunCommand& run);
void AddBenchPreprocessCommand(CLI::App& bench, RunCommand& run);
void AddBenchSearchCommand(CLI::App& bench, RunCommand& run);
void AddBenchServerCommand(CLI::App& bench, RunCommand& run);

// Of --seconds: from 0 to a million.
CLI::Validator BenchSeconds();

}  // namespace siglip::cli
