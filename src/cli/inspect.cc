// `siglip inspect`: what a checkpoint folder is and whether it is complete.

#include <cstdio>
#include <memory>
#include <string>

#include "api/inspect.h"
#include "cli/commands.h"

namespace siglip::cli {

void AddInspectCommand(CLI::App& app, RunCommand& run) {
  struct Flags {
    std::string directory;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("inspect", "Tell what a checkpoint folder is and whether it is complete");
  command->add_option("directory", flags->directory, "A Hugging Face snapshot folder")->required();
  command->add_flag("--json", flags->json, "As one JSON object");
  command->footer(
      "Exit code 1 if the folder is not a complete checkpoint; every problem is listed.");
  command->callback([flags, &run] {
    run = [flags] {
      const InspectReport report = InspectCheckpoint(flags->directory);
      std::fputs((flags->json ? report.Json() : report.Text()).c_str(), stdout);
      return report.ok() ? kSuccess : kFailure;
    };
  });
}

}  // namespace siglip::cli
