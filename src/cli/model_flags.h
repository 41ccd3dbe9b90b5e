#pragma once

// The options that every command which opens a checkpoint shares.

#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "siglip/siglip.h"

namespace siglip::cli {

struct ModelFlags {
  std::string directory;
  ModelOptions options;
};

// What --precision takes.
CLI::Validator PrecisionNames();

// --model (required if `required`), --threads, --engine-batch-size, --precision, --device,
// --gpu-resize, --isa, --cache-dir, --pillow, --max-patches.
void AddModelFlags(CLI::App& command, ModelFlags& flags, bool required);

}  // namespace siglip::cli
