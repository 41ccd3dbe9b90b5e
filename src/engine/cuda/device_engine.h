#pragma once

// Both towers on one GPU. Everything is allocated, searched and captured at load: a batch copies
// its input from pinned memory on one stream while the batch before it computes on the other, then
// is an input kernel, one graph launch, and a copy back.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "checkpoint/checkpoint.h"
#include "engine/cuda/algorithm_cache.h"
#include "engine/cuda/gemm.h"
#include "engine/cuda/handles.h"
#include "engine/cuda/library_attention.h"
#include "engine/cuda/plan.h"
#include "engine/engine.h"

namespace siglip::cuda {

// What the parts of a plan are stored as.
struct Types {
  HalfType compute = HalfType::kBf16;
  Type stream = Type::kBf16;
  bool fp8 = false;
};

// bf16: the stream too, as torch has it. fp16: the stream in float32, since trained towers have
// channels beyond 65504. fp8: bf16 but for the factors of the blocks' linear layers.
// REQUIRES: one of the three.
Types TypesOf(Precision precision);

enum class Tower { kVision, kText };

// Thread-safe, but for a slot, which has one user at a time.
class DeviceEngine {
 public:
  // Batches in flight: one computes, one copies.
  static constexpr int kSlots = 2;

  struct Options {
    int ordinal = 0;
    Types types;
    std::int64_t max_items = 0;    // of a batch
    std::int64_t text_tokens = 0;  // ProgramOptions
    std::string cache_dir;         // of found algorithms; empty: none
  };
  // Unavailable if there is no such GPU, ResourceExhausted if its memory does not do.
  static absl::StatusOr<std::unique_ptr<DeviceEngine>> Open(const Checkpoint& checkpoint,
                                                            const Options& options);
  ~DeviceEngine();

  // Pinned memory that Submit's input is read from: pixels (float) or ids (int64), item after item.
  std::byte* staging(int slot) { return slots_[static_cast<std::size_t>(slot)].input_host.get(); }
  // Starts 1..max_items items. Returns at once.
  absl::Status Submit(Tower tower, int slot, std::int64_t items, std::int64_t tokens);
  // Waits for what was submitted. Embeddings [items, D], valid until the next Submit.
  absl::StatusOr<const float*> Wait(int slot);

  const TowerProgram& program(Tower tower) const { return towers_[Index(tower)].program; }
  std::int64_t memory_bytes() const { return memory_bytes_; }
  // "NVIDIA H200 (cuda:0, sm_90)".
  const std::string& name() const { return name_; }
  const std::string& attention_name() const { return attention_name_; }

 private:
  struct StoredWeight {
    std::byte* data = nullptr;
    float* scales = nullptr;  // e4m3 only
  };
  struct LoadedTower {
    TowerProgram program;
    DeviceMemory memory;
    std::vector<StoredWeight> weights;
    std::map<std::int64_t, GraphExec> graphs;  // by items, of program.usual_tokens()
  };
  struct Slot {
    PinnedMemory input_host, output_host;
    DeviceMemory input;
    Event uploaded, done;
  };
  struct PreparedGemm {
    Gemm gemm;
    cublasLtMatmulAlgo_t algorithm;
  };

  // Items, tokens, heads and head_dim: towers of as many tokens may differ in the others.
  using AttentionKey = std::array<std::int64_t, 4>;

  explicit DeviceEngine(const Options& options) : options_(options) {}

  static std::size_t Index(Tower tower) { return static_cast<std::size_t>(tower); }
  Type TypeOfElement(Element element) const;
  std::size_t BytesOf(Element element) const;

  absl::Status Load(const Checkpoint& checkpoint);
  absl::Status MakeHandles();
  void OpenLibraryAttention();
  absl::Status LoadTower(TowerProgram program);
  absl::Status StoreWeight(const Weight& weight, const StoredWeight& to, DeviceMemory& staging,
                           std::size_t& staging_bytes);
  absl::Status AllocateBuffers();
  absl::Status FillInput(const LoadedTower& tower);
  absl::Status Tune(LoadedTower& tower, std::int64_t items);
  absl::Status SearchGemms(const LoadedTower& tower, const Plan& plan);
  absl::Status ChooseAttention(const Plan& plan);
  absl::Status Capture(LoadedTower& tower, std::int64_t items);
  std::string CachePath() const;

  // The rest runs under mu_, or at load.
  std::byte* At(const Rows& rows) const;
  GemmShape ShapeOf(const LinearOp& op) const;
  GemmOperands OperandsOf(const LoadedTower& tower, const LinearOp& op) const;
  AttentionLaunch LaunchOf(const AttentionOp& op) const;
  static AttentionKey KeyOf(const AttentionOp& op) {
    return {op.items, op.tokens, op.heads, op.head_dim};
  }
  absl::StatusOr<PreparedGemm*> PrepareGemm(const LinearOp& op);
  absl::Status RunGemm(PreparedGemm& prepared, const GemmOperands& operands);
  absl::StatusOr<double> TimeGemm(PreparedGemm& prepared, const std::vector<GemmOperands>& uses,
                                  const LinearOp& op, double give_up_us);
  absl::StatusOr<double> TimeOnStream(int runs, const std::function<absl::Status()>& run);
  absl::Status RunInput(const LoadedTower& tower, const Plan& plan, const Slot& slot);
  absl::Status RunOps(const LoadedTower& tower, const Plan& plan);
  absl::Status Run(const LoadedTower& tower, const FillOp& op);
  absl::Status Run(const LoadedTower& tower, const NormOp& op);
  absl::Status Run(const LoadedTower& tower, const QuantiseOp& op);
  absl::Status Run(const LoadedTower& tower, const LinearOp& op);
  absl::Status Run(const LoadedTower& tower, const AttentionOp& op);
  absl::Status Run(const LoadedTower& tower, const PoolOp& op);

  std::optional<CurrentDevice> destroying_on_;  // first, so destroyed last; set by the destructor
  const Options options_;
  std::string name_;
  std::string device_line_;  // of AlgorithmCache
  std::string attention_name_;
  std::int64_t memory_bytes_ = 0;
  Stream copies_, compute_;
  Event timing_begin_, timing_end_;
  LtHandle lt_;
  DeviceMemory workspace_;
  std::size_t workspace_bytes_ = 0;
  std::unique_ptr<LibraryAttention> library_attention_;  // null: none
  std::map<AttentionKey, bool> library_attention_wins_;
  DeviceMemory buffer_memory_;
  std::array<std::byte*, kNumBuffers> buffers_ = {};
  std::unique_ptr<AlgorithmCache> algorithms_;
  std::map<std::string, PreparedGemm> gemms_;  // by GemmShape::Key
  std::vector<LoadedTower> towers_;
  std::array<Slot, kSlots> slots_;
  Mutex mu_;  // order of what is given to the streams; at load nobody else is there
};

}  // namespace siglip::cuda
