#include "checkpoint/config.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "checkpoint/json.h"
#include "checkpoint/json_fields.h"

namespace siglip {
namespace {

using nlohmann::json;

// The real ones have a few kB.
constexpr std::uint64_t kMaxConfigBytes = 16 << 20;
// Limits: several times the largest published SigLIP (hidden 1536, MLP 6144, 40 layers, 512 px,
// vocabulary 256,000), and small enough that no product of a tower's sizes leaves 63 bits.
constexpr std::int64_t kMaxHidden = 1 << 14;
constexpr std::int64_t kMaxIntermediate = 1 << 16;
constexpr std::int64_t kMaxLayers = 256;
constexpr std::int64_t kMaxTokens = kMaxPatches;
constexpr std::int64_t kMaxVocabulary = 1 << 21;
// A float32 LayerNorm does not notice less; more than 1 is no epsilon.
constexpr float kMinEps = 0;
constexpr float kMaxEps = 1;

// One function: in float64 torch's are within 1e-12 of each other, in float32 within its rounding.
constexpr std::string_view kGeluTanhNames[] = {"gelu_pytorch_tanh", "gelu_new", "gelu_accurate",
                                               "gelu_python_tanh", "gelu_fast"};

void ReadTower(JsonFields& fields, TowerConfig& tower) {
  fields.Read("hidden_size", tower.hidden_size, 1, kMaxHidden);
  fields.Read("intermediate_size", tower.intermediate_size, 1, kMaxIntermediate);
  fields.Read("num_hidden_layers", tower.num_hidden_layers, 1, kMaxLayers);
  fields.Read("num_attention_heads", tower.num_attention_heads, 1, kMaxHidden);
  fields.Read("layer_norm_eps", tower.layer_norm_eps, kMinEps, kMaxEps);
  // Layers that differ from each other.
  if (fields.Has("per_layer_config")) fields.Fail("\"per_layer_config\": is not supported");
  std::string activation = "gelu_pytorch_tanh";
  fields.Read("hidden_act", activation);
  if (std::find(std::begin(kGeluTanhNames), std::end(kGeluTanhNames), activation) ==
      std::end(kGeluTanhNames)) {
    fields.Fail(absl::StrCat("\"hidden_act\": expected gelu_pytorch_tanh, got ", activation));
  }
  if (tower.hidden_size % tower.num_attention_heads != 0) {
    fields.Fail(absl::StrCat("hidden_size ", tower.hidden_size, " is not a multiple of ",
                             "num_attention_heads ", tower.num_attention_heads));
  }
}

void ReadFixedResolution(JsonFields& fields, VisionConfig& vision) {
  fields.Read("image_size", vision.image_size, 1, kMaxImageSize);
  if (vision.patch_size > vision.image_size) {
    fields.Fail(absl::StrCat("patch_size ", vision.patch_size, " is larger than image_size ",
                             vision.image_size));
  } else if (vision.num_patches() > kMaxTokens) {
    fields.Fail(absl::StrCat(vision.num_patches(), " patches: at most ", kMaxTokens));
  }
}

void ReadNaflex(JsonFields& fields, VisionConfig& vision) {
  std::int64_t positions = 256;
  fields.Read("num_patches", positions, 1, kMaxTokens);
  vision.image_size = 0;
  vision.table_side = 1;
  while ((vision.table_side + 1) * (vision.table_side + 1) <= positions) ++vision.table_side;
  if (vision.num_positions() != positions) {
    fields.Fail(absl::StrCat("\"num_patches\": expected a square number, got ", positions));
  }
}

using ReadResolution = void (*)(JsonFields&, VisionConfig&);

absl::Status ReadVision(const json& object, const std::string& where,
                        ReadResolution read_resolution, VisionConfig& vision) {
  JsonFields fields(object, where);
  ReadTower(fields, vision);
  fields.Read("num_channels", vision.num_channels, 3, 3);
  fields.Read("patch_size", vision.patch_size, 1, kMaxImageSize);
  bool use_head = true;
  fields.Read("vision_use_head", use_head);
  if (!use_head)
    fields.Fail("\"vision_use_head\": false is not supported: no embedding without it");
  read_resolution(fields, vision);
  return fields.status();
}

absl::Status ReadText(const json& object, const std::string& where, TextConfig& text) {
  JsonFields fields(object, where);
  ReadTower(fields, text);
  fields.Read("vocab_size", text.vocab_size, 1, kMaxVocabulary);
  fields.Read("max_position_embeddings", text.max_position_embeddings, 1, kMaxTokens);
  text.projection_size = text.hidden_size;
  if (fields.Has("projection_size")) {
    fields.Read("projection_size", text.projection_size, 1, kMaxHidden);
  }
  return fields.status();
}

}  // namespace

absl::StatusOr<SiglipConfig> ParseSiglipConfig(std::string_view text, const std::string& source) {
  SIGLIP_ASSIGN_OR_RETURN(const json root, ParseStrictJson(text, source));
  JsonFields fields(root, source);
  std::string model_type;
  fields.Read("model_type", model_type);
  SIGLIP_RETURN_IF_ERROR(fields.status());
  if (model_type != "siglip" && model_type != "siglip2") {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": \"model_type\": expected \"siglip\" or \"siglip2\", got \"", model_type, "\"",
        model_type.starts_with("siglip") ? " (one tower alone? The whole model is needed)" : ""));
  }
  if (fields.Has("transformers_weights")) {
    // Another file in the place of model.safetensors.
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": \"transformers_weights\": is not supported, got ",
                     ShortDump(root["transformers_weights"])));
  }
  const ReadResolution read_resolution = model_type == "siglip2" ? ReadNaflex : ReadFixedResolution;
  // A missing or null part has the class defaults.
  const json empty = json::object();
  SiglipConfig config;
  SIGLIP_RETURN_IF_ERROR(ReadVision(fields.Has("vision_config") ? root["vision_config"] : empty,
                                    source + ": vision_config", read_resolution, config.vision));
  SIGLIP_RETURN_IF_ERROR(ReadText(fields.Has("text_config") ? root["text_config"] : empty,
                                  source + ": text_config", config.text));
  if (config.text.projection_size != config.vision.hidden_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": text_config.projection_size ", config.text.projection_size,
                     " differs from vision_config.hidden_size ", config.vision.hidden_size));
  }
  return config;
}

absl::StatusOr<SiglipConfig> ReadSiglipConfig(const std::string& directory, std::string* text) {
  const std::string path = directory + "/config.json";
  SIGLIP_ASSIGN_OR_RETURN(std::string json, ReadFile(path, kMaxConfigBytes));
  absl::StatusOr<SiglipConfig> config = ParseSiglipConfig(json, path);
  if (text != nullptr) *text = std::move(json);
  return config;
}

}  // namespace siglip
