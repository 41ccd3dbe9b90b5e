#pragma once

#include <atomic>
#include <cstdint>

#include "base/thread_pool.h"

namespace siglip {

// body(worker, i) for each i < count, in any order, on the workers of `team`: each takes the next
// one when it is done, since threads do not run at equal speed.
template <class Body>
void ParallelFor(ThreadTeam& team, std::int64_t count, Body&& body) {
  std::atomic<std::int64_t> next{0};
  team.RunOnAll([&](int worker) {
    for (std::int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      body(worker, i);
    }
  });
}

}  // namespace siglip
