#include "cli/help_format.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cli/choices.h"

namespace siglip::cli {
namespace {

TEST(HelpFormatTest, HeadingsKeepTheirOrderAndOptionsSayWhatTheyTake) {
  CLI::App app(
      "Does something that takes a sentence of more than eighty bytes to be told to anybody.",
      "program");
  app.formatter(std::make_shared<HelpFormatter>());
  std::vector<std::string> paths;
  std::string path, word = "one", other;
  int number = 3;
  std::uint16_t port = 80;
  bool on = true, flag = false;
  app.add_option("paths", paths, "What is read");
  CLI::Option_group* group = app.add_option_group("Queries");
  group->add_option("--text", other, "A text");
  group->require_option(1);
  BeginGroup(app, "Second first");
  app.add_option("--path", path, "A path")->type_name("FILE")->required();
  CLI::Option* const option =
      app.add_option("--number", number,
                     "One of many that are told at a length that does not fit into one line")
          ->check(CLI::Range(0, 8))
          ->capture_default_str();
  app.add_option("--port", port, "A port")->check(CLI::PositiveNumber)->capture_default_str();
  BeginGroup(app, "First second");
  app.add_option("--a-name-of-some-length", on, "A switch")->capture_default_str();
  app.add_option("--word", word, "A word")->check(CLI::IsMember({"one", "two"}));
  app.add_option("--chosen", other, "Another")
      ->transform(OneOf<int>({{"a", 0}}))
      ->type_name("LEVEL")
      ->excludes(option);
  app.add_flag("-f,--flag", flag, "A flag");
  app.add_option("--hidden", other, "None")->group("");
  BeginGroup(app, kGeneralHeading);
  app.set_help_flag("-h,--help", "Help");
  app.footer("The end.");
  EXPECT_EQ(app.help(),
            R"(Does something that takes a sentence of more than eighty bytes to be told to
anybody.
Usage: program [OPTIONS] [paths...]

Positionals:
  paths...                    What is read

Queries (one of them):
  --text TEXT                 A text

Second first:
  --path FILE                 A path [required]
  --number N                  One of many that are told at a length that does
                              not fit into one line [0 to 8; default: 3; not
                              with --chosen]
  --port N                    A port [default: 80]

First second:
  --a-name-of-some-length true|false
                              A switch [default: true]
  --word one|two              A word
  --chosen LEVEL              Another [not with --number]
  -f,--flag                   A flag

General:
  -h,--help                   Help

The end.
)");
}

TEST(HelpFormatTest, CommandsAreListed) {
  CLI::App app("", "program");
  app.formatter(std::make_shared<HelpFormatter>());
  app.add_subcommand("first", "Does this");
  app.add_subcommand("second", "Does that");
  app.require_subcommand(1);
  EXPECT_EQ(app.help(), R"(Usage: program [OPTIONS] SUBCOMMAND

Options:
  -h,--help                   Print this help message and exit

Subcommands:
  first                       Does this
  second                      Does that

)");
}

}  // namespace
}  // namespace siglip::cli
