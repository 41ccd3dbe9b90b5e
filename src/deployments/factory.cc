#include "deployments/factory.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "deployments/embed_forwarders.h"
#include "deployments/steps.h"
#include "serving/config_check.h"
#include "serving/validate.h"

namespace siglip {
namespace {

std::string ParameterOf(const ModelConfig& config, const char* name) {
  const auto found = config.parameters.find(name);
  return found == config.parameters.end() ? std::string() : found->second;
}

// Tensors of a deployment, from the checkpoint.
struct Signature {
  TensorConfig input;
  TensorConfig output;
};

std::optional<Signature> SignatureOf(const std::string& step, const ModelInfo& info) {
  const std::vector<std::int64_t> pixels = {3, info.image_size, info.image_size};
  const TensorConfig image{.name = "INPUT_IMAGE", .datatype = DataType::kBytes, .dims = {1}};
  const TensorConfig text{.name = "INPUT_TEXT", .datatype = DataType::kBytes, .dims = {1}};
  const TensorConfig ids{
      .name = "INPUT_IDS", .datatype = DataType::kInt64, .dims = {info.text_length}};
  const TensorConfig values{.name = "PIXEL_VALUES", .datatype = DataType::kFp32, .dims = pixels};
  const TensorConfig embedding{
      .name = "EMBEDDING", .datatype = DataType::kFp32, .dims = {info.embedding_size}};
  if (step == "image_process") return Signature{image, values};
  if (step == "vision") return Signature{values, embedding};
  if (step == "text") return Signature{ids, embedding};
  if (step == "embed_image") return Signature{image, embedding};
  if (step == "embed_text") return Signature{text, embedding};
  return std::nullopt;
}

// Fills dims that are left out or -1; what is stated must be what the checkpoint has.
absl::Status Complete(const ModelConfig& config, const char* field, const TensorConfig& expected,
                      std::vector<TensorConfig>& tensors) {
  const bool named = tensors.size() == 1 && tensors[0].name == expected.name &&
                     tensors[0].datatype == expected.datatype;
  if (!named) {
    return ConfigError(config, field,
                       absl::StrCat("expected one tensor, ", expected.name, " ",
                                    std::string(DataTypeName(expected.datatype)), ", got ",
                                    tensors.empty() ? std::string("none") : tensors[0].name));
  }
  std::vector<std::int64_t>& dims = tensors[0].dims;
  if (!dims.empty() && !DimsFit(dims, expected.dims)) {
    return ConfigError(config, field,
                       absl::StrCat("'", expected.name, "': dims ", ShapeText(dims),
                                    " differ from the checkpoint's ", ShapeText(expected.dims)));
  }
  dims = expected.dims;
  return absl::OkStatus();
}

// One item of zeros, so that the first client does not pay for caches and pages.
Warmup ZeroWarmup(const TensorConfig& input) {
  const WarmupInput zeros{.datatype = input.datatype, .dims = input.dims};
  return {.name = "zeros", .batch_size = 1, .inputs = {{input.name, zeros}}};
}

// What a client needs beside the embeddings, readable in the configurations of the two doors:
// SigLIP's probability of a text for an image is sigmoid(cos * exp(logit_scale) + logit_bias).
void DescribeCheckpoint(const ModelInfo& info, ModelConfig& config) {
  config.parameters["image_size"] = absl::StrCat(info.image_size);
  config.parameters["text_length"] = absl::StrCat(info.text_length);
  config.parameters["engine"] = info.engine;
  if (info.engine == "none") return;  // opened without the weights, which hold the other two
  // Nine digits read back as the same float.
  config.parameters["logit_scale"] = absl::StrFormat("%.9g", info.logit_scale);
  config.parameters["logit_bias"] = absl::StrFormat("%.9g", info.logit_bias);
}

// Names, sizes and times of a checkpoint's files: another text when one was replaced.
std::string FilesText(const std::string& folder) {
  std::vector<std::string> lines;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const auto file = IdentifyFile(it->path().string());
    if (!file.ok()) continue;
    lines.push_back(absl::StrCat(it->path().filename().string(), " ", file->inode, " ", file->bytes,
                                 " ", file->modified_ns));
  }
  std::sort(lines.begin(), lines.end());
  return absl::StrJoin(lines, "\n");
}

// A GPU has one batch that computes and one that is copied.
constexpr int kInstancesPerGpu = 2;

void SetDevice(const ModelInfo& info, Deployment& deployment) {
  deployment.gpus = info.gpus;
  if (!info.gpus.empty()) deployment.num_instances = kInstancesPerGpu;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Model>> DeploymentsFactory::ModelOf(const ModelConfig& config) {
  std::string folder = options_.model_override;
  if (folder.empty()) {
    folder = ParameterOf(config, "checkpoint");
    if (folder.empty()) {
      return ConfigError(config, "parameters.checkpoint", "expected a snapshot folder, got none");
    }
    if (folder[0] != '/') folder = absl::StrCat(config.directory, "/", folder);
  }
  ModelOptions options = options_.model;
  const std::string pillow = ParameterOf(config, "pillow");
  if (!pillow.empty() && pillow != "12" && pillow != "13") {
    return ConfigError(config, "parameters.pillow",
                       absl::StrCat("expected 12 or 13, got ", pillow));
  }
  if (pillow == "12") options.pillow = 12;
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::weakly_canonical(folder, error);
  const Key key{error ? folder : canonical.string(), FilesText(folder), options.pillow};
  std::erase_if(models_, [](const auto& entry) { return entry.second.expired(); });
  std::shared_ptr<Model> model = models_[key].lock();
  if (model == nullptr) {
    auto opened = options_.open(folder, options);
    if (!opened.ok()) {
      return ConfigError(config, "parameters.checkpoint", std::string(opened.status().message()));
    }
    model = *std::move(opened);
    models_[key] = model;
  }
  return model;
}

absl::StatusOr<Deployment> DeploymentsFactory::Make(ModelConfig& config) {
  const std::string step = ParameterOf(config, "step");
  if (!SignatureOf(step, ModelInfo{})) {
    return ConfigError(
        config, "parameters.step",
        absl::StrCat("expected image_process, vision, text, embed_image or embed_text, got '", step,
                     "'"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, ModelOf(config));
  const Signature signature = *SignatureOf(step, model->info());
  SIGLIP_RETURN_IF_ERROR(Complete(config, "input", signature.input, config.inputs));
  SIGLIP_RETURN_IF_ERROR(Complete(config, "output", signature.output, config.outputs));
  for (Warmup& warmup : config.warmups) {
    for (auto& [name, input] : warmup.inputs) {
      if (name == signature.input.name && DimsFit(input.dims, signature.input.dims)) {
        input.dims = signature.input.dims;
      }
    }
  }

  if (config.warmups.empty() && (step == "vision" || step == "text")) {
    config.warmups.push_back(ZeroWarmup(signature.input));
  }

  Deployment deployment;
  const std::string embed_model = ParameterOf(config, "embed_model");
  const int max_batch_size = options_.model.max_batch_size;
  if (step == "image_process") {
    deployment.step = MakeImageProcessStep(model);
    deployment.num_instances = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  } else if (step == "vision") {
    deployment.step = MakeVisionStep(model, max_batch_size);
    SetDevice(model->info(), deployment);
  } else if (step == "text") {
    deployment.step = MakeTextStep(model, max_batch_size);
    SetDevice(model->info(), deployment);
  } else if (step == "embed_image") {
    DescribeCheckpoint(model->info(), config);
    deployment.forwarder =
        MakeEmbedImageForwarder(model, embed_model.empty() ? "siglip_vision" : embed_model);
  } else {
    DescribeCheckpoint(model->info(), config);
    deployment.forwarder =
        MakeEmbedTextForwarder(model, embed_model.empty() ? "siglip_text" : embed_model);
  }
  return deployment;
}

std::vector<std::string> DeploymentsFactory::DescribeModels() const {
  std::vector<std::string> lines;
  for (const auto& [key, weak] : models_) {
    const std::shared_ptr<Model> model = weak.lock();
    if (model == nullptr) continue;
    const ModelInfo& info = model->info();
    lines.push_back(absl::StrCat("checkpoint ", info.directory, ": S ", info.image_size, ", D ",
                                 info.embedding_size, ", T ", info.text_length, "; ", info.engine,
                                 "; pixels of Pillow ", key.pillow));
    if (!info.precision_choice.empty()) {
      lines.push_back(absl::StrCat("precision auto: ", info.precision_choice));
    }
  }
  return lines;
}

}  // namespace siglip
