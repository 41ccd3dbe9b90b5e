// `siglip bench`: how fast the parts are on this machine. Peers are measured by the scripts in
// bench/.

#include "cli/bench.h"

#include "absl/strings/numbers.h"
#include "cli/commands.h"

namespace siglip::cli {

CLI::Validator BenchSeconds() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        double seconds = 0;
        if (absl::SimpleAtod(text, &seconds) && seconds >= 0 && seconds <= 1e6) return {};
        return "expected 0 to 1000000, got " + text;
      },
      "");
}

void AddBenchCommand(CLI::App& app, RunCommand& run) {
  CLI::App* command =
      app.add_subcommand("bench", "Measure engine, preprocessing, kNN, search or a server");
  command->require_subcommand(1);
  AddBenchEngineCommand(*command, run);
  AddBenchKnnCommand(*command, run);
  AddBenchPreprocessCommand(*command, run);
  AddBenchSearchCommand(*command, run);
  AddBenchServerCommand(*command, run);
}

}  // namespace siglip::cli
