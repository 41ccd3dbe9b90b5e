#include "base/log.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(LogSafe, ControlCharactersCannotForgeALine) {
  EXPECT_EQ(LogSafe("a\nb\x1b[0m\x7f"), "a\\x0ab\\x1b[0m\\x7f");
  EXPECT_LE(LogSafe(std::string(10000, 'x')).size(), 300u);
}

}  // namespace
}  // namespace siglip
