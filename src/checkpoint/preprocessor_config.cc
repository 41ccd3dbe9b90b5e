#include "checkpoint/preprocessor_config.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "checkpoint/config.h"
#include "checkpoint/json.h"
#include "checkpoint/json_fields.h"

namespace siglip {
namespace {

using nlohmann::json;

// Published files have less than a kB.
constexpr std::uint64_t kMaxPreprocessorBytes = 1 << 20;

// transformers lets these steps be switched off; the pixels would be others.
constexpr const char* kNeededSteps[] = {"do_resize", "do_rescale", "do_normalize"};

// Another class has other steps and defaults, hence other pixels. Names end in "Fast" or "Pil",
// too; "feature_extractor_type" is what files older than image processors have.
void CheckClass(JsonFields& fields, const std::string& expected) {
  const bool old = !fields.Has("image_processor_type") && fields.Has("feature_extractor_type");
  const char* key = old ? "feature_extractor_type" : "image_processor_type";
  const std::string name = expected + (old ? "FeatureExtractor" : "ImageProcessor");
  std::string got = name;
  if (fields.Has(key)) fields.Read(key, got);
  if (got != name && got != name + "Fast" && got != name + "Pil") {
    fields.Fail(absl::StrCat("\"", key, "\": expected ", name, ", got ", ShortDump(got)));
  }
}

// What is read only where it is there: of these null is not as absent, transformers refuses it.
template <std::size_t kKeys>
void RefuseNull(JsonFields& fields, const json& root, const char* const (&keys)[kKeys]) {
  for (const char* key : keys) {
    const auto found = root.find(key);
    if (found != root.end() && found->is_null()) {
      fields.Fail(absl::StrCat("\"", key, "\": null is not supported"));
    }
  }
}

// transformers takes what Python does: 0 for false, every other number for true. It takes the text
// "false" for true as well, which nobody means.
void ReadSwitch(JsonFields& fields, const json& root, const char* key, bool& on) {
  const auto found = root.find(key);
  if (found == root.end()) return;
  if (found->is_boolean()) {
    on = found->get<bool>();
  } else if (found->is_number()) {
    on = found->get<double>() != 0;
  } else {
    fields.Fail(
        absl::StrCat("\"", key, "\": expected true, false or a number, got ", ShortDump(*found)));
  }
}

// Three numbers, or one that stands for all of them.
void ReadTriple(JsonFields& fields, const json& root, const char* key, double min,
                std::array<double, 3>& values) {
  if (!fields.Has(key)) return;
  const json& given = root[key];
  const json array = given.is_number() ? json{given, given, given} : given;
  bool good = array.is_array() && array.size() == values.size();
  for (std::size_t i = 0; good && i < values.size(); ++i) {
    good = array[i].is_number() && array[i].get<double>() >= min && array[i].get<double>() <= 255;
    if (good) values[i] = array[i].get<double>();
  }
  if (!good) {
    fields.Fail(absl::StrCat("\"", key, "\": expected three numbers, or one, in ", min,
                             "..255, got ", ShortDump(given)));
  }
}

// {"height": S, "width": S} or [S, S]. One number is the shortest edge to transformers, which then
// does not squash.
absl::Status ReadSize(const json& size, const std::string& where, int& image_size) {
  if (size.is_array() && size.size() == 2) {
    const json object = {{"height", size[0]}, {"width", size[1]}};
    return ReadSize(object, where, image_size);
  }
  std::int64_t height = 0, width = 0;
  JsonFields fields(size, where);
  fields.Read("height", height, 1, kMaxImageSize);
  fields.Read("width", width, 1, kMaxImageSize);
  if (height == 0 || height != width || size.size() != 2) {
    fields.Fail(
        absl::StrCat("expected equal \"height\" and \"width\" alone, got ", ShortDump(size)));
  }
  image_size = static_cast<int>(height);
  return fields.status();
}

// What both kinds have.
void ReadCommon(JsonFields& fields, const json& root, PreprocessorConfig& config) {
  RefuseNull(fields, root, {"image_mean", "image_std"});
  for (const char* step : kNeededSteps) {
    bool enabled = true;
    ReadSwitch(fields, root, step, enabled);
    if (!enabled) {
      fields.Fail(absl::StrCat("\"", step, "\": ", ShortDump(root[step]), " is not supported"));
    }
  }
  std::int64_t resample = config.resample;
  if (fields.Has("resample")) fields.Read("resample", resample, 0, 5);
  if (resample != 2 && resample != 3) {
    fields.Fail(absl::StrCat("\"resample\": expected 2 (bilinear) or 3 (bicubic), got ", resample));
  }
  config.resample = static_cast<int>(resample);
  fields.Read("rescale_factor", config.rescale_factor, 1e-9, 1e9);
  ReadTriple(fields, root, "image_mean", -255, config.image_mean);
  ReadTriple(fields, root, "image_std", 1e-9, config.image_std);
}

// S, [S, S] or {"height": S, "width": S}.
bool IsSquareOf(std::int64_t side, const json& size) {
  return size == json(side) || size == json::array({side, side}) ||
         size == json({{"height", side}, {"width", side}});
}

// transformers crops and pads after the resize if it is told to. To the size of the resize that
// changes nothing, and padding to no size is padding to the largest picture of the batch.
void RefuseOtherFrame(JsonFields& fields, const json& root, const PreprocessorConfig& config) {
  bool crop = false, pad = false;
  if (fields.Has("do_center_crop")) ReadSwitch(fields, root, "do_center_crop", crop);
  if (fields.Has("do_pad")) ReadSwitch(fields, root, "do_pad", pad);
  const auto refuse = [&](const char* step, const char* key) {
    fields.Fail(absl::StrCat("\"", step, "\": true is supported with a \"", key,
                             "\" equal to \"size\", ", config.image_size, ", alone, got ",
                             root.contains(key) ? ShortDump(root[key]) : "none"));
  };
  if (crop && (!fields.Has("crop_size") || !IsSquareOf(config.image_size, root["crop_size"]))) {
    refuse("do_center_crop", "crop_size");
  }
  if (pad && fields.Has("pad_size") && !IsSquareOf(config.image_size, root["pad_size"])) {
    refuse("do_pad", "pad_size");
  }
}

absl::StatusOr<PreprocessorConfig> FixedResolutionFrom(const json& root,
                                                       const std::string& source) {
  JsonFields fields(root, source);
  PreprocessorConfig config;
  config.source = source;
  CheckClass(fields, "Siglip");
  RefuseNull(fields, root, {"resample", "size"});
  ReadCommon(fields, root, config);
  SIGLIP_RETURN_IF_ERROR(fields.status());
  if (fields.Has("size")) {
    SIGLIP_RETURN_IF_ERROR(ReadSize(root["size"], source + ": size", config.image_size));
  }
  RefuseOtherFrame(fields, root, config);
  SIGLIP_RETURN_IF_ERROR(fields.status());
  return config;
}

absl::StatusOr<PreprocessorConfig> NaflexFrom(const json& root, const std::string& source) {
  JsonFields fields(root, source);
  PreprocessorConfig config;
  config.source = source;
  config.image_size = 0;
  config.resample = 2;
  CheckClass(fields, "Siglip2");
  ReadCommon(fields, root, config);
  std::int64_t patch_size = config.patch_size;
  std::int64_t max_num_patches = config.max_num_patches;
  fields.Read("patch_size", patch_size, 1, kMaxImageSize);
  fields.Read("max_num_patches", max_num_patches, 1, kMaxPatches);
  SIGLIP_RETURN_IF_ERROR(fields.status());
  config.patch_size = static_cast<int>(patch_size);
  config.max_num_patches = static_cast<int>(max_num_patches);
  return config;
}

}  // namespace

absl::StatusOr<PreprocessorConfig> ParsePreprocessorConfig(std::string_view text,
                                                           const std::string& source) {
  SIGLIP_ASSIGN_OR_RETURN(const json root, ParseStrictJson(text, source));
  return FixedResolutionFrom(root, source);
}

absl::StatusOr<PreprocessorConfig> ParseNaflexPreprocessorConfig(std::string_view text,
                                                                 const std::string& source) {
  SIGLIP_ASSIGN_OR_RETURN(const json root, ParseStrictJson(text, source));
  return NaflexFrom(root, source);
}

absl::StatusOr<PreprocessorConfig> ReadPreprocessorConfig(const std::string& directory,
                                                          bool naflex) {
  const auto parse = naflex ? NaflexFrom : FixedResolutionFrom;
  const std::string processor_path = directory + "/processor_config.json";
  const std::string path = directory + "/preprocessor_config.json";
  if (HasEntry(processor_path)) {
    SIGLIP_ASSIGN_OR_RETURN(const json root, ReadJsonFile(processor_path, kMaxPreprocessorBytes));
    if (JsonFields(root, processor_path).Has("image_processor")) {
      return parse(root["image_processor"], processor_path + ": image_processor");
    }
  }
  if (!HasEntry(path)) {
    return absl::NotFoundError(
        absl::StrCat(directory,
                     ": expected preprocessor_config.json or processor_config.json with "
                     "\"image_processor\", found neither"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const json root, ReadJsonFile(path, kMaxPreprocessorBytes));
  return parse(root, path);
}

}  // namespace siglip
