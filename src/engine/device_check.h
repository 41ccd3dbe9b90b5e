#pragma once

// Whether a GPU computes what the CPU does: code, driver, library and device are tried together on
// the weights that are to be served, before anything is.

#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/checkpoint.h"
#include "engine/engine.h"

namespace siglip {

// Embeds two pictures and two texts with `reference`, which is float32, and with `device` in
// batches of every size up to `max_batch_size`, since each has a program of its own on a GPU;
// `num_devices` times each: an engine of several GPUs gives them its calls in turn. Returns one
// line with what was measured; Internal with the same if the worst 1 - cosine is above the limit of
// `precision`, or a number is not finite. The limits (docs/numerics.md) are for what is wrong: how
// far right numbers round is tests/oracle's business. REQUIRES: both are of `checkpoint`; the
// numbers are at least 1.
absl::StatusOr<std::string> CheckDevice(const Checkpoint& checkpoint, Precision precision,
                                        std::span<const std::int64_t> example_text, Engine& device,
                                        int num_devices, int max_batch_size, Engine& reference);

}  // namespace siglip
