#include "eval/templates.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace siglip {

std::vector<std::string> PublishedTemplates() {
  return {"A photo of {text}.", "This is a photo containing images of {text}.",
          "This is a photo from ImageNet's {label} category. This category contains photos of "
          "{text}."};
}

absl::Status CheckTemplate(const std::string& text_template) {
  if (absl::StrContains(text_template, "{text}") || absl::StrContains(text_template, "{label}")) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("template \"", text_template,
                                                 "\": expected {text} or {label} in it, since all "
                                                 "classes would have the same text"));
}

std::string FillClassTemplate(const std::string& text_template, const ImagenetClass& c) {
  return absl::StrReplaceAll(text_template, {{"{text}", c.text}, {"{label}", c.label}});
}

}  // namespace siglip
