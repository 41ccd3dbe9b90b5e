#pragma once

// Prompts of the zero-shot rows.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "eval/imagenet_folder.h"

namespace siglip {

// The three of the published table.
std::vector<std::string> PublishedTemplates();

// InvalidArgument unless {text} or {label} is in it.
absl::Status CheckTemplate(const std::string& text_template);

// Replaces every {text} and {label}. Nothing else in braces means anything.
std::string FillClassTemplate(const std::string& text_template, const ImagenetClass& c);

}  // namespace siglip
