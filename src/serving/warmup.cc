#include "serving/warmup.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "serving/config_check.h"

namespace siglip {
namespace {

using Buffer = AlignedBuffer<std::byte>;

// An encoded picture or a text, and far more than either.
constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;

std::size_t RowBytes(const TensorConfig& tensor) {
  return static_cast<std::size_t>(ElementCount(tensor.dims).value_or(0)) *
         DataTypeSizeBytes(tensor.datatype);
}

// Floats in [0,1), integers 0 or 1 (a number that any vocabulary has), bytes zero as in Triton.
void FillRandom(DataType type, Buffer& row) {
  std::mt19937 random(1);
  if (type == DataType::kFp32) {
    for (std::size_t i = 0; i + sizeof(float) <= row.size(); i += sizeof(float)) {
      const float value = static_cast<float>(random() >> 8) * 0x1p-24F;
      std::memcpy(row.data() + i, &value, sizeof(value));
    }
    return;
  }
  const std::size_t size = std::max<std::size_t>(1, DataTypeSizeBytes(type));
  if (type == DataType::kFp16 || type == DataType::kBf16 || type == DataType::kFp64) return;
  for (std::size_t i = 0; i < row.size(); i += size) row[i] = static_cast<std::byte>(random() & 1u);
}

absl::StatusOr<Buffer> ReadRow(const ModelConfig& config, const TensorConfig& tensor,
                               const std::string& file) {
  if (config.directory.empty()) {
    return ConfigError(config, "model_warmup.input_data_file",
                       "expected a model with a folder in the repository");
  }
  const std::string path = absl::StrCat(config.directory, "/warmup/", file);
  absl::StatusOr<std::string> read = ReadFile(path, std::max(kMaxFileBytes, RowBytes(tensor)));
  if (!read.ok()) {
    return ConfigError(config, "model_warmup.input_data_file",
                       std::string(read.status().message()));
  }
  std::string& bytes = *read;
  if (tensor.datatype == DataType::kBytes) {
    // One element of the wire's form: uint32 little-endian length, bytes.
    bytes.erase(0, std::min<std::size_t>(4, bytes.size()));
  } else if (bytes.size() < RowBytes(tensor)) {
    return ConfigError(
        config, "model_warmup.input_data_file",
        absl::StrCat(path, ": expected ", RowBytes(tensor), " bytes, got ", bytes.size()));
  } else {
    bytes.resize(RowBytes(tensor));
  }
  Buffer row(bytes.size());
  if (!bytes.empty()) std::memcpy(row.data(), bytes.data(), bytes.size());
  return row;
}

absl::StatusOr<Buffer> MakeRow(const ModelConfig& config, const Warmup& warmup,
                               const TensorConfig& tensor) {
  const auto it = warmup.inputs.find(tensor.name);
  if (it == warmup.inputs.end()) {
    return ConfigError(
        config, "model_warmup.inputs",
        absl::StrCat("'", warmup.name, "': expected input '", tensor.name, "', got none"));
  }
  if (it->second.datatype != tensor.datatype) {
    return ConfigError(config, "model_warmup.inputs.data_type",
                       absl::StrCat("'", warmup.name, "': input '", tensor.name,
                                    "' has another data type than the model's input"));
  }
  const std::vector<std::int64_t>& dims = it->second.dims;
  const bool same = std::equal(
      dims.begin(), dims.end(), tensor.dims.begin(), tensor.dims.end(),
      [](std::int64_t given, std::int64_t wanted) { return given == wanted || wanted == -1; });
  if (!same) {
    return ConfigError(
        config, "model_warmup.inputs.dims",
        absl::StrCat("'", warmup.name, "': input '", tensor.name, "': expected [",
                     absl::StrJoin(tensor.dims, ","), "], got [", absl::StrJoin(dims, ","), "]"));
  }
  if (it->second.source == WarmupInput::Source::kFile) {
    return ReadRow(config, tensor, it->second.file);
  }
  Buffer row(RowBytes(tensor));
  std::fill_n(row.data(), row.size(), std::byte{0});
  if (it->second.source == WarmupInput::Source::kRandom) FillRandom(tensor.datatype, row);
  return row;
}

absl::Status RunOne(const ModelConfig& config, const Warmup& warmup, Step& step) {
  const auto rows = static_cast<std::size_t>(std::max<std::uint32_t>(1, warmup.batch_size));
  if (rows > static_cast<std::size_t>(std::max(1, config.max_batch_size))) {
    return ConfigError(
        config, "model_warmup.batch_size",
        absl::StrCat("expected at most max_batch_size ", config.max_batch_size, ", got ", rows));
  }
  std::vector<Buffer> inputs;
  for (const TensorConfig& tensor : config.inputs) {
    SIGLIP_ASSIGN_OR_RETURN(Buffer row, MakeRow(config, warmup, tensor));
    inputs.push_back(std::move(row));
  }
  const Parameters parameters;
  std::vector<Buffer> outputs;
  std::vector<Item> items(rows);
  std::vector<Item*> pointers;
  for (Item& item : items) {
    item.parameters = &parameters;
    for (const Buffer& input : inputs) item.inputs.push_back(input.span());
    for (const TensorConfig& tensor : config.outputs) {
      outputs.emplace_back(RowBytes(tensor));
      item.outputs.push_back(outputs.back().span());
    }
    pointers.push_back(&item);
  }
  absl::Status status = step.Run(pointers);
  for (const Item& item : items) {
    if (status.ok()) status = item.status;
  }
  if (status.ok()) return status;
  return ConfigError(config, "model_warmup",
                     absl::StrCat("'", warmup.name, "' failed: ", status.message()));
}

}  // namespace

absl::Status WarmUp(const ModelConfig& config, Step& step) {
  for (const Warmup& warmup : config.warmups) {
    for (std::uint32_t i = 0; i < std::max<std::uint32_t>(1, warmup.count); ++i) {
      SIGLIP_RETURN_IF_ERROR(RunOne(config, warmup, step));
    }
  }
  return absl::OkStatus();
}

}  // namespace siglip
