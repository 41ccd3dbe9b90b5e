#pragma once

// Writes small snapshot folders for tests: every needed tensor, filled with a simple pattern.

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked_math.h"
#include "checkpoint/checkpoint.h"

namespace siglip {

inline constexpr const char* kTinyConfigJson = R"({
  "model_type": "siglip",
  "vision_config": {"hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 1,
                    "num_attention_heads": 3, "image_size": 9, "patch_size": 4},
  "text_config": {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 5,
                  "projection_size": 12}})";

inline void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// Serialises tensors whose element i is `value(name, i)` as float32.
template <class Value>
std::string SerializeSafetensors(const std::vector<RequiredTensor>& tensors, const Value& value) {
  std::string header = "{", data;
  for (const RequiredTensor& tensor : tensors) {
    const std::size_t begin = data.size();
    for (std::int64_t i = 0; i < *ElementCount(tensor.shape); ++i) {
      const float element = value(tensor.name, i);
      data.append(reinterpret_cast<const char*>(&element), sizeof(element));
    }
    absl::StrAppend(&header, header.size() > 1 ? "," : "", "\"", tensor.name,
                    "\":{\"dtype\":\"F32\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                    "],\"data_offsets\":[", begin, ",", data.size(), "]}");
  }
  header += "}";
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

// Layer norms near 1, everything else normal with deviation `scale`: that of about 1 / sqrt(inputs)
// keeps activations of order 1 throughout. The same for a name and place whenever it is asked.
inline float RandomWeight(const std::string& name, std::int64_t i, float scale) {
  std::mt19937 random(static_cast<std::uint32_t>(std::hash<std::string>()(name) + 7919 * i));
  const float value = std::normal_distribution<float>()(random);
  const bool norm = name.find("norm") != std::string::npos;
  return norm && name.ends_with("weight") ? 1 + 0.3f * value : scale * value;
}

// A complete folder of kTinyConfigJson under the test's temporary directory.
inline std::string WriteTinyCheckpoint(const std::string& name) {
  const std::string folder = std::string(std::filesystem::temp_directory_path()) + "/" + name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  WriteText(folder + "/config.json", kTinyConfigJson);
  WriteText(folder + "/preprocessor_config.json", R"({"size": {"height": 9, "width": 9}})");
  const auto config = ParseSiglipConfig(kTinyConfigJson, "config.json");
  WriteText(folder + "/model.safetensors",
            SerializeSafetensors(RequiredTensors(*config), [](const std::string&, std::int64_t i) {
              return 0.01f * static_cast<float>(i % 17) - 0.05f;
            }));
  return folder;
}

}  // namespace siglip
