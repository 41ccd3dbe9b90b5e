// `siglip inspect`: what a checkpoint folder is and whether it is complete.

#include <cstdio>
#include <memory>
#include <string>

#include "api/inspect.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "siglip/siglip.h"

namespace siglip::cli {
namespace {

// What a server of the folder would compute in.
void DescribeEngine(const std::string& precision, InspectReport& report) {
  if (!report.ok()) return;
  const auto model = Model::Open(report.directory, {.precision = precision});
  if (!model.ok()) {
    report.problems.emplace_back(model.status().message());
    return;
  }
  const ModelInfo& info = (*model)->info();
  report.facts.emplace_back("engine", info.engine);
  if (!info.precision_choice.empty()) {
    report.facts.emplace_back("precision auto", info.precision_choice);
  }
}

}  // namespace

void AddInspectCommand(CLI::App& app, RunCommand& run) {
  struct Flags {
    std::string directory;
    std::string precision;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("inspect", "Tell what a checkpoint folder is and whether it is complete");
  command->add_option("directory", flags->directory, "A Hugging Face snapshot folder")->required();
  command
      ->add_option("--precision", flags->precision,
                   "Load it too, and tell what it is computed in: a --precision of serve")
      ->check(PrecisionNames());
  command->add_flag("--json", flags->json, "As one JSON object");
  command->footer(
      "Exit code 1 if the folder is not a complete checkpoint; every problem is listed.");
  command->callback([flags, &run] {
    run = [flags] {
      InspectReport report = InspectCheckpoint(flags->directory);
      if (!flags->precision.empty()) DescribeEngine(flags->precision, report);
      std::fputs((flags->json ? report.Json() : report.Text()).c_str(), stdout);
      return report.ok() ? kSuccess : kFailure;
    };
  });
}

}  // namespace siglip::cli
