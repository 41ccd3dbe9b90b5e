#include "cli/command_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip::cli {
namespace {

using testing::ElementsAre;

struct Parsed {
  std::vector<std::string> paths, texts, lists;
  std::string one = "default";
  int number = 1;
  bool on = true;
  bool flag = false;
};

// The program with a command "c" that takes paths, as embed does.
Parsed Parse(std::vector<const char*> words) {
  Parsed parsed;
  CLI::App app("test", "test");
  app.require_subcommand(1);
  CLI::App* command = app.add_subcommand("c");
  command->add_option("paths", parsed.paths);
  command->add_option("--text", parsed.texts)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--list", parsed.lists);
  command->add_option_group("group")->add_option("--one", parsed.one);
  command->add_flag("--flag", parsed.flag);
  command->add_option("--number", parsed.number);
  command->add_option("--on", parsed.on);
  TakeMarkedWords(app);
  words.insert(words.begin(), {"program", "c"});
  app.parse(MarkedWords(app, static_cast<int>(words.size()), words.data()));
  return parsed;
}

TEST(CommandWordsTest, BracketsAreNoLists) {
  EXPECT_THAT(Parse({"[2020]", "[a,b]/c.png", "[]", "x"}).paths,
              ElementsAre("[2020]", "[a,b]/c.png", "[]", "x"));
  EXPECT_THAT(Parse({"--text", "[{text}, a photo]", "--text=[a,b]", "p"}).texts,
              ElementsAre("[{text}, a photo]", "[a,b]"));
  EXPECT_THAT(Parse({"--list", "[a,b]", "[c]", "--list=[d,e]"}).lists,
              ElementsAre("[a,b]", "[c]", "[d,e]"));
  EXPECT_EQ(Parse({"--one", "[a,b]"}).one, "[a,b]");
  EXPECT_EQ(Parse({"--one=[a,b]"}).one, "[a,b]");
}

TEST(CommandWordsTest, NothingBehindTheSignIsTheEmptyWord) {
  const Parsed parsed = Parse({"--text=", "p", "--one=", "--text", "", "q"});
  EXPECT_THAT(parsed.texts, ElementsAre("", ""));
  EXPECT_THAT(parsed.paths, ElementsAre("p", "q"));
  EXPECT_EQ(parsed.one, "");
}

TEST(CommandWordsTest, BehindTwoDashesNothingIsAnOption) {
  EXPECT_THAT(Parse({"a", "--", "-b", "--flag", "--", "[c]", "++", "c"}).paths,
              ElementsAre("a", "-b", "--flag", "--", "[c]", "++", "c"));
  EXPECT_FALSE(Parse({"--", "--flag"}).flag);
  EXPECT_THAT(Parse({"++", "--flag"}).paths, ElementsAre("++"));
  EXPECT_TRUE(Parse({"++", "--flag"}).flag);
}

TEST(CommandWordsTest, TwoDashesMayBeAValue) {
  const Parsed parsed = Parse({"--text", "--", "--text", "--text", "--one", "--", "--", "--text"});
  EXPECT_THAT(parsed.texts, ElementsAre("--", "--text"));
  EXPECT_EQ(parsed.one, "--");
  EXPECT_THAT(parsed.paths, ElementsAre("--text"));
}

TEST(CommandWordsTest, NumbersAndSwitchesAreNotEmpty) {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"--number="}, {"--number", ""}, {"--on="}, {"--on", ""}}) {
    EXPECT_THROW(Parse(words), CLI::ValidationError) << words[0];
  }
  EXPECT_EQ(Parse({"--number=0"}).number, 0);
  EXPECT_FALSE(Parse({"--on=false"}).on);
}

TEST(CommandWordsTest, QuotesAndCommasStay) {
  EXPECT_THAT(Parse({"\"a b\"", "'c'", "a,b", "=", "]["}).paths,
              ElementsAre("\"a b\"", "'c'", "a,b", "=", "]["));
}

TEST(CommandWordsTest, UnmarkedIsWhatWasTyped) {
  const CLI::App app;
  const char* words[] = {"program", "[x]", "--a=", "--b=[y]", "--", "-z"};
  std::vector<std::string> typed;
  for (const std::string& word : MarkedWords(app, 6, words)) typed.push_back(Unmarked(word));
  EXPECT_THAT(typed, ElementsAre("-z", "--b=[y]", "--a=", "[x]"));
}

}  // namespace
}  // namespace siglip::cli
