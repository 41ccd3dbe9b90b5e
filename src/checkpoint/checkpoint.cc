#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "checkpoint/snapshot_folder.h"
#include "checkpoint/weight_files.h"

namespace siglip {
namespace {

// How many wrong tensors an error names; the rest is counted.
constexpr std::size_t kMaxNamed = 5;

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

void AppendLinear(const std::string& name, std::int64_t out, std::int64_t in,
                  std::vector<RequiredTensor>& tensors) {
  tensors.push_back({name + ".weight", {out, in}});
  tensors.push_back({name + ".bias", {out}});
}

void AppendNorm(const std::string& name, std::int64_t width, std::vector<RequiredTensor>& tensors) {
  tensors.push_back({name + ".weight", {width}});
  tensors.push_back({name + ".bias", {width}});
}

void AppendEncoder(const std::string& tower_name, const TowerConfig& tower,
                   std::vector<RequiredTensor>& tensors) {
  const std::int64_t width = tower.hidden_size;
  for (std::int64_t i = 0; i < tower.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat(tower_name, ".encoder.layers.", i, ".");
    AppendNorm(layer + "layer_norm1", width, tensors);
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      AppendLinear(absl::StrCat(layer, "self_attn.", projection), width, width, tensors);
    }
    AppendNorm(layer + "layer_norm2", width, tensors);
    AppendLinear(layer + "mlp.fc1", tower.intermediate_size, width, tensors);
    AppendLinear(layer + "mlp.fc2", width, tower.intermediate_size, tensors);
  }
}

absl::Status Several(const std::string& where, const std::vector<std::string>& problems) {
  std::string text = absl::StrJoin(
      problems.begin(),
      problems.begin() + static_cast<std::ptrdiff_t>(std::min(problems.size(), kMaxNamed)), "; ");
  if (problems.size() > kMaxNamed) {
    absl::StrAppend(&text, "; and ", problems.size() - kMaxNamed, " more");
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", text));
}

// A model that was saved as a part of another one has this in front of its tensors' names; as
// transformers does (base_model_prefix), it is taken off where the rest is a name that is needed.
absl::Status Unwrap(const std::string& where, const SiglipConfig& config,
                    std::map<std::string, StoredTensor>& found) {
  const std::string prefix = config.vision.naflex() ? "siglip2." : "siglip.";
  for (const RequiredTensor& required : RequiredTensors(config)) {
    auto node = found.extract(prefix + required.name);
    if (node.empty()) continue;
    node.key() = required.name;
    if (!found.insert(std::move(node)).inserted) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": tensor \"", required.name,
                                                     "\": found twice, also as \"", prefix,
                                                     required.name, "\""));
    }
  }
  return absl::OkStatus();
}

// A part of the model has the same model_type, and would open in transformers with random weights
// for the rest.
absl::Status CheckBothTowers(const std::string& where,
                             const std::map<std::string, StoredTensor>& found) {
  const auto has = [&](const std::string& tower) {
    const auto first = found.lower_bound(tower);
    return first != found.end() && first->first.starts_with(tower);
  };
  const bool vision = has("vision_model."), text = has("text_model.");
  if (vision == text) return absl::OkStatus();  // what is missing is told by name
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": found no tensor \"", vision ? "text_model" : "vision_model",
      ".*\": the whole SiglipModel is needed, not SiglipForImageClassification or one tower"));
}

// " (but "x.name")" if there is a tensor whose name ends so.
std::string ButAs(const std::string& name, const std::map<std::string, StoredTensor>& found) {
  for (const auto& [other, tensor] : found) {
    if (other.ends_with("." + name)) return absl::StrCat(" (but \"", other, "\")");
  }
  return "";
}

// Splits what the files hold into needed and extra, and says everything that is wrong with the
// needed.
absl::Status CheckTensors(const std::string& where, const SiglipConfig& config,
                          std::map<std::string, StoredTensor>& found,
                          std::vector<std::string>& extra) {
  std::vector<std::string> problems;
  std::map<std::string, StoredTensor> needed;
  for (const RequiredTensor& required : RequiredTensors(config)) {
    auto node = found.extract(required.name);
    if (node.empty()) {
      problems.push_back(absl::StrCat("tensor \"", required.name, "\": expected shape ",
                                      ShapeText(required.shape), ", found no such tensor",
                                      // One look through all of them is enough.
                                      problems.empty() ? ButAs(required.name, found) : ""));
    } else if (node.mapped().shape != required.shape ||
               node.mapped().dtype == TensorDtype::kOther) {
      problems.push_back(absl::StrCat(
          "tensor \"", required.name, "\": expected F32, F16 or BF16 ", ShapeText(required.shape),
          ", found ", node.mapped().dtype_name, " ", ShapeText(node.mapped().shape)));
    } else {
      needed.insert(std::move(node));
    }
  }
  for (const auto& [name, tensor] : found) extra.push_back(name);
  found = std::move(needed);
  return problems.empty() ? absl::OkStatus() : Several(where, problems);
}

float FloatFromHalf(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude < 0x400u) {  // zero, subnormal: value = magnitude * 2^-24, exact in float
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

}  // namespace

std::vector<RequiredTensor> RequiredTensors(const SiglipConfig& config) {
  const VisionConfig& vision = config.vision;
  const TextConfig& text = config.text;
  const std::int64_t width = vision.hidden_size;
  std::vector<RequiredTensor> tensors;
  tensors.push_back({"logit_scale", {1}});
  tensors.push_back({"logit_bias", {1}});

  const std::string embeddings = "vision_model.embeddings.";
  // NaFlex: of a patch in the order (y, x, channel).
  const std::int64_t patch = vision.patch_size;
  const std::vector<std::int64_t> filters =
      vision.naflex() ? std::vector{width, patch * patch * vision.num_channels}
                      : std::vector{width, vision.num_channels, patch, patch};
  tensors.push_back({embeddings + "patch_embedding.weight", filters});
  tensors.push_back({embeddings + "patch_embedding.bias", {width}});
  tensors.push_back({embeddings + "position_embedding.weight", {vision.num_positions(), width}});
  AppendEncoder("vision_model", vision, tensors);
  AppendNorm("vision_model.post_layernorm", width, tensors);
  const std::string head = "vision_model.head.";
  tensors.push_back({head + "probe", {1, 1, width}});
  tensors.push_back({head + "attention.in_proj_weight", {3 * width, width}});
  tensors.push_back({head + "attention.in_proj_bias", {3 * width}});
  AppendLinear(head + "attention.out_proj", width, width, tensors);
  AppendNorm(head + "layernorm", width, tensors);
  AppendLinear(head + "mlp.fc1", vision.intermediate_size, width, tensors);
  AppendLinear(head + "mlp.fc2", width, vision.intermediate_size, tensors);

  tensors.push_back(
      {"text_model.embeddings.token_embedding.weight", {text.vocab_size, text.hidden_size}});
  tensors.push_back({"text_model.embeddings.position_embedding.weight",
                     {text.max_position_embeddings, text.hidden_size}});
  AppendEncoder("text_model", text, tensors);
  AppendNorm("text_model.final_layer_norm", text.hidden_size, tensors);
  AppendLinear("text_model.head", text.projection_size, text.hidden_size, tensors);
  return tensors;
}

absl::Status Checkpoint::OpenWeights() {
  SIGLIP_ASSIGN_OR_RETURN(const WeightFiles weights, FindWeightFiles(directory_));
  std::map<std::string, StoredTensor> found;
  for (const std::string& name : weights.names) {
    const std::string path = directory_ + "/" + name;
    SIGLIP_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    // transformers takes all that a shard holds, whatever the index says of it, and the last of
    // two.
    for (const auto& [tensor, stored] : file.tensors()) found.insert_or_assign(tensor, stored);
    files_.push_back(std::move(file));
    weight_files_.push_back(path);
  }
  for (const auto& [tensor, name] : weights.file_of) {
    if (!found.contains(tensor)) {
      return absl::InvalidArgumentError(absl::StrCat(directory_, "/", kWeightIndexFile,
                                                     ": tensor \"", tensor, "\": expected in ",
                                                     name, ", no shard holds it"));
    }
  }
  SIGLIP_RETURN_IF_ERROR(Unwrap(directory_, config_, found));
  SIGLIP_RETURN_IF_ERROR(CheckBothTowers(directory_, found));
  SIGLIP_RETURN_IF_ERROR(CheckTensors(directory_, config_, found, extra_tensors_));
  std::sort(extra_tensors_.begin(), extra_tensors_.end());
  tensors_ = std::move(found);
  for (const auto& [name, tensor] : tensors_) num_parameters_ += *ElementCount(tensor.shape);
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  SIGLIP_RETURN_IF_ERROR(CheckSnapshotFolder(directory));
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  SIGLIP_ASSIGN_OR_RETURN(checkpoint.config_,
                          ReadSiglipConfig(directory, &checkpoint.config_text_));
  const VisionConfig& vision = checkpoint.config_.vision;
  SIGLIP_ASSIGN_OR_RETURN(checkpoint.preprocessor_,
                          ReadPreprocessorConfig(directory, vision.naflex()));
  const std::string& source = checkpoint.preprocessor_.source;
  if (checkpoint.preprocessor_.image_size != vision.image_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": size ", checkpoint.preprocessor_.image_size, " differs from image_size ",
        vision.image_size, " of ", directory, "/config.json"));
  }
  if (vision.naflex() && checkpoint.preprocessor_.patch_size != vision.patch_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": patch_size ", checkpoint.preprocessor_.patch_size, " differs from patch_size ",
        vision.patch_size, " of ", directory, "/config.json"));
  }
  SIGLIP_RETURN_IF_ERROR(checkpoint.OpenWeights());
  checkpoint.CopyFloat("logit_scale", {&checkpoint.logit_scale_, 1});
  checkpoint.CopyFloat("logit_bias", {&checkpoint.logit_bias_, 1});
  return checkpoint;
}

const StoredTensor& Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  SIGLIP_CHECK(found != tensors_.end());
  return found->second;
}

std::vector<FileIdentity> Checkpoint::weight_file_identities() const {
  std::vector<FileIdentity> identities;
  for (const SafetensorsFile& file : files_) identities.push_back(file.identity());
  return identities;
}

void Checkpoint::CopyFloat(std::string_view name, std::span<float> out) const {
  const StoredTensor& stored = tensor(name);
  SIGLIP_CHECK(out.size() * DtypeSizeBytes(stored.dtype) == stored.bytes.size());
  CopyFloats(stored, 0, out);
}

void CopyFloats(const StoredTensor& tensor, std::int64_t first, std::span<float> out) {
  const std::size_t size = DtypeSizeBytes(tensor.dtype);
  const std::span<const std::byte> bytes =
      tensor.bytes.subspan(static_cast<std::size_t>(first) * size, out.size() * size);
  if (tensor.dtype == TensorDtype::kF32) {
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return;
  }
  // Tensors start anywhere in the file: 16-bit values may be unaligned.
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    out[i] = tensor.dtype == TensorDtype::kBF16
                 ? std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16)
                 : FloatFromHalf(bits);
  }
}

}  // namespace siglip
