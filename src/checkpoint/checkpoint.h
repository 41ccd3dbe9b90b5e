#pragma once

// A Hugging Face snapshot folder, opened and checked whole: after Open succeeds every weight that
// the two towers need is there, has the right shape, and is F32, F16 or BF16.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file_map.h"
#include "checkpoint/config.h"
#include "checkpoint/preprocessor_config.h"
#include "checkpoint/safetensors.h"

namespace siglip {

// Thread-safe. Weights stay mapped while it lives.
class Checkpoint {
 public:
  // Opens config.json, the preprocessor's settings (ReadPreprocessorConfig), and model.safetensors
  // or the shards that model.safetensors.index.json lists. Errors name file, tensor, expected and
  // found; when several tensors are wrong the message names the first ones and counts the rest.
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const SiglipConfig& config() const { return config_; }
  const PreprocessorConfig& preprocessor() const { return preprocessor_; }
  // The files that hold weights, sorted.
  const std::vector<std::string>& weight_files() const { return weight_files_; }
  // Of each weight file, when it was mapped.
  std::vector<FileIdentity> weight_file_identities() const;
  // What config.json holds.
  const std::string& config_text() const { return config_text_; }
  // In the files, but of no use to the towers. Sorted. Named, not refused.
  const std::vector<std::string>& extra_tensors() const { return extra_tensors_; }
  // Needed tensors by name.
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  std::int64_t num_parameters() const { return num_parameters_; }

  // logit_scale (before exp) and logit_bias.
  float logit_scale() const { return logit_scale_; }
  float logit_bias() const { return logit_bias_; }

  // REQUIRES: `name` is one of RequiredTensors(config()). Borrows; valid while this lives.
  const StoredTensor& tensor(std::string_view name) const;
  // Converts to float32 (exact for all three dtypes). REQUIRES: out.size() == the element count.
  void CopyFloat(std::string_view name, std::span<float> out) const;

 private:
  absl::Status OpenWeights();

  std::string directory_;
  std::string config_text_;
  SiglipConfig config_;
  PreprocessorConfig preprocessor_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> weight_files_;
  std::vector<std::string> extra_tensors_;
  std::map<std::string, StoredTensor> tensors_;
  std::int64_t num_parameters_ = 0;
  float logit_scale_ = 0;
  float logit_bias_ = 0;
};

// Elements [first, first + out.size()) as float32, exactly. REQUIRES: they are in range, of F32,
// F16 or BF16.
void CopyFloats(const StoredTensor& tensor, std::int64_t first, std::span<float> out);

struct RequiredTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

// Every tensor that a checkpoint of this configuration must hold, in the order of the network.
std::vector<RequiredTensor> RequiredTensors(const SiglipConfig& config);

}  // namespace siglip
