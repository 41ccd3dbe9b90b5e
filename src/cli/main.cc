// The program `siglip`: parses the command line and runs one subcommand.

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "base/bus_error.h"
#include "base/log.h"
#include "cli/choices.h"
#include "cli/command_words.h"
#include "cli/commands.h"
#include "cli/help_format.h"
#include "cli/version.h"
#include "workers/decode_worker.h"

namespace {

// What the command line has and no option or subcommand takes; "" if there is nothing.
std::string FirstUnknown(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands()) {
    if (std::string unknown = FirstUnknown(*command); !unknown.empty()) return unknown;
  }
  const std::vector<std::string> unknown = app.remaining();
  return unknown.empty() ? std::string() : siglip::cli::Unmarked(unknown.front());
}

// What the program and every command of it take; CLI11's fallthrough would hand positional words to
// the program too.
void AddCommonFlags(CLI::App& app, siglip::LogLevel& log_level) {
  siglip::cli::BeginGroup(app, siglip::cli::kGeneralHeading);
  app.set_help_flag("-h,--help", "Print this help and exit");  // once more: at the end, with these
  app.set_version_flag(
      "--version", [] { return siglip::cli::VersionText(); },
      "Print version, compiler, instruction sets and codec libraries");
  app.add_option("--log-level", log_level, "debug, info, warn, error or off")
      ->transform(siglip::cli::OneOf<siglip::LogLevel>({{"debug", siglip::LogLevel::kDebug},
                                                        {"info", siglip::LogLevel::kInfo},
                                                        {"warn", siglip::LogLevel::kWarn},
                                                        {"error", siglip::LogLevel::kError},
                                                        {"off", siglip::LogLevel::kOff}}))
      ->type_name("LEVEL")
      ->default_str("info");
  // Groups of options are nameless commands.
  const auto named = [](const CLI::App* command) { return !command->get_name().empty(); };
  for (CLI::App* command : app.get_subcommands(named)) AddCommonFlags(*command, log_level);
}

// The first process of a container has no default actions: a signal that it does not handle is
// ignored, so a job would outlive Ctrl-C and `docker stop`. `serve` blocks these and reads them.
void EndAtSignalsAsFirstProcess() {
  if (::getpid() != 1) return;
  for (const int number : {SIGHUP, SIGINT, SIGTERM}) {
    std::signal(number, [](int signal) { ::_exit(128 + signal); });
  }
}

int Main(int argc, char** argv) {
  CLI::App app(
      "SigLIP image and text embeddings: equal to Hugging Face and Pillow, served as Triton "
      "does, in one native program.",
      "siglip");
  app.formatter(std::make_shared<siglip::cli::HelpFormatter>());
  app.require_subcommand(1);
  app.fallthrough(false);
  app.footer(
      "Exit codes: 0 success, 1 failure, 2 wrong command line, 3 done but some items failed.\n"
      "`siglip COMMAND --help` shows a command's options. Of outputs, - is standard output for "
      "`embed -o` alone; lists of inputs may come from standard input (--files-from -, "
      "--texts-from -).");
  siglip::LogLevel log_level = siglip::LogLevel::kInfo;
  siglip::cli::RunCommand run;
  siglip::cli::AddServeCommand(app, run);
  siglip::cli::AddEmbedCommand(app, run);
  siglip::cli::AddClassifyCommand(app, run);
  siglip::cli::AddIndexCommand(app, run);
  siglip::cli::AddSearchCommand(app, run);
  siglip::cli::AddInspectCommand(app, run);
  siglip::cli::AddValidateCommand(app, run);
  siglip::cli::AddSampleImagenetCommand(app, run);
  siglip::cli::AddBenchCommand(app, run);
  AddCommonFlags(app, log_level);
  siglip::cli::TakeMarkedWords(app);
  try {
    app.parse(siglip::cli::MarkedWords(app, argc, argv));
  } catch (const CLI::ParseError& error) {
    // A misspelt option is also a missing one; the word itself tells more.
    const std::string unknown = FirstUnknown(app);
    if (!unknown.empty() && error.get_exit_code() != static_cast<int>(CLI::ExitCodes::Success)) {
      std::cerr << "error: unknown argument \"" << siglip::Printable(unknown) << "\"\n"
                << "Run with --help for more information.\n";
      return siglip::cli::kUsage;
    }
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      app.exit(error);  // prints what --help or --version asks for
      return siglip::cli::kSuccess;
    }
    std::cerr << "error: " << siglip::Printable(error.what()) << '\n'
              << (argc < 2 ? app.help() : "Run with --help for more information.\n");
    return siglip::cli::kUsage;
  }
  siglip::ConfigureLog(log_level);
  siglip::ReportBusErrors();
  // A file that grows past the limit of `ulimit -f` is then an error like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  EndAtSignalsAsFirstProcess();
  return run();
}

// A standard descriptor that the caller closed goes to the first file that is opened, and whatever
// is printed later ends in that file. So each is held by a /dev/null that is open the wrong way
// round: reading and printing fail as on a closed one. Lines for stderr have nobody to tell. False
// if the system has no /dev/null.
bool HoldStandardDescriptors() {
  constexpr int kModes[] = {O_WRONLY, O_RDONLY, O_WRONLY};
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    const int flags = ::fcntl(descriptor, F_GETFD);
    // What is closed on exec was not inherited, but opened by a library before main: an eventfd
    // that libgrpc tries is left open if its number is 0.
    if (flags >= 0 && (flags & FD_CLOEXEC) == 0) continue;
    if (flags >= 0) ::close(descriptor);
    // The lowest free number is handed out, which is this one.
    if (::open("/dev/null", kModes[descriptor]) != descriptor) return false;
  }
  return true;
}

// What could not be printed (disk full, reader gone) is no success.
int Flushed(int exit_code) {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::cout && std::ferror(stdout) == 0) return exit_code;
  if (exit_code == siglip::cli::kFailure || exit_code == siglip::cli::kUsage) return exit_code;
  std::cerr << "error: stdout: writing failed (disk full, or reader gone?)\n";
  return siglip::cli::kFailure;
}

}  // namespace

int main(int argc, char** argv) {
  if (!HoldStandardDescriptors()) return siglip::cli::kFailure;
  // Not a subcommand: nobody types it, and nothing else may run before the sandbox is entered.
  if (argc == 2 && argv[1] == siglip::kDecodeWorkerArgument) return siglip::RunDecodeWorker();
  try {
    return Flushed(Main(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return siglip::cli::kFailure;
  }
}
