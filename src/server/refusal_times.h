#pragma once

// How fast a door refuses requests for which there is no room: the time from when the whole request
// was there until its refusal was handed to the kernel (HTTP) or to gRPC.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace siglip {

// Thread-safe. Readers may see a refusal in the sum that they do not see in the counts.
class RefusalTimes {
 public:
  // Upper bounds in seconds; a last bucket has what is longer. 0.01 is what we hold ourselves to.
  static constexpr std::array<double, 11> kBoundsS = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005,
                                                      0.01,   0.025,   0.1,    0.5,   2.5};

  struct Snapshot {
    std::array<std::uint64_t, kBoundsS.size() + 1> counts = {};  // per bucket
    double sum_s = 0;
  };

  void Record(std::int64_t duration_ns);
  Snapshot Read() const;

 private:
  // Counters: no order between them matters.
  std::array<std::atomic<std::uint64_t>, kBoundsS.size() + 1> counts_ = {};
  std::atomic<std::int64_t> sum_ns_{0};
};

}  // namespace siglip
