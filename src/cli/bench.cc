// `siglip bench`: how fast the parts are on this machine. Peers are measured by the scripts in
// bench/.

#include "cli/bench.h"
#include "cli/commands.h"

namespace siglip::cli {

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
