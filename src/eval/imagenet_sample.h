#pragma once

// Picks some images per class from a full ImageNet, as the published table's author did: the same
// seed gives the same images on every machine.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

struct SampleOptions {
  std::string source;   // a folder with <synset>/<image> in it, or a root that has it at train/ or
                        // ILSVRC/Data/CLS-LOC/train/
  std::string mapping;  // empty: LOC_synset_mapping.txt in `source`
  std::string output;
  int train_per_class = 10;
  int valid_per_class = 20;
  std::uint64_t seed = 1;
  bool copy = false;  // or else symbolic links
};

struct SampleResult {
  std::int64_t classes = 0;
  std::int64_t train = 0;
  std::int64_t valid = 0;
  std::vector<std::string> lacking;  // one line per class that has too few images
};

// Writes `output`/train, /valid and the mapping. A class that has too few images fills train first.
// AlreadyExists: `output` has a train or valid folder.
absl::StatusOr<SampleResult> SampleImagenet(const SampleOptions& options);

}  // namespace siglip
