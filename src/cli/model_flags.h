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

// --model; required if `required`.
void AddCheckpointFlag(CLI::App& command, ModelFlags& flags, bool required);
// --device, --precision, --threads, --engine-batch-size, --gpu-resize, --isa, --cache-dir,
// --pillow, --max-pixels, --max-patches.
void AddEngineFlags(CLI::App& command, ModelFlags& flags);
// Both.
void AddModelFlags(CLI::App& command, ModelFlags& flags, bool required);

}  // namespace siglip::cli
