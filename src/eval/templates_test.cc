#include "eval/templates.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(TemplatesTest, TextAndLabelAreReplacedEverywhereAndOnce) {
  const ImagenetClass c{"n1", "a {label} trap"};
  EXPECT_EQ(FillClassTemplate("{text}, {label}: {text} {other}", c),
            "a {label} trap, n1: a {label} trap {other}");
}

TEST(TemplatesTest, ATemplateWithoutAPlaceIsRefused) {
  for (const std::string& published : PublishedTemplates()) {
    EXPECT_TRUE(CheckTemplate(published).ok());
  }
  EXPECT_FALSE(CheckTemplate("A photo.").ok());
}

}  // namespace
}  // namespace siglip
