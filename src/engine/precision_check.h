#pragma once

// What Precision::kAuto decides by: whether int16 is faster here, and whether it is near enough to
// float32 with the weights at hand. Both have one answer for a checkpoint, an instruction set and a
// version of this program: no clock is asked, so two starts never differ (docs/adr/0006).

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "checkpoint/checkpoint.h"
#include "engine/cpu_engine.h"

namespace siglip {

// To be raised when the arithmetic of either format, the calibration inputs or the limits change:
// verdicts of another version are not used.
inline constexpr int kPrecisionCheckVersion = 3;

// On the instruction set `isa`, as VectorTargetName() names it (docs/adr/0006).
bool Int16IsFaster(const std::string& isa);

struct PrecisionVerdict {
  bool int16_passes = false;
  std::string reason;  // one line: what was measured, and the limits
};

// Embeds two pictures and two texts, EngineOptions::example_text among them, with int16 towers,
// with float32 layers, and with float32 layers whose weights and results are rounded to bfloat16.
// int16 passes if all is finite, 1 - cosine to float32 is at most 1e-5, and the error at most a
// quarter of bfloat16's (docs/numerics.md). One float32 block at a time is in memory. REQUIRES:
// `towers` are of `checkpoint` and int16. Throws std::bad_alloc.
PrecisionVerdict CheckInt16(const Checkpoint& checkpoint, const LoadedTowers& towers,
                            std::span<const std::int64_t> example_text, int num_threads);

// A verdict in a file; nothing if there is none that is whole.
std::optional<PrecisionVerdict> ReadVerdict(const std::string& path);
absl::Status WriteVerdict(const std::string& path, const PrecisionVerdict& verdict);

}  // namespace siglip
