#include "engine/cuda/device_engine.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace siglip::cuda {
namespace {

// What NVIDIA recommends for Hopper; smaller GPUs use less of it.
constexpr std::size_t kWorkspaceBytes = 32 << 20;
// Alignment of everything that is cut out of one allocation: what cudaMalloc gives.
constexpr std::size_t kAlignment = 256;
// Algorithms that are timed for a product. The heuristic's order is good; the best is rarely past
// the first dozen.
constexpr int kCandidates = 24;
// Different layers' weights that a candidate is timed with, so that they do not come from a cache
// which in real life holds something else.
constexpr std::size_t kTimedUses = 6;
constexpr int kAttentionRuns = 5;

std::size_t Aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::int64_t AlignmentOf(std::int64_t bytes) {
  if (bytes == 0) return kAlignment;
  return std::min<std::int64_t>(
      kAlignment, std::int64_t{1} << std::countr_zero(static_cast<std::uint64_t>(bytes)));
}

}  // namespace

Types TypesOf(Precision precision) {
  switch (precision) {
    case Precision::kFp16:
      return {HalfType::kFp16, Type::kFp32, false};
    case Precision::kFp8:
      return {HalfType::kBf16, Type::kBf16, true};
    default:
      break;
  }
  SIGLIP_CHECK(precision == Precision::kBf16);
  return {HalfType::kBf16, Type::kBf16, false};
}

Type DeviceEngine::TypeOfElement(Element element) const {
  switch (element) {
    case Element::kStream:
      return options_.types.stream;
    case Element::kFloat:
      return Type::kFp32;
    case Element::kByte:
      return Type::kE4m3;
    case Element::kCompute:
      break;
  }
  return TypeOf(options_.types.compute);
}

std::size_t DeviceEngine::BytesOf(Element element) const {
  switch (TypeOfElement(element)) {
    case Type::kFp32:
      return 4;
    case Type::kE4m3:
      return 1;
    case Type::kBf16:
    case Type::kFp16:
      break;
  }
  return 2;
}

absl::StatusOr<std::unique_ptr<DeviceEngine>> DeviceEngine::Open(const Checkpoint& checkpoint,
                                                                 const Options& options) {
  const CurrentDevice current(options.ordinal);
  auto engine = std::unique_ptr<DeviceEngine>(new DeviceEngine(options));
  if (absl::Status status = engine->Load(checkpoint); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("device cuda:", options.ordinal, ": ",
                                                    std::string(status.message())));
  }
  return engine;
}

DeviceEngine::~DeviceEngine() {
  // What is freed is freed on its own device, when nothing runs any more.
  destroying_on_.emplace(options_.ordinal);
  static_cast<void>(cudaDeviceSynchronize());
}

absl::Status DeviceEngine::MakeHandles() {
  cudaDeviceProp properties;
  if (cudaSetDevice(options_.ordinal) != cudaSuccess ||
      cudaGetDeviceProperties(&properties, options_.ordinal) != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("expected GPU number ", options_.ordinal,
                     ", got none: ", cudaGetErrorString(cudaGetLastError())));
  }
  // The kernels are built on mma.m16n8k16 of bf16, and cp.async.
  if (properties.major < 8) {
    return absl::UnimplementedError(absl::StrCat(properties.name,
                                                 ": expected compute capability 8.0 or more, got ",
                                                 properties.major, ".", properties.minor));
  }
  // cuBLASLt's documentation, "Scaling Mode Support Overview": a scale for each row and column
  // ("outer vector") is of this one.
  if (options_.types.fp8 && (properties.major != 9 || properties.minor != 0)) {
    return absl::UnimplementedError(absl::StrCat(
        properties.name, ": precision fp8: expected compute capability 9.0 (H100, H200), got ",
        properties.major, ".", properties.minor));
  }
  int driver = 0;
  SIGLIP_RETURN_IF_ERROR(Checked(cudaDriverGetVersion(&driver), "driver version"));
  name_ = absl::StrCat(properties.name, " (cuda:", options_.ordinal, ", sm_", properties.major,
                       properties.minor, ")");
  device_line_ =
      absl::StrCat(properties.name, ", driver ", driver, ", cublasLt ", cublasLtGetVersion());
  algorithms_ = std::make_unique<AlgorithmCache>(device_line_);
  SIGLIP_ASSIGN_OR_RETURN(copies_, MakeStream());
  SIGLIP_ASSIGN_OR_RETURN(compute_, MakeStream());
  SIGLIP_ASSIGN_OR_RETURN(timing_begin_, MakeEvent(true));
  SIGLIP_ASSIGN_OR_RETURN(timing_end_, MakeEvent(true));
  cublasLtHandle_t lt = nullptr;
  SIGLIP_RETURN_IF_ERROR(Checked(cublasLtCreate(&lt), "opening the library"));
  lt_.reset(lt);
  OpenLibraryAttention();
  return absl::OkStatus();
}

void DeviceEngine::OpenLibraryAttention() {
  attention_name_ = "own attention";
  const auto functions = LoadLibraryAttention();
  auto opened = functions.ok()
                    ? (*functions)->open(compute_.get())
                    : absl::StatusOr<std::unique_ptr<LibraryAttention>>(functions.status());
  if (!opened.ok()) {
    SIGLIP_LOG_INFO("gpu attention=own reason=\"{}\"",
                    LogSafe(std::string(opened.status().message())));
    return;
  }
  library_attention_ = *std::move(opened);
  attention_name_ = absl::StrCat("own attention or ", (*functions)->version());
}

std::string DeviceEngine::CachePath() const {
  if (options_.cache_dir.empty()) return {};
  std::string file = device_line_;
  std::replace_if(
      file.begin(), file.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '-');
  return absl::StrCat(options_.cache_dir, "/gpu-", file, ".algorithms");
}

absl::Status DeviceEngine::Load(const Checkpoint& checkpoint) {
  SIGLIP_RETURN_IF_ERROR(TowerProgram::Check(checkpoint.config()));
  SIGLIP_RETURN_IF_ERROR(MakeHandles());
  const ProgramOptions program{.fp8 = options_.types.fp8, .text_tokens = options_.text_tokens};
  SIGLIP_RETURN_IF_ERROR(LoadTower(TowerProgram::Vision(checkpoint, program)));
  SIGLIP_RETURN_IF_ERROR(LoadTower(TowerProgram::Text(checkpoint, program)));
  SIGLIP_RETURN_IF_ERROR(AllocateBuffers());
  const std::string cache = CachePath();
  if (!cache.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(options_.cache_dir, ignored);
    const absl::Status loaded = algorithms_->Load(cache);
    if (!loaded.ok() && !absl::IsNotFound(loaded)) {
      SIGLIP_LOG_WARN("gpu algorithms=searched error=\"{}\"",
                      LogSafe(std::string(loaded.message())));
    }
  }
  for (LoadedTower& tower : towers_) {
    SIGLIP_RETURN_IF_ERROR(FillInput(tower));
    for (std::int64_t items = options_.max_items; items >= 1; --items) {
      SIGLIP_RETURN_IF_ERROR(Tune(tower, items));
      SIGLIP_RETURN_IF_ERROR(Capture(tower, items));
    }
  }
  if (!cache.empty() && algorithms_->changed()) {
    const absl::Status saved = algorithms_->Save(cache);
    if (!saved.ok())
      SIGLIP_LOG_WARN("gpu algorithms=not_kept error=\"{}\"",
                      LogSafe(std::string(saved.message())));
  }
  return Checked(cudaDeviceSynchronize(), "loading");
}

absl::Status DeviceEngine::LoadTower(TowerProgram program) {
  std::vector<std::size_t> offsets, scale_offsets;
  std::size_t bytes = 0;
  for (const Weight& weight : program.weights()) {
    offsets.push_back(bytes);
    bytes +=
        Aligned(static_cast<std::size_t>(weight.rows * weight.columns) * BytesOf(weight.storage));
    scale_offsets.push_back(bytes);
    if (weight.storage == Element::kByte) {
      bytes += Aligned(static_cast<std::size_t>(weight.rows) * sizeof(float));
    }
  }
  LoadedTower tower{std::move(program), nullptr, {}, {}};
  SIGLIP_ASSIGN_OR_RETURN(tower.memory, AllocateDevice(bytes, "weights"));
  memory_bytes_ += static_cast<std::int64_t>(bytes);
  DeviceMemory staging;
  std::size_t staging_bytes = 0;
  for (std::size_t i = 0; i < tower.program.weights().size(); ++i) {
    const Weight& weight = tower.program.weights()[i];
    StoredWeight stored{tower.memory.get() + offsets[i], nullptr};
    if (weight.storage == Element::kByte) {
      stored.scales = reinterpret_cast<float*>(tower.memory.get() + scale_offsets[i]);
    }
    SIGLIP_RETURN_IF_ERROR(StoreWeight(weight, stored, staging, staging_bytes));
    tower.weights.push_back(stored);
  }
  towers_.push_back(std::move(tower));
  return absl::OkStatus();
}

// Padded in host memory, rounded on the GPU.
absl::Status DeviceEngine::StoreWeight(const Weight& weight, const StoredWeight& to,
                                       DeviceMemory& staging, std::size_t& staging_bytes) {
  std::vector<float> values(static_cast<std::size_t>(weight.filled_rows * weight.filled_columns));
  weight.fill(values);
  const auto count = static_cast<std::size_t>(weight.rows * weight.columns);
  if (values.size() != count) {
    std::vector<float> padded(count, 0.0f);
    for (std::int64_t row = 0; row < weight.filled_rows; ++row) {
      std::copy_n(values.begin() + row * weight.filled_columns, weight.filled_columns,
                  padded.begin() + row * weight.columns);
    }
    values = std::move(padded);
  }
  const std::size_t bytes = count * sizeof(float);
  const Type type = TypeOfElement(weight.storage);
  std::byte* target = to.data;
  if (type != Type::kFp32) {
    if (staging_bytes < bytes) {
      staging.reset();
      SIGLIP_ASSIGN_OR_RETURN(staging, AllocateDevice(bytes, "loading weights"));
      staging_bytes = bytes;
    }
    target = staging.get();
  }
  // Of pageable memory: returns when it has been read.
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaMemcpyAsync(target, values.data(), bytes, cudaMemcpyHostToDevice, compute_.get()),
              weight.name));
  SIGLIP_RETURN_IF_ERROR(Checked(cudaStreamSynchronize(compute_.get()), weight.name));
  if (type == Type::kE4m3) {
    const QuantiseLaunch launch{
        options_.types.compute, Type::kFp32, weight.rows, weight.columns, target,
        weight.columns,         to.data,     to.scales};
    SIGLIP_RETURN_IF_ERROR(Checked(Launch(launch, compute_.get()), weight.name));
  } else if (type != Type::kFp32) {
    const RoundLaunch launch{options_.types.compute, static_cast<std::int64_t>(count),
                             reinterpret_cast<const float*>(target), to.data};
    SIGLIP_RETURN_IF_ERROR(Checked(Launch(launch, compute_.get()), weight.name));
  }
  return Checked(cudaStreamSynchronize(compute_.get()), weight.name);
}

absl::Status DeviceEngine::AllocateBuffers() {
  std::array<std::size_t, kNumBuffers> bytes = {};
  std::size_t input_bytes = 0, output_bytes = 0;
  for (const LoadedTower& tower : towers_) {
    const std::int64_t tokens = tower.program.max_tokens();
    const Plan plan = tower.program.MakePlan(options_.max_items, tokens);
    for (std::size_t b = 0; b < kNumBuffers; ++b) {
      bytes[b] = std::max(bytes[b], Aligned(static_cast<std::size_t>(plan.elements[b]) *
                                            BytesOf(ElementOf(static_cast<Buffer>(b)))));
    }
    const bool vision = std::holds_alternative<PatchesOp>(plan.input);
    const std::size_t item = static_cast<std::size_t>(tower.program.input_elements(tokens)) *
                             (vision ? sizeof(float) : sizeof(std::int64_t));
    input_bytes = std::max(input_bytes, item * static_cast<std::size_t>(options_.max_items));
    output_bytes = std::max(output_bytes, static_cast<std::size_t>(options_.max_items *
                                                                   tower.program.embedding_size()) *
                                              sizeof(float));
  }
  std::size_t total = 0;
  for (const std::size_t b : bytes) total += b;
  SIGLIP_ASSIGN_OR_RETURN(
      buffer_memory_,
      AllocateDevice(total, absl::StrCat("activations of ", options_.max_items, " items")));
  std::byte* next = buffer_memory_.get();
  for (std::size_t b = 0; b < kNumBuffers; ++b) {
    buffers_[b] = next;
    next += bytes[b];
  }
  workspace_bytes_ = kWorkspaceBytes;
  if (library_attention_ != nullptr) {
    // Known before anything is captured: the scratch memory must not move.
    for (const LoadedTower& tower : towers_) {
      for (std::int64_t items = 1; items <= options_.max_items; ++items) {
        for (const Op& op : tower.program.MakePlan(items, tower.program.usual_tokens()).ops) {
          const auto* attention = std::get_if<AttentionOp>(&op);
          if (attention == nullptr) continue;
          static_cast<void>(library_attention_->Prepare(LaunchOf(*attention)));
          break;  // the others are equal, or one query for each item, which is no work
        }
      }
    }
    workspace_bytes_ = std::max(workspace_bytes_, library_attention_->workspace_bytes());
  }
  SIGLIP_ASSIGN_OR_RETURN(workspace_, AllocateDevice(workspace_bytes_, "workspace"));
  memory_bytes_ += static_cast<std::int64_t>(total + workspace_bytes_ + kSlots * input_bytes);
  for (Slot& slot : slots_) {
    SIGLIP_ASSIGN_OR_RETURN(slot.input, AllocateDevice(input_bytes, "input"));
    SIGLIP_ASSIGN_OR_RETURN(slot.input_host, AllocatePinned(input_bytes, "input"));
    SIGLIP_ASSIGN_OR_RETURN(slot.output_host, AllocatePinned(output_bytes, "embeddings"));
    SIGLIP_ASSIGN_OR_RETURN(slot.uploaded, MakeEvent());
    SIGLIP_ASSIGN_OR_RETURN(slot.done, MakeEvent());
  }
  return absl::OkStatus();
}

// Random input of as many items as fit, in slots_[0] on the device: its first items are an input of
// fewer.
absl::Status DeviceEngine::FillInput(const LoadedTower& tower) {
  const std::int64_t tokens = tower.program.usual_tokens();
  const Plan plan = tower.program.MakePlan(options_.max_items, tokens);
  Slot& slot = slots_[0];
  std::mt19937 random(1);
  std::size_t bytes = 0;
  if (std::holds_alternative<PatchesOp>(plan.input)) {
    auto* pixels = reinterpret_cast<float*>(slot.input_host.get());
    const auto count =
        static_cast<std::size_t>(options_.max_items * tower.program.input_elements(tokens));
    std::uniform_real_distribution<float> pixel(-1, 1);
    std::generate_n(pixels, count, [&] { return pixel(random); });
    bytes = count * sizeof(float);
  } else {
    const TokensOp& op = std::get<TokensOp>(plan.input);
    auto* ids = reinterpret_cast<std::int64_t*>(slot.input_host.get());
    const std::int64_t vocabulary =
        tower.program.weights()[static_cast<std::size_t>(op.table)].rows;
    std::uniform_int_distribution<std::int64_t> id(0, vocabulary - 1);
    std::generate_n(ids, options_.max_items * tokens, [&] { return id(random); });
    bytes = static_cast<std::size_t>(options_.max_items * tokens) * sizeof(std::int64_t);
  }
  return Checked(cudaMemcpyAsync(slot.input.get(), slot.input_host.get(), bytes,
                                 cudaMemcpyHostToDevice, compute_.get()),
                 "input");
}

// Runs the plan once on FillInput's, with whatever algorithms come first, so that the buffers hold
// what they hold in real life: zeros would run at another clock. Then looks for the best.
absl::Status DeviceEngine::Tune(LoadedTower& tower, std::int64_t items) {
  const Plan plan = tower.program.MakePlan(items, tower.program.usual_tokens());
  SIGLIP_RETURN_IF_ERROR(RunInput(tower, plan, slots_[0]));
  SIGLIP_RETURN_IF_ERROR(RunOps(tower, plan));
  SIGLIP_RETURN_IF_ERROR(Checked(cudaStreamSynchronize(compute_.get()), "first run"));
  SIGLIP_RETURN_IF_ERROR(ChooseAttention(plan));
  return SearchGemms(tower, plan);
}

absl::StatusOr<double> DeviceEngine::TimeOnStream(int runs,
                                                  const std::function<absl::Status()>& run) {
  SIGLIP_RETURN_IF_ERROR(run());  // warm
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventRecord(timing_begin_.get(), compute_.get()), "timing"));
  for (int i = 0; i < runs; ++i) SIGLIP_RETURN_IF_ERROR(run());
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventRecord(timing_end_.get(), compute_.get()), "timing"));
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventSynchronize(timing_end_.get()), "timing"));
  float milliseconds = 0;
  SIGLIP_RETURN_IF_ERROR(Checked(
      cudaEventElapsedTime(&milliseconds, timing_begin_.get(), timing_end_.get()), "timing"));
  return 1000.0 * static_cast<double>(milliseconds) / runs;
}

absl::Status DeviceEngine::ChooseAttention(const Plan& plan) {
  if (library_attention_ == nullptr) return absl::OkStatus();
  for (const Op& op : plan.ops) {
    const auto* attention = std::get_if<AttentionOp>(&op);
    if (attention == nullptr || attention->query_count != attention->tokens) continue;
    const AttentionLaunch launch = LaunchOf(*attention);
    bool& wins = library_attention_wins_[KeyOf(*attention)];
    wins = false;
    if (!library_attention_->Prepare(launch).ok()) return absl::OkStatus();
    SIGLIP_ASSIGN_OR_RETURN(const double own_us, TimeOnStream(kAttentionRuns, [&] {
                              return Checked(Launch(launch, compute_.get()), "attention");
                            }));
    const auto library_us = TimeOnStream(
        kAttentionRuns, [&] { return library_attention_->Run(launch, workspace_.get()); });
    // One that cannot be run is one that is not used.
    wins = library_us.ok() && *library_us < own_us;
    SIGLIP_LOG_DEBUG("gpu attention items={} tokens={} own_us={:.1f} library_us={:.1f}",
                     attention->items, attention->tokens, own_us, library_us.value_or(-1));
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<double> DeviceEngine::TimeGemm(PreparedGemm& prepared,
                                              const std::vector<GemmOperands>& uses,
                                              const LinearOp& op, double give_up_us) {
  // Sums into y would grow from run to run.
  const std::size_t y_bytes = static_cast<std::size_t>((op.rows - 1) * op.y.stride + op.n) *
                              BytesOf(ElementOf(op.y.buffer));
  if (op.accumulate) {
    SIGLIP_RETURN_IF_ERROR(
        Checked(cudaMemsetAsync(uses[0].y, 0, y_bytes, compute_.get()), "timing"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const double first_us,
                          TimeOnStream(1, [&] { return RunGemm(prepared, uses[0]); }));
  if (first_us > give_up_us) return first_us;
  SIGLIP_ASSIGN_OR_RETURN(const double all_us, TimeOnStream(1, [&]() -> absl::Status {
                            for (const GemmOperands& use : uses) {
                              SIGLIP_RETURN_IF_ERROR(RunGemm(prepared, use));
                            }
                            return absl::OkStatus();
                          }));
  return all_us / static_cast<double>(uses.size());
}

absl::Status DeviceEngine::SearchGemms(const LoadedTower& tower, const Plan& plan) {
  struct Uses {
    const LinearOp* op = nullptr;
    std::vector<GemmOperands> operands;
  };
  std::map<std::string, Uses> shapes;
  for (const Op& op : plan.ops) {
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr) continue;
    Uses& uses = shapes[ShapeOf(*linear).Key()];
    uses.op = linear;
    if (uses.operands.size() < kTimedUses) uses.operands.push_back(OperandsOf(tower, *linear));
  }
  for (const auto& [key, uses] : shapes) {
    if (algorithms_->Find(key).has_value()) continue;
    PreparedGemm& prepared = gemms_.at(key);
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<cublasLtMatmulAlgo_t> candidates,
                            prepared.gemm.Candidates(lt_.get(), kCandidates, kWorkspaceBytes));
    double best_us = 1e30;
    cublasLtMatmulAlgo_t best = candidates[0];
    for (const cublasLtMatmulAlgo_t& candidate : candidates) {
      prepared.algorithm = candidate;
      // Timings of one run are within some 20 % of those of several.
      const auto us = TimeGemm(prepared, uses.operands, *uses.op, 1.3 * best_us);
      if (!us.ok()) {
        // An algorithm that is not for this shape after all; a lost device shows at the next call.
        SIGLIP_RETURN_IF_ERROR(Checked(cudaGetLastError(), key));
        continue;
      }
      if (*us < best_us) {
        best_us = *us;
        best = candidate;
      }
    }
    prepared.algorithm = best;
    FoundAlgorithm found;
    static_assert(sizeof(best) == sizeof(found.words));
    std::memcpy(found.words.data(), &best, sizeof(best));
    found.microseconds = best_us;
    algorithms_->Add(key, found);
  }
  return absl::OkStatus();
}

absl::Status DeviceEngine::Capture(LoadedTower& tower, std::int64_t items) {
  const Plan plan = tower.program.MakePlan(items, tower.program.usual_tokens());
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaStreamBeginCapture(compute_.get(), cudaStreamCaptureModeThreadLocal), "capture"));
  const absl::Status recorded = RunOps(tower, plan);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(compute_.get(), &graph);
  const Graph owned(graph);
  SIGLIP_RETURN_IF_ERROR(recorded);
  SIGLIP_RETURN_IF_ERROR(Checked(ended, "capture"));
  cudaGraphExec_t exec = nullptr;
  SIGLIP_RETURN_IF_ERROR(Checked(cudaGraphInstantiate(&exec, graph, 0), "graph"));
  tower.graphs[items].reset(exec);
  return Checked(cudaGraphUpload(exec, compute_.get()), "graph");
}

std::byte* DeviceEngine::At(const Rows& rows) const {
  return buffers_[static_cast<std::size_t>(rows.buffer)] +
         static_cast<std::size_t>(rows.offset) * BytesOf(ElementOf(rows.buffer));
}

GemmShape DeviceEngine::ShapeOf(const LinearOp& op) const {
  const auto x_bytes = static_cast<std::int64_t>(BytesOf(ElementOf(op.x.buffer)));
  const auto y_bytes = static_cast<std::int64_t>(BytesOf(ElementOf(op.y.buffer)));
  GemmShape shape;
  shape.factors = TypeOfElement(ElementOf(op.x.buffer));
  shape.y = TypeOfElement(ElementOf(op.y.buffer));
  shape.rows = op.rows;
  shape.n = op.n;
  shape.k = op.k;
  shape.count = op.count;
  shape.x_stride = op.x.stride;
  shape.y_stride = op.y.stride;
  shape.x_step = op.x_step;
  shape.weight_step = op.weight_step;
  shape.y_step = op.y_step;
  shape.x_alignment =
      std::min(AlignmentOf(op.x.offset * x_bytes), AlignmentOf(op.x_step * x_bytes));
  shape.y_alignment =
      std::min(AlignmentOf(op.y.offset * y_bytes), AlignmentOf(op.y_step * y_bytes));
  shape.bias = op.bias != kNone;
  shape.gelu = op.gelu;
  shape.accumulate = op.accumulate;
  return shape;
}

GemmOperands DeviceEngine::OperandsOf(const LoadedTower& tower, const LinearOp& op) const {
  GemmOperands operands;
  const StoredWeight& weight = tower.weights[static_cast<std::size_t>(op.weight)];
  operands.x = At(op.x);
  operands.weight = weight.data;
  if (op.bias != kNone) operands.bias = tower.weights[static_cast<std::size_t>(op.bias)].data;
  operands.y = At(op.y);
  operands.x_scales =
      reinterpret_cast<const float*>(buffers_[static_cast<std::size_t>(Buffer::kRowScales)]);
  operands.weight_scales = weight.scales;
  return operands;
}

AttentionLaunch DeviceEngine::LaunchOf(const AttentionOp& op) const {
  const std::int64_t width = op.heads * op.head_dim;
  const std::byte* wide = At({Buffer::kWide, 0, 0});
  const std::size_t part = static_cast<std::size_t>(width) * BytesOf(Element::kCompute);
  return {options_.types.compute,
          op.items,
          op.tokens,
          op.heads,
          op.head_dim,
          op.query_begin,
          op.query_count,
          wide,
          wide + part,
          wide + 2 * part,
          3 * width,
          At(op.y),
          op.y.stride};
}

absl::StatusOr<DeviceEngine::PreparedGemm*> DeviceEngine::PrepareGemm(const LinearOp& op) {
  const GemmShape shape = ShapeOf(op);
  const std::string key = shape.Key();
  const auto found = gemms_.find(key);
  if (found != gemms_.end()) return &found->second;
  SIGLIP_ASSIGN_OR_RETURN(Gemm gemm, Gemm::Make(shape));
  cublasLtMatmulAlgo_t algorithm;
  bool known = false;
  if (const auto kept = algorithms_->Find(key)) {
    std::memcpy(&algorithm, kept->words.data(), sizeof(algorithm));
    known = gemm.Accepts(lt_.get(), algorithm, kWorkspaceBytes);
    if (!known) algorithms_->Forget(key);
  }
  if (!known) {
    SIGLIP_ASSIGN_OR_RETURN(const auto candidates, gemm.Candidates(lt_.get(), 1, kWorkspaceBytes));
    algorithm = candidates[0];
  }
  return &gemms_.emplace(key, PreparedGemm{std::move(gemm), algorithm}).first->second;
}

absl::Status DeviceEngine::RunGemm(PreparedGemm& prepared, const GemmOperands& operands) {
  return prepared.gemm.Run(lt_.get(), prepared.algorithm, operands, workspace_.get(),
                           kWorkspaceBytes, compute_.get());
}

absl::Status DeviceEngine::RunInput(const LoadedTower& tower, const Plan& plan, const Slot& slot) {
  if (const auto* op = std::get_if<PatchesOp>(&plan.input)) {
    const PatchesLaunch launch{options_.types.compute,
                               plan.items,
                               op->channels,
                               op->image_size,
                               op->patch,
                               op->per_side,
                               op->padded,
                               reinterpret_cast<const float*>(slot.input.get()),
                               At({Buffer::kPatches, 0, 0})};
    return Checked(Launch(launch, compute_.get()), "patches");
  }
  const TokensOp& op = std::get<TokensOp>(plan.input);
  const EmbedLaunch launch{
      options_.types.compute,
      options_.types.stream,
      plan.items * op.tokens,
      op.width,
      op.tokens,
      reinterpret_cast<const std::int64_t*>(slot.input.get()),
      tower.weights[static_cast<std::size_t>(op.table)].data,
      reinterpret_cast<const float*>(tower.weights[static_cast<std::size_t>(op.positions)].data),
      At({Buffer::kStream, 0, 0})};
  return Checked(Launch(launch, compute_.get()), "tokens");
}

absl::Status DeviceEngine::RunOps(const LoadedTower& tower, const Plan& plan) {
  for (const Op& op : plan.ops) {
    SIGLIP_RETURN_IF_ERROR(std::visit([&](const auto& o) { return Run(tower, o); }, op));
  }
  return absl::OkStatus();
}

absl::Status DeviceEngine::Run(const LoadedTower& tower, const FillOp& op) {
  const std::byte* addend = tower.weights[static_cast<std::size_t>(op.addend)].data;
  const EmbedLaunch launch{options_.types.compute,
                           options_.types.stream,
                           op.rows,
                           op.width,
                           op.period,
                           nullptr,
                           nullptr,
                           reinterpret_cast<const float*>(addend),
                           At(op.y)};
  return Checked(Launch(launch, compute_.get()), "positions");
}

absl::Status DeviceEngine::Run(const LoadedTower& tower, const NormOp& op) {
  const auto vector = [&](WeightId id) {
    return reinterpret_cast<const float*>(tower.weights[static_cast<std::size_t>(id)].data);
  };
  const NormLaunch launch{
      options_.types.compute,
      TypeOfElement(ElementOf(op.x.buffer)),
      TypeOfElement(ElementOf(op.y.buffer)),
      op.rows,
      op.width,
      At(op.x),
      op.x.stride,
      vector(op.weight),
      vector(op.bias),
      op.eps,
      At(op.y),
      op.y.stride,
      reinterpret_cast<float*>(buffers_[static_cast<std::size_t>(Buffer::kRowScales)])};
  return Checked(Launch(launch, compute_.get()), "layer norm");
}

absl::Status DeviceEngine::Run(const LoadedTower&, const QuantiseOp& op) {
  const QuantiseLaunch launch{
      options_.types.compute,
      TypeOf(options_.types.compute),
      op.rows,
      op.width,
      At(op.x),
      op.x.stride,
      At({Buffer::kQuantised, 0, 0}),
      reinterpret_cast<float*>(buffers_[static_cast<std::size_t>(Buffer::kRowScales)])};
  return Checked(Launch(launch, compute_.get()), "rounding to e4m3");
}

absl::Status DeviceEngine::Run(const LoadedTower& tower, const LinearOp& op) {
  SIGLIP_ASSIGN_OR_RETURN(PreparedGemm * prepared, PrepareGemm(op));
  return RunGemm(*prepared, OperandsOf(tower, op));
}

absl::Status DeviceEngine::Run(const LoadedTower&, const AttentionOp& op) {
  const AttentionLaunch launch = LaunchOf(op);
  const auto wins = library_attention_wins_.find(KeyOf(op));
  if (op.query_count == op.tokens && wins != library_attention_wins_.end() && wins->second) {
    return library_attention_->Run(launch, workspace_.get());
  }
  return Checked(Launch(launch, compute_.get()), "attention");
}

absl::Status DeviceEngine::Run(const LoadedTower&, const PoolOp& op) {
  const PoolLaunch launch{options_.types.compute,
                          op.items,
                          op.tokens,
                          op.heads,
                          op.width,
                          At({Buffer::kNormed, 0, 0}),
                          reinterpret_cast<const float*>(At({Buffer::kScores, 0, 0})),
                          At({Buffer::kSums, 0, 0})};
  return Checked(Launch(launch, compute_.get()), "pooling");
}

absl::Status DeviceEngine::Submit(Tower tower, int slot_number, std::int64_t items,
                                  std::int64_t tokens) {
  const CurrentDevice current(options_.ordinal);
  SIGLIP_RETURN_IF_ERROR(Checked(current.result(), "device"));
  LoadedTower& loaded = towers_[Index(tower)];
  const TowerProgram& program = loaded.program;
  Slot& slot = slots_[static_cast<std::size_t>(slot_number)];
  const std::size_t input_bytes = static_cast<std::size_t>(items * program.input_elements(tokens)) *
                                  (tower == Tower::kVision ? sizeof(float) : sizeof(std::int64_t));
  MutexLock lock(mu_);
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaMemcpyAsync(slot.input.get(), slot.input_host.get(), input_bytes,
                              cudaMemcpyHostToDevice, copies_.get()),
              "input"));
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventRecord(slot.uploaded.get(), copies_.get()), "input"));
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaStreamWaitEvent(compute_.get(), slot.uploaded.get()), "input"));
  Plan plan;
  const auto graph = loaded.graphs.find(items);
  const bool captured = tokens == program.usual_tokens() && graph != loaded.graphs.end();
  if (captured) {
    plan = program.MakeInput(items, tokens);
  } else {
    plan = program.MakePlan(items, tokens);  // lengths that only measurements ask for
  }
  SIGLIP_RETURN_IF_ERROR(RunInput(loaded, plan, slot));
  SIGLIP_RETURN_IF_ERROR(
      captured ? Checked(cudaGraphLaunch(graph->second.get(), compute_.get()), "graph")
               : RunOps(loaded, plan));
  SIGLIP_RETURN_IF_ERROR(Checked(
      cudaMemcpyAsync(slot.output_host.get(), At({Buffer::kHead, 0, 0}),
                      static_cast<std::size_t>(items * program.embedding_size()) * sizeof(float),
                      cudaMemcpyDeviceToHost, compute_.get()),
      "embeddings"));
  return Checked(cudaEventRecord(slot.done.get(), compute_.get()), "embeddings");
}

absl::StatusOr<const float*> DeviceEngine::Wait(int slot_number) {
  const Slot& slot = slots_[static_cast<std::size_t>(slot_number)];
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventSynchronize(slot.done.get()), "computing"));
  return reinterpret_cast<const float*>(slot.output_host.get());
}

}  // namespace siglip::cuda
