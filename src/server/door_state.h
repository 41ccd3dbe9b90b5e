#pragma once

// What the three doors share.

#include <atomic>

namespace siglip {

struct DoorState {
  // Set once when draining starts: readiness turns false. Orders nothing else.
  std::atomic<bool> draining{false};
};

}  // namespace siglip
