#pragma once

// Time as a dependency, so that queues are tested without sleeping.

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace siglip {

// Nanoseconds of the steady clock, for times that nobody injects.
inline std::int64_t SteadyNowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// From one reading of a steady clock to a later one; 0 where they are the other way round.
inline std::uint64_t ElapsedNs(std::int64_t from_ns, std::int64_t to_ns) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, to_ns - from_ns));
}

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds of a steady clock; only differences mean anything.
  virtual std::int64_t NowNs() const = 0;
  // Milliseconds since the Unix epoch, for statistics' last_inference.
  virtual std::int64_t UnixMs() const = 0;
};

class SystemClock final : public Clock {
 public:
  std::int64_t NowNs() const override { return SteadyNowNs(); }
  std::int64_t UnixMs() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace siglip
