#include "emulated_device.h"

#undef blockIdx
#undef threadIdx

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>

namespace siglip::cuda::emulation {
namespace {

constexpr int kWarpLanes = 32;
constexpr std::size_t kGuardBytes = 64;
constexpr char kGuard = 0x5a;

using WarpWords = std::array<std::array<std::uint32_t, 16>, kWarpLanes>;

ucontext_t scheduler;
const std::function<void()>* kernel_body = nullptr;
std::vector<std::unique_ptr<Thread>> threads;
std::vector<WarpWords> words;
Thread* current = nullptr;
uint3 block_index = {};
char* dynamic_shared = nullptr;
std::size_t dynamic_shared_bytes = 0;

// In the other order a barrier that is missing shows elsewhere.
bool InReverse() {
  static const bool reverse = std::getenv("SIGLIP_EMULATION_REVERSE") != nullptr;
  return reverse;
}

void RunKernel() {
  (*kernel_body)();
  if (!current->copies.empty()) Fail("asynchronous copies that nobody waits for");
  current->done = true;
  ::swapcontext(&current->context, &scheduler);
}

void Start(Thread& thread, int index) {
  thread.index = {static_cast<unsigned>(index), 0, 0};
  thread.done = false;
  thread.warp_barriers = thread.block_barriers = 0;
  thread.copies.clear();
  ::getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.data();
  thread.context.uc_stack.ss_size = thread.stack.size();
  thread.context.uc_link = nullptr;
  ::makecontext(&thread.context, RunKernel, 0);
}

// Of one block: how many barriers have opened.
class Block {
 public:
  explicit Block(int count)
      : count_(count), warps_(static_cast<std::size_t>((count + kWarpLanes - 1) / kWarpLanes)) {
    while (static_cast<int>(threads.size()) < count) threads.push_back(std::make_unique<Thread>());
    for (int i = 0; i < count; ++i) Start(*threads[static_cast<std::size_t>(i)], i);
    words.assign(warps_.size(), {});
  }

  void Run() {
    while (true) {
      bool moved = false;
      std::vector<std::size_t> order(warps_.size());
      std::iota(order.begin(), order.end(), 0);
      if (InReverse()) std::reverse(order.begin(), order.end());
      for (const std::size_t warp : order) {
        while (RunWarp(warp)) moved = true;
      }
      const auto [live, waiting] = Count(
          0, count_, [&](const Thread& thread) { return thread.block_barriers == open_ + 1; });
      if (live == 0) return;
      if (live == waiting) {
        ++open_;
      } else if (!moved) {
        Fail("a barrier that not all threads come to");
      }
    }
  }

 private:
  // Its lanes until each is at a barrier or done, then the warp's barrier if all are there.
  bool RunWarp(std::size_t warp) {
    const int begin = static_cast<int>(warp) * kWarpLanes;
    const int end = std::min(begin + kWarpLanes, count_);
    bool moved = false;
    for (int i = begin; i < end; ++i) {
      Thread& thread = At(InReverse() ? begin + end - 1 - i : i);
      if (thread.done || thread.warp_barriers > warps_[warp] || thread.block_barriers > open_) {
        continue;
      }
      current = &thread;
      ::swapcontext(&scheduler, &thread.context);
      moved = true;
    }
    const auto [live, waiting] = Count(
        begin, end, [&](const Thread& thread) { return thread.warp_barriers == warps_[warp] + 1; });
    if (live == 0 || live != waiting) return moved;
    ++warps_[warp];
    return true;
  }

  static Thread& At(int i) { return *threads[static_cast<std::size_t>(i)]; }

  // Threads of [begin, end) that are not done, and those of them that wait.
  template <class Waits>
  static std::pair<int, int> Count(int begin, int end, Waits waits) {
    std::pair<int, int> count = {0, 0};
    for (int i = begin; i < end; ++i) {
      if (At(i).done) continue;
      ++count.first;
      count.second += waits(At(i)) ? 1 : 0;
    }
    return count;
  }

  const int count_;
  std::int64_t open_ = 0;
  std::vector<std::int64_t> warps_;
};

}  // namespace

Thread& Current() { return *current; }
uint3 BlockIndex() { return block_index; }
char* DynamicShared() { return dynamic_shared; }
std::size_t DynamicSharedBytes() { return dynamic_shared_bytes; }

std::uint32_t* Words(int lane) {
  return words[current->index.x / kWarpLanes][static_cast<std::size_t>(lane)].data();
}

void SyncWarp() {
  ++current->warp_barriers;
  ::swapcontext(&current->context, &scheduler);
}

void SyncBlock() {
  ++current->block_barriers;
  ::swapcontext(&current->context, &scheduler);
}

void Fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s\n", what);
  std::abort();
}

void DemandAligned(const void* address, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) Fail("an address is not aligned");
}

void RunGrid(dim3 blocks, int num_threads, std::size_t shared_bytes,
             const std::function<void()>& body) {
  constexpr unsigned kMaxOther = 65535;
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.y > kMaxOther ||
      blocks.z > kMaxOther || num_threads > 1024) {
    Fail("a grid that no GPU takes");
  }
  kernel_body = &body;
  // What nobody has written is no number.
  std::vector<uint4> shared(shared_bytes / sizeof(uint4) + 1 + kGuardBytes / sizeof(uint4));
  dynamic_shared = reinterpret_cast<char*>(shared.data());
  dynamic_shared_bytes = shared_bytes;
  char* const guard = dynamic_shared + shared_bytes;
  for (block_index.z = 0; block_index.z < blocks.z; ++block_index.z) {
    for (block_index.y = 0; block_index.y < blocks.y; ++block_index.y) {
      for (block_index.x = 0; block_index.x < blocks.x; ++block_index.x) {
        std::fill(dynamic_shared, guard, static_cast<char>(0x7f));
        std::fill(guard, guard + kGuardBytes, kGuard);
        Block(num_threads).Run();
        if (std::any_of(guard, guard + kGuardBytes, [](char c) { return c != kGuard; })) {
          Fail("shared memory is overrun");
        }
      }
    }
  }
}

}  // namespace siglip::cuda::emulation
