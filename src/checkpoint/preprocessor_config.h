#pragma once

// preprocessor_config.json, or "image_processor" of processor_config.json: how pixels become
// floats.

#include <array>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

struct PreprocessorConfig {
  std::string source;  // the file, and the key in it, for errors
  // "size": {"height": S, "width": S} or [S, S]; only squares. 0: NaFlex.
  int image_size = 224;
  // Of NaFlex only: a picture becomes at most so many patches of so many pixels a side.
  int patch_size = 16;
  int max_num_patches = 256;
  int resample = 3;  // Pillow's number: 2 bilinear, 3 bicubic; others are refused by name
  double rescale_factor = 1.0 / 255.0;
  std::array<double, 3> image_mean = {0.5, 0.5, 0.5};
  std::array<double, 3> image_std = {0.5, 0.5, 0.5};
};

// Parses preprocessor_config.json with transformers' class defaults (SiglipImageProcessor), which
// must be the class that the file names, if it names one.
// do_resize, do_rescale and do_normalize that are false, null or 0 are refused by name;
// do_convert_rgb is ignored (always converted). InvalidArgument names key, expected and got.
absl::StatusOr<PreprocessorConfig> ParsePreprocessorConfig(std::string_view json,
                                                           const std::string& source);
// The same of a NaFlex checkpoint (Siglip2ImageProcessor): "patch_size" and "max_num_patches"
// instead of "size", and bilinear by default.
absl::StatusOr<PreprocessorConfig> ParseNaflexPreprocessorConfig(std::string_view json,
                                                                 const std::string& source);

// Of a snapshot folder. Processors of transformers 5 write processor_config.json, whose
// "image_processor" comes first, as it does there; image processors, and all of transformers 4,
// preprocessor_config.json. NotFound names both files.
absl::StatusOr<PreprocessorConfig> ReadPreprocessorConfig(const std::string& directory,
                                                          bool naflex);

}  // namespace siglip
