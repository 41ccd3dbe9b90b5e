#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/cuda/handles.h"
#include "engine/cuda/library_attention.h"

namespace siglip::cuda {
namespace {

namespace fe = cudnn_frontend;

// SDPA of 9.10.0 and 9.10.1 is refused by the frontend; none older has been looked at.
constexpr std::size_t kMinVersion = 91002;

absl::Status FromFrontend(fe::error_t error, const char* what) {
  if (error.is_good()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuDNN: ", what, ": ", error.get_message()));
}

using Handle = std::unique_ptr<std::remove_pointer_t<cudnnHandle_t>, Freed<cudnnDestroy>>;

// Names of the tensors in a graph's table of pointers.
enum Uid : std::int64_t { kQ = 1, kK, kV, kOut };

class CudnnAttention final : public LibraryAttention {
 public:
  explicit CudnnAttention(Handle handle) : handle_(std::move(handle)) {}

  absl::Status Prepare(const AttentionLaunch& launch) override {
    const Key key = KeyOf(launch);
    if (graphs_.contains(key)) return absl::OkStatus();
    try {
      return Build(launch, key);
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("cuDNN: ", error.what()));
    }
  }

  std::size_t workspace_bytes() const override { return workspace_bytes_; }

  absl::Status Run(const AttentionLaunch& launch, void* workspace) override {
    const std::int64_t offset = launch.query_begin * launch.row_stride * 2;
    std::unordered_map<std::int64_t, void*> pointers = {
        {kQ, static_cast<char*>(const_cast<void*>(launch.q)) + offset},
        {kK, const_cast<void*>(launch.k)},
        {kV, const_cast<void*>(launch.v)},
        {kOut, launch.out}};
    try {
      return FromFrontend(graphs_.at(KeyOf(launch))->execute(handle_.get(), pointers, workspace),
                          "attention");
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("cuDNN: ", error.what()));
    }
  }

 private:
  // What a graph depends on. head_dim * heads is out_stride's and row_stride's business too.
  using Key = std::tuple<HalfType, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                         std::int64_t, std::int64_t, std::int64_t>;
  static Key KeyOf(const AttentionLaunch& launch) {
    return {launch.type,     launch.items,       launch.tokens,     launch.heads,
            launch.head_dim, launch.query_count, launch.row_stride, launch.out_stride};
  }

  absl::Status Build(const AttentionLaunch& launch, const Key& key) {
    auto graph = std::make_shared<fe::graph::Graph>();
    graph
        ->set_io_data_type(launch.type == HalfType::kBf16 ? fe::DataType_t::BFLOAT16
                                                          : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    // [items, heads, rows, head_dim], each head a slice of a row.
    const auto tensor = [&](const char* name, Uid uid, std::int64_t rows) {
      return graph->tensor(fe::graph::Tensor_attributes()
                               .set_name(name)
                               .set_uid(uid)
                               .set_dim({launch.items, launch.heads, rows, launch.head_dim})
                               .set_stride({launch.tokens * launch.row_stride, launch.head_dim,
                                            launch.row_stride, 1}));
    };
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(false);
    options.set_attn_scale(static_cast<float>(1 / std::sqrt(static_cast<double>(launch.head_dim))));
    const auto [out, statistics] =
        graph->sdpa(tensor("q", kQ, launch.query_count), tensor("k", kK, launch.tokens),
                    tensor("v", kV, launch.tokens), options);
    out->set_output(true)
        .set_uid(kOut)
        .set_dim({launch.items, launch.heads, launch.query_count, launch.head_dim})
        .set_stride(
            {launch.query_count * launch.out_stride, launch.head_dim, launch.out_stride, 1});
    SIGLIP_RETURN_IF_ERROR(
        FromFrontend(graph->build(handle_.get(), {fe::HeurMode_t::A}), "building attention"));
    std::int64_t bytes = 0;
    SIGLIP_RETURN_IF_ERROR(FromFrontend(graph->get_workspace_size(bytes), "workspace"));
    workspace_bytes_ = std::max(workspace_bytes_, static_cast<std::size_t>(bytes));
    graphs_.emplace(key, std::move(graph));
    return absl::OkStatus();
  }

  const Handle handle_;
  std::map<Key, std::shared_ptr<fe::graph::Graph>> graphs_;
  std::size_t workspace_bytes_ = 0;
};

std::string Version() {
  const std::size_t version = cudnnGetVersion();
  return absl::StrCat("cuDNN ", version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<std::unique_ptr<LibraryAttention>> Open(cudaStream_t stream) {
  if (cudnnGetVersion() < kMinVersion) {
    return absl::UnavailableError(absl::StrCat("cuDNN: expected 9.10.2 or newer, got ", Version()));
  }
  cudnnHandle_t handle = nullptr;
  cudnnStatus_t status = cudnnCreate(&handle);
  Handle owned(handle);
  if (status == CUDNN_STATUS_SUCCESS) status = cudnnSetStream(handle, stream);
  if (status != CUDNN_STATUS_SUCCESS) {
    return absl::UnavailableError(absl::StrCat("cuDNN: ", cudnnGetErrorString(status)));
  }
  return std::make_unique<CudnnAttention>(std::move(owned));
}

}  // namespace
}  // namespace siglip::cuda

extern "C" __attribute__((visibility("default"))) const siglip::cuda::LibraryAttentionFunctions*
siglip_cudnn_functions() {
  static constexpr siglip::cuda::LibraryAttentionFunctions kFunctions = {
      SIGLIP_BUILD, siglip::cuda::Version, siglip::cuda::Open};
  return &kFunctions;
}
