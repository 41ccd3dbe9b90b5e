#include "eval/imagenet_sample.h"

#include <algorithm>
#include <filesystem>
#include <random>
#include <span>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "eval/imagenet_folder.h"

namespace siglip {
namespace {

namespace fs = std::filesystem;

// 64-bit FNV-1a.
std::uint64_t Hash(std::string_view text) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// Fisher-Yates with our own bounded numbers: those of std::shuffle differ between libraries. The
// modulo's bias is below images / 2^64.
void Shuffle(std::vector<std::string>& files, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::size_t i = files.size(); i > 1; --i) std::swap(files[i - 1], files[random() % i]);
}

absl::StatusOr<std::string> FindImages(const std::string& source) {
  for (const char* place : {"/ILSVRC/Data/CLS-LOC/train", "/Data/CLS-LOC/train", "/train", ""}) {
    std::error_code ignored;
    if (fs::is_directory(source + place, ignored)) return source + place;
  }
  return absl::NotFoundError(
      absl::StrCat(source, ": expected a folder with train/<synset>/<image>, found none"));
}

absl::Status Place(const std::string& file, const std::string& folder, bool copy) {
  const fs::path target = fs::path(folder) / fs::path(file).filename();
  std::error_code error;
  if (copy) {
    fs::copy_file(file, target, error);
  } else {
    const fs::path absolute = fs::absolute(file, error);
    if (!error) fs::create_symlink(absolute, target, error);
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat(target.string(), ": ", error.message()));
  }
  return absl::OkStatus();
}

absl::Status PlaceAll(std::span<const std::string> files, const std::string& folder, bool copy) {
  if (files.empty()) return absl::OkStatus();
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return absl::UnavailableError(absl::StrCat(folder, ": ", error.message()));
  for (const std::string& file : files) SIGLIP_RETURN_IF_ERROR(Place(file, folder, copy));
  return absl::OkStatus();
}

// None if the class has no folder.
absl::StatusOr<std::vector<std::string>> FilesOfClass(const std::string& images,
                                                      const std::string& label) {
  const std::string folder = images + "/" + label;
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return std::vector<std::string>();
  return ListFiles(folder);
}

// Before anything is written.
absl::Status CheckImages(const std::vector<ImagenetClass>& classes, const std::string& images,
                         const std::string& mapping) {
  for (const ImagenetClass& c : classes) {
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOfClass(images, c.label));
    if (!files.empty()) return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat(images, ": expected images in folders named as the ",
                                          classes.size(), " labels of ", mapping, ", found none"));
}

absl::Status PrepareOutput(const SampleOptions& options, const std::string& mapping) {
  std::error_code error;
  for (const char* split : {"/train", "/valid"}) {
    if (fs::exists(options.output + split, error)) {
      return absl::AlreadyExistsError(
          absl::StrCat(options.output, split, ": is there already; name a new folder"));
    }
  }
  fs::create_directories(options.output, error);
  if (!error) {
    fs::copy_file(mapping, options.output + "/LOC_synset_mapping.txt",
                  fs::copy_options::overwrite_existing, error);
  }
  if (error) return absl::UnavailableError(absl::StrCat(options.output, ": ", error.message()));
  return absl::OkStatus();
}

absl::Status SampleClass(const SampleOptions& options, const std::string& label,
                         std::vector<std::string> files, SampleResult& result) {
  Shuffle(files, options.seed ^ Hash(label));
  const auto wanted_train = static_cast<std::size_t>(options.train_per_class);
  const auto wanted_valid = static_cast<std::size_t>(options.valid_per_class);
  const std::size_t train = std::min(files.size(), wanted_train);
  const std::size_t valid = std::min(files.size() - train, wanted_valid);
  if (train < wanted_train || valid < wanted_valid) {
    result.lacking.push_back(absl::StrCat(label, ": expected ", wanted_train + wanted_valid,
                                          " images, found ", files.size()));
  }
  const std::span<const std::string> all(files);
  SIGLIP_RETURN_IF_ERROR(
      PlaceAll(all.first(train), options.output + "/train/" + label, options.copy));
  SIGLIP_RETURN_IF_ERROR(
      PlaceAll(all.subspan(train, valid), options.output + "/valid/" + label, options.copy));
  ++result.classes;
  result.train += static_cast<std::int64_t>(train);
  result.valid += static_cast<std::int64_t>(valid);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SampleResult> SampleImagenet(const SampleOptions& options) {
  const std::string mapping =
      options.mapping.empty() ? options.source + "/LOC_synset_mapping.txt" : options.mapping;
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<ImagenetClass> classes, ReadSynsetMapping(mapping));
  SIGLIP_ASSIGN_OR_RETURN(const std::string images, FindImages(options.source));
  SIGLIP_RETURN_IF_ERROR(CheckImages(classes, images, mapping));
  SIGLIP_RETURN_IF_ERROR(PrepareOutput(options, mapping));
  SampleResult result;
  for (const ImagenetClass& c : classes) {
    SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> files, FilesOfClass(images, c.label));
    SIGLIP_RETURN_IF_ERROR(SampleClass(options, c.label, std::move(files), result));
  }
  return result;
}

}  // namespace siglip
