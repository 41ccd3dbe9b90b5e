#include "deployments/factory.h"

#include <algorithm>
#include <filesystem>
#include <new>
#include <optional>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/checked_math.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "deployments/embed_forwarders.h"
#include "deployments/steps.h"
#include "serving/config_check.h"
#include "serving/validate.h"

namespace siglip {
namespace {

// Tensors of a deployment, from the checkpoint.
struct Signature {
  std::vector<TensorConfig> inputs;
  std::vector<TensorConfig> outputs;
};

// What the vision tower takes.
std::vector<TensorConfig> PixelTensors(const ModelInfo& info) {
  TensorConfig values{.name = "PIXEL_VALUES",
                      .datatype = DataType::kFp32,
                      .dims = {3, info.image_size, info.image_size}};
  if (!info.naflex()) return {values};
  values.dims = {info.max_patches, 3 * info.patch_size * info.patch_size};
  return {values, {.name = "SPATIAL_SHAPES", .datatype = DataType::kInt64, .dims = {2}}};
}

std::optional<Signature> SignatureOf(const std::string& step, const ModelInfo& info) {
  const TensorConfig image{.name = "INPUT_IMAGE", .datatype = DataType::kBytes, .dims = {1}};
  const TensorConfig text{.name = "INPUT_TEXT", .datatype = DataType::kBytes, .dims = {1}};
  const TensorConfig ids{
      .name = "INPUT_IDS", .datatype = DataType::kInt64, .dims = {info.text_length}};
  const TensorConfig embedding{
      .name = "EMBEDDING", .datatype = DataType::kFp32, .dims = {info.embedding_size}};
  if (step == "image_process") return Signature{{image}, PixelTensors(info)};
  if (step == "vision") return Signature{PixelTensors(info), {embedding}};
  if (step == "text") return Signature{{ids}, {embedding}};
  if (step == "embed_image") return Signature{{image}, {embedding}};
  if (step == "embed_text") return Signature{{text}, {embedding}};
  return std::nullopt;
}

// "A FP32 and B INT64".
std::string TensorsText(const std::vector<TensorConfig>& tensors) {
  if (tensors.empty()) return "none";
  return absl::StrJoin(tensors, " and ", [](std::string* text, const TensorConfig& tensor) {
    absl::StrAppend(text, tensor.name, " ", std::string(DataTypeName(tensor.datatype)));
  });
}

// Fills dims that are left out or -1; what is stated must be what the checkpoint has.
absl::Status Complete(const ModelConfig& config, const char* field,
                      const std::vector<TensorConfig>& expected,
                      std::vector<TensorConfig>& tensors) {
  const bool named = std::equal(tensors.begin(), tensors.end(), expected.begin(), expected.end(),
                                [](const TensorConfig& a, const TensorConfig& b) {
                                  return a.name == b.name && a.datatype == b.datatype;
                                });
  if (!named) {
    return ConfigError(
        config, field,
        absl::StrCat("expected ", TensorsText(expected), ", got ", TensorsText(tensors)));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::vector<std::int64_t>& dims = tensors[i].dims;
    if (!dims.empty() && !DimsFit(dims, expected[i].dims)) {
      return ConfigError(
          config, field,
          absl::StrCat("'", expected[i].name, "': dims ", ShapeText(dims),
                       " differ from the checkpoint's ", ShapeText(expected[i].dims)),
          expected[i].name);
    }
    dims = expected[i].dims;
  }
  return absl::OkStatus();
}

// One item of zeros, so that the first client does not pay for caches and pages.
Warmup ZeroWarmup(const TensorConfig& input) {
  const WarmupInput zeros{.datatype = input.datatype, .dims = input.dims};
  return {.name = "zeros", .batch_size = 1, .inputs = {{input.name, zeros}}};
}

// The same of NaFlex, where zeros are no shape.
absl::Status WarmUpNaflex(const ModelConfig& config, Model& model) {
  const ModelInfo& info = model.info();
  absl::Status status;
  try {
    const std::vector<float> zeros(info.pixel_values());
    std::vector<float> row(static_cast<std::size_t>(info.embedding_size));
    const ImagePixels image{.values = zeros.data(), .grid = {1, info.max_patches}};
    float* const rows[] = {row.data()};
    status = model.EncodePixels({&image, 1}, rows);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("out of memory");
  }
  return status.ok() ? status : ConfigError(config, "model_warmup", std::string(status.message()));
}

// Dims that the configuration of a warmup leaves open.
void CompleteWarmups(const std::vector<TensorConfig>& inputs, ModelConfig& config) {
  for (Warmup& warmup : config.warmups) {
    for (const TensorConfig& expected : inputs) {
      const auto found = warmup.inputs.find(expected.name);
      if (found != warmup.inputs.end() && DimsFit(found->second.dims, expected.dims)) {
        found->second.dims = expected.dims;
      }
    }
  }
}

// What a client needs beside the embeddings, readable in the configurations of the two doors:
// SigLIP's probability of a text for an image is sigmoid(cos * exp(logit_scale) + logit_bias).
void DescribeCheckpoint(const ModelInfo& info, ModelConfig& config) {
  if (info.naflex()) {
    config.parameters["patch_size"] = absl::StrCat(info.patch_size);
    config.parameters["max_num_patches"] = absl::StrCat(info.max_patches);
  } else {
    config.parameters["image_size"] = absl::StrCat(info.image_size);
  }
  config.parameters["text_length"] = absl::StrCat(info.text_length);
  config.parameters["engine"] = info.engine;
  if (info.engine == "none") return;  // opened without the weights, which hold the other two
  // Nine digits read back as the same float.
  config.parameters["logit_scale"] = absl::StrFormat("%.9g", info.logit_scale);
  config.parameters["logit_bias"] = absl::StrFormat("%.9g", info.logit_bias);
}

Door DoorOf(const ModelConfig& config, const char* embed_model) {
  const std::string own = config.parameter("embed_model");
  return {.embed_model = own.empty() ? embed_model : own, .batched = config.max_batch_size > 0};
}

// What image_process goes by: the checkpoint's, with the Pillow that the configuration asks for. 13
// asks for nothing: it is the default, and the shipped configuration says it.
absl::StatusOr<ModelInfo> PixelsOf(const ModelConfig& config, ModelInfo info) {
  const std::string pillow = config.parameter("pillow");
  if (!pillow.empty() && pillow != "12" && pillow != "13") {
    return ConfigError(config, "parameters.pillow",
                       absl::StrCat("expected 12 or 13, got ", pillow));
  }
  if (pillow == "12") info.pixels.pillow = 12;
  return info;
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

std::string DeploymentsFactory::FolderOf(const ModelConfig& config) const {
  if (!options_.model_override.empty()) return options_.model_override;
  return config.checkpoint_folder();
}

absl::StatusOr<std::shared_ptr<Model>> DeploymentsFactory::ModelOf(const ModelConfig& config) {
  const std::string folder = FolderOf(config);
  if (folder.empty()) {
    return ConfigError(config, "parameters.checkpoint", "expected a snapshot folder, got none");
  }
  ModelOptions options = options_.model;
  const std::string patches = config.parameter("max_num_patches");
  if (!patches.empty()) {
    const auto count = ParseInt<std::int64_t>(patches);
    if (!count || *count < 1) {
      return ConfigError(config, "parameters.max_num_patches",
                         absl::StrCat("expected a number above 0, got ", patches));
    }
    options.max_patches = *count;
  }
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::weakly_canonical(folder, error);
  const Key key{error ? folder : canonical.string(), FilesText(folder), options.max_patches};
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
  const std::string step = config.parameter("step");
  if (!SignatureOf(step, ModelInfo{})) {
    return ConfigError(
        config, "parameters.step",
        absl::StrCat("expected image_process, vision, text, embed_image or embed_text, got '", step,
                     "'"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::shared_ptr<Model> model, ModelOf(config));
  SIGLIP_ASSIGN_OR_RETURN(const ModelInfo pixels, PixelsOf(config, model->info()));
  const Signature signature = *SignatureOf(step, model->info());
  SIGLIP_RETURN_IF_ERROR(Complete(config, "input", signature.inputs, config.inputs));
  SIGLIP_RETURN_IF_ERROR(Complete(config, "output", signature.outputs, config.outputs));
  CompleteWarmups(signature.inputs, config);
  if (config.warmups.empty() && step == "vision" && model->info().naflex()) {
    SIGLIP_RETURN_IF_ERROR(WarmUpNaflex(config, *model));
  } else if (config.warmups.empty() && (step == "vision" || step == "text")) {
    config.warmups.push_back(ZeroWarmup(signature.inputs[0]));
  }

  Deployment deployment;
  if (step == "image_process") config.parameters["pillow"] = absl::StrCat(pixels.pixels.pillow);
  const bool of_model = pixels.pixels.pillow == model->info().pixels.pillow;
  if (step == "image_process" && options_.decode_workers != nullptr) {
    deployment.step = of_model && model->info().gpu_resize
                          ? MakeImageProcessStep(model, *options_.decode_workers)
                          : MakeImageProcessStep(pixels, *options_.decode_workers);
    deployment.num_instances = options_.decode_workers->count();
  } else if (step == "image_process") {
    deployment.step = of_model ? MakeImageProcessStep(model) : MakeImageProcessStep(pixels);
    deployment.num_instances = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  } else if (step == "vision") {
    deployment.step = MakeVisionStep(model);
    SetDevice(model->info(), deployment);
  } else if (step == "text") {
    deployment.step = MakeTextStep(model);
    SetDevice(model->info(), deployment);
  } else if (step == "embed_image") {
    DescribeCheckpoint(model->info(), config);
    deployment.forwarder = MakeEmbedImageForwarder(model, DoorOf(config, "siglip_vision"));
  } else {
    DescribeCheckpoint(model->info(), config);
    deployment.forwarder = MakeEmbedTextForwarder(model, DoorOf(config, "siglip_text"));
  }
  return deployment;
}

std::vector<std::string> DeploymentsFactory::DescribeModels() const {
  std::vector<std::string> lines;
  for (const auto& entry : models_) {
    const std::shared_ptr<Model> model = entry.second.lock();
    if (model == nullptr) continue;
    const ModelInfo& info = model->info();
    const std::string size =
        info.naflex() ? absl::StrCat("N ", info.max_patches) : absl::StrCat("S ", info.image_size);
    lines.push_back(absl::StrCat("checkpoint ", info.directory, ": ", size, ", D ",
                                 info.embedding_size, ", T ", info.text_length, "; ", info.engine));
    if (!info.precision_choice.empty()) {
      lines.push_back(absl::StrCat("precision auto: ", info.precision_choice));
    }
  }
  return lines;
}

}  // namespace siglip
