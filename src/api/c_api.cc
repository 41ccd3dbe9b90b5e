// The C API: include/siglip/siglip_c.h over Model, lists and the classifier.

#include <algorithm>
#include <cstddef>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/many.h"
#include "api/owner_process.h"
#include "api/zero_shot.h"
#include "base/absl_view.h"
#include "base/json_text.h"
#include "base/log_settings.h"
#include "base/thread_pool.h"
#include "siglip/siglip.h"
#include "siglip/siglip_c.h"

struct siglip_error {
  int code;
  std::string message;
};

struct siglip_model {
  siglip_model(std::unique_ptr<siglip::Model> opened, int num_threads)
      : model(std::move(opened)), pool(num_threads) {}

  const std::unique_ptr<siglip::Model> model;
  siglip::ThreadPool pool;
  const siglip::OwnerProcess owner;
};

struct siglip_classifier {
  siglip::ZeroShotClassifier classifier;
  std::size_t embedding_size;
};

namespace siglip {
namespace {

// Given when there is no memory for another one; never freed.
siglip_error& OutOfMemory() {
  static siglip_error error{SIGLIP_RESOURCE_EXHAUSTED, "out of memory"};
  return error;
}

// One of the header's codes. A file system may answer others: a time-out, an I/O error.
int HeaderCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return static_cast<int>(code);
    default:
      return SIGLIP_INTERNAL;
  }
}

// `text`, which may quote a path or a label, as UTF-8 without a NUL: U+FFFD for each byte of
// others.
std::string HeaderText(absl::string_view text) {
  std::string bytes(text);
  std::replace(bytes.begin(), bytes.end(), '\0', '\xFF');
  std::string result;
  for (std::string_view rest = bytes;;) {
    const std::size_t good = InvalidUtf8At(rest);
    result += rest.substr(0, good);
    if (good == rest.size()) return result;
    result += "\xEF\xBF\xBD";
    rest.remove_prefix(good + 1);
  }
}

siglip_error* ToError(const absl::Status& status) {
  if (status.ok()) return nullptr;
  if (absl::IsResourceExhausted(status) && status.message().empty()) return &OutOfMemory();
  try {
    return std::make_unique<siglip_error>(
               siglip_error{HeaderCode(status.code()), HeaderText(status.message())})
        .release();
  } catch (const std::bad_alloc&) {
    return &OutOfMemory();
  }
}

// Runs `work`, which returns a Status. No exception gets out.
template <class Work>
siglip_error* Guarded(const Work& work) {
  try {
    return ToError(work());
  } catch (const std::bad_alloc&) {
    return &OutOfMemory();
  } catch (const std::length_error&) {  // a `count` that no memory could hold
    return &OutOfMemory();
  } catch (const std::system_error& error) {  // of threads
    return ToError(absl::ResourceExhaustedError(error.what()));
  } catch (const std::exception& error) {
    return ToError(absl::InternalError(error.what()));
  }
}

absl::Status NullArgument(std::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat(AbslView(name), ": expected a pointer, got NULL"));
}

absl::Status CheckModel(const siglip_model* model) {
  return model == nullptr ? NullArgument("model") : model->owner.Check();
}

// Of a list call: the list and its output may be NULL only if there is nothing in them.
absl::Status CheckList(const siglip_model* model, const void* items, std::size_t count,
                       const void* output) {
  if (absl::Status status = CheckModel(model); !status.ok()) return status;
  if (count > 0 && items == nullptr) return NullArgument("items");
  if (count > 0 && output == nullptr) return NullArgument("output");
  return absl::OkStatus();
}

// Statuses of items -> the caller's array, or the first bad one's as the call's own. `fill` (i)
// makes the row of a bad item defined.
template <class Fill>
absl::Status Deliver(std::span<const absl::Status> statuses, siglip_error** item_errors,
                     const Fill& fill) {
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    const absl::Status& status = statuses[i];
    if (item_errors != nullptr) item_errors[i] = ToError(status);
    if (status.ok()) continue;
    if (item_errors == nullptr) {
      return absl::Status(
          status.code(), absl::StrCat("item ", i, " of ", statuses.size(), ": ", status.message()));
    }
    fill(i);
  }
  return absl::OkStatus();
}

// Fills bad rows of `width` floats with NaN.
absl::Status DeliverRows(std::span<const absl::Status> statuses, siglip_error** item_errors,
                         float* rows, std::size_t width) {
  return Deliver(statuses, item_errors, [&](std::size_t i) {
    std::fill_n(rows + i * width, width, std::numeric_limits<float>::quiet_NaN());
  });
}

std::size_t EmbeddingSize(const siglip_model& model) {
  return static_cast<std::size_t>(model.model->info().embedding_size);
}

std::size_t PixelsPerImage(const siglip_model& model) { return model.model->info().pixel_values(); }

absl::Status CheckFixedResolution(const siglip_model& model) {
  if (!model.model->info().naflex()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "pixels: expected a checkpoint of fixed resolution, got NaFlex, which has functions for "
      "patches");
}

absl::Status CheckNaflex(const siglip_model& model) {
  if (model.model->info().naflex()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "patches: expected a NaFlex checkpoint, got one of fixed resolution, which has functions for "
      "pixels");
}

std::string DataOf(const char* name, std::size_t place) {
  return absl::StrCat(name, " ", place, ", data");
}

absl::StatusOr<std::vector<ImageSource>> ToSources(std::span<const siglip_image> images) {
  std::vector<ImageSource> sources;
  sources.reserve(images.size());
  for (std::size_t i = 0; i < images.size(); ++i) {
    const siglip_image& image = images[i];
    if (image.kind < SIGLIP_IMAGE_FILE || image.kind > SIGLIP_IMAGE_RGB) {
      return absl::InvalidArgumentError(
          absl::StrCat("item ", i, ": expected a SIGLIP_IMAGE_ kind, got ", image.kind));
    }
    if (image.size > 0 && image.data == nullptr) return NullArgument(DataOf("item", i));
    sources.push_back({static_cast<ImageSource::Kind>(image.kind),
                       {static_cast<const char*>(image.data), image.size},
                       image.width,
                       image.height});
  }
  return sources;
}

// name: of an item.
absl::StatusOr<std::vector<std::string_view>> ToViews(std::span<const siglip_text> texts,
                                                      const char* name) {
  std::vector<std::string_view> views;
  views.reserve(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].size > 0 && texts[i].data == nullptr) return NullArgument(DataOf(name, i));
    views.emplace_back(texts[i].data, texts[i].size);
  }
  return views;
}

absl::StatusOr<std::vector<std::string>> ToStrings(const siglip_text* texts, std::size_t count,
                                                   const char* name) {
  if (count == 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, "s: expected at least one, got none"));
  }
  if (texts == nullptr) return NullArgument(absl::StrCat(name, "s"));
  const auto views = ToViews({texts, count}, name);
  if (!views.ok()) return views.status();
  return std::vector<std::string>(views->begin(), views->end());
}

// siglip_options of version 0.1.0, which ends before max_patches.
constexpr std::size_t kFirstOptionsSize = offsetof(siglip_options, max_patches);

absl::StatusOr<ModelOptions> ToOptions(const siglip_options* options) {
  ModelOptions result;
  if (options == nullptr) return result;
  if (options->struct_size != sizeof(siglip_options) && options->struct_size != kFirstOptionsSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("options.struct_size: expected ", sizeof(siglip_options), ", got ",
                     options->struct_size, "; begin with SIGLIP_OPTIONS_INIT"));
  }
  if (options->struct_size > kFirstOptionsSize) result.max_patches = options->max_patches;
  result.num_threads = options->num_threads;
  result.max_pixels = options->max_pixels;
  if (options->pillow != 0) result.pillow = options->pillow;
  if (options->precision != nullptr) result.precision = options->precision;
  if (options->device != nullptr) result.device = options->device;
  if (options->isa != nullptr) result.isa = options->isa;
  if (options->cache_dir != nullptr) result.cache_dir = options->cache_dir;
  return result;
}

absl::Status SetLogLevel(std::string_view level) {
  constexpr std::string_view kLevels[] = {"off", "error", "warn", "info", "debug"};
  const auto found = std::find(std::begin(kLevels), std::end(kLevels), level);
  if (found == std::end(kLevels)) {
    return absl::InvalidArgumentError(
        absl::StrCat("log level: expected debug, info, warn, error or off, got ",
                     absl::string_view(level.data(), level.size())));
  }
  const auto rank = found - std::begin(kLevels);
  LogSettings settings;
  settings.error = rank >= 1;
  settings.warning = rank >= 2;
  settings.info = rank >= 3;
  settings.verbose_level = rank >= 4 ? 1 : 0;
  ChangeLog(settings);
  return absl::OkStatus();
}

absl::Status OpenModel(const char* directory, const siglip_options* options, siglip_model** model) {
  if (directory == nullptr) return NullArgument("directory");
  if (model == nullptr) return NullArgument("model");
  auto checked = ToOptions(options);
  if (!checked.ok()) return checked.status();
  auto opened = Model::Open(directory, *checked);
  if (!opened.ok()) return opened.status();
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads = checked->num_threads > 0 ? checked->num_threads : cores;
  *model = std::make_unique<siglip_model>(*std::move(opened), threads).release();
  return absl::OkStatus();
}

absl::Status CreateClassifier(siglip_model* model, const siglip_text* labels,
                              std::size_t num_labels, const siglip_text* templates,
                              std::size_t num_templates, siglip_classifier** classifier) {
  if (absl::Status status = CheckModel(model); !status.ok()) return status;
  if (classifier == nullptr) return NullArgument("classifier");
  auto label_list = ToStrings(labels, num_labels, "label");
  if (!label_list.ok()) return label_list.status();
  const auto template_list = ToStrings(templates, num_templates, "template");
  if (!template_list.ok()) return template_list.status();
  auto made = ZeroShotClassifier::Create(*model->model, *std::move(label_list), *template_list);
  if (!made.ok()) return made.status();
  *classifier = std::make_unique<siglip_classifier>(
                    siglip_classifier{*std::move(made), EmbeddingSize(*model)})
                    .release();
  return absl::OkStatus();
}

// Pointers to the rows of a matrix.
template <class T>
std::vector<T*> RowPointers(T* rows, std::size_t count, std::size_t width) {
  std::vector<T*> pointers(count);
  for (std::size_t i = 0; i < count; ++i) pointers[i] = rows + i * width;
  return pointers;
}

}  // namespace
}  // namespace siglip

using namespace siglip;  // NOLINT: this file is the border

const char* siglip_version(void) { return SIGLIP_VERSION; }

siglip_error* siglip_set_log_level(const char* level) {
  return Guarded([&] {
    if (level == nullptr) return NullArgument("level");
    return SetLogLevel(level);
  });
}

int siglip_error_code(const siglip_error* error) { return error == nullptr ? 0 : error->code; }

const char* siglip_error_message(const siglip_error* error) {
  return error == nullptr ? "" : error->message.c_str();
}

void siglip_error_free(siglip_error* error) {
  if (error != &OutOfMemory()) std::unique_ptr<siglip_error>(error).reset();
}

siglip_error* siglip_model_open(const char* directory, const siglip_options* options,
                                siglip_model** model) {
  return Guarded([&] { return OpenModel(directory, options, model); });
}

void siglip_model_free(siglip_model* model) {
  // In a forked child its threads are not there to be joined: it is left to the end of the process.
  if (model != nullptr && model->owner.IsThisOne()) std::unique_ptr<siglip_model>(model).reset();
}

int64_t siglip_image_size(const siglip_model* model) { return model->model->info().image_size; }
int64_t siglip_patch_size(const siglip_model* model) { return model->model->info().patch_size; }
int64_t siglip_max_patches(const siglip_model* model) { return model->model->info().max_patches; }
int64_t siglip_embedding_size(const siglip_model* model) {
  return model->model->info().embedding_size;
}
int64_t siglip_text_length(const siglip_model* model) { return model->model->info().text_length; }
int64_t siglip_vocab_size(const siglip_model* model) { return model->model->info().vocab_size; }
float siglip_logit_scale(const siglip_model* model) { return model->model->info().logit_scale; }
float siglip_logit_bias(const siglip_model* model) { return model->model->info().logit_bias; }
const char* siglip_engine(const siglip_model* model) { return model->model->info().engine.c_str(); }

siglip_error* siglip_embed_images(siglip_model* model, const siglip_image* images, size_t count,
                                  float* embeddings, siglip_error** item_errors) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, images, count, embeddings); !s.ok()) return s;
    const auto sources = ToSources({images, count});
    if (!sources.ok()) return sources.status();
    std::vector<absl::Status> statuses(count);
    absl::Status run = EmbedManyImages(*model->model, model->pool, *sources, embeddings, statuses);
    if (!run.ok()) return run;
    return DeliverRows(statuses, item_errors, embeddings, EmbeddingSize(*model));
  });
}

siglip_error* siglip_embed_texts(siglip_model* model, const siglip_text* texts, size_t count,
                                 float* embeddings, siglip_error** item_errors) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, texts, count, embeddings); !s.ok()) return s;
    const auto views = ToViews({texts, count}, "item");
    if (!views.ok()) return views.status();
    std::vector<absl::Status> statuses(count);
    absl::Status run = EmbedManyTexts(*model->model, *views, embeddings, statuses);
    if (!run.ok()) return run;
    return DeliverRows(statuses, item_errors, embeddings, EmbeddingSize(*model));
  });
}

siglip_error* siglip_preprocess(siglip_model* model, const siglip_image* images, size_t count,
                                float* pixels, siglip_error** item_errors) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, images, count, pixels); !s.ok()) return s;
    const auto sources = ToSources({images, count});
    if (!sources.ok()) return sources.status();
    if (absl::Status s = CheckFixedResolution(*model); !s.ok()) return s;
    std::vector<absl::Status> statuses(count);
    std::vector<PatchGrid> grids(count);
    PreprocessMany(*model->model, model->pool, *sources, pixels, grids, statuses);
    return DeliverRows(statuses, item_errors, pixels, PixelsPerImage(*model));
  });
}

siglip_error* siglip_preprocess_patches(siglip_model* model, const siglip_image* images,
                                        size_t count, float* pixels, int64_t* spatial_shapes,
                                        siglip_error** item_errors) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, images, count, pixels); !s.ok()) return s;
    if (count > 0 && spatial_shapes == nullptr) return NullArgument("spatial_shapes");
    if (absl::Status s = CheckNaflex(*model); !s.ok()) return s;
    const auto sources = ToSources({images, count});
    if (!sources.ok()) return sources.status();
    std::vector<absl::Status> statuses(count);
    std::vector<PatchGrid> grids(count);
    PreprocessMany(*model->model, model->pool, *sources, pixels, grids, statuses);
    for (std::size_t i = 0; i < count; ++i) {
      spatial_shapes[2 * i] = grids[i].rows;
      spatial_shapes[2 * i + 1] = grids[i].columns;
    }
    return DeliverRows(statuses, item_errors, pixels, PixelsPerImage(*model));
  });
}

siglip_error* siglip_tokenize(siglip_model* model, const siglip_text* texts, size_t count,
                              int64_t* ids, siglip_error** item_errors) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, texts, count, ids); !s.ok()) return s;
    const auto views = ToViews({texts, count}, "item");
    if (!views.ok()) return views.status();
    const std::size_t length = static_cast<std::size_t>(model->model->info().text_length);
    std::vector<absl::Status> statuses(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto tokens = model->model->Tokenize((*views)[i]);
      statuses[i] = tokens.status();
      if (tokens.ok()) std::copy(tokens->begin(), tokens->end(), ids + i * length);
    }
    return Deliver(statuses, item_errors,
                   [&](std::size_t i) { std::fill_n(ids + i * length, length, 0); });
  });
}

siglip_error* siglip_encode_pixels(siglip_model* model, const float* pixels, size_t count,
                                   float* embeddings) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, pixels, count, embeddings); !s.ok()) return s;
    if (absl::Status s = CheckFixedResolution(*model); !s.ok()) return s;
    if (count == 0) return absl::OkStatus();
    return model->model->EncodePixels(RowPointers(pixels, count, PixelsPerImage(*model)),
                                      RowPointers(embeddings, count, EmbeddingSize(*model)));
  });
}

siglip_error* siglip_encode_patches(siglip_model* model, const float* pixels,
                                    const int64_t* spatial_shapes, size_t count,
                                    float* embeddings) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, pixels, count, embeddings); !s.ok()) return s;
    if (count > 0 && spatial_shapes == nullptr) return NullArgument("spatial_shapes");
    if (absl::Status s = CheckNaflex(*model); !s.ok()) return s;
    if (count == 0) return absl::OkStatus();
    std::vector<ImagePixels> images;
    images.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      images.push_back({pixels + i * PixelsPerImage(*model),
                        {spatial_shapes[2 * i], spatial_shapes[2 * i + 1]}});
    }
    return model->model->EncodePixels(images,
                                      RowPointers(embeddings, count, EmbeddingSize(*model)));
  });
}

siglip_error* siglip_encode_tokens(siglip_model* model, const int64_t* ids, size_t count,
                                   float* embeddings) {
  return Guarded([&]() -> absl::Status {
    if (absl::Status s = CheckList(model, ids, count, embeddings); !s.ok()) return s;
    if (count == 0) return absl::OkStatus();
    const std::int64_t length = model->model->info().text_length;
    return model->model->EncodeTokens(RowPointers(ids, count, static_cast<std::size_t>(length)),
                                      length,
                                      RowPointers(embeddings, count, EmbeddingSize(*model)));
  });
}

siglip_error* siglip_classifier_create(siglip_model* model, const siglip_text* labels,
                                       size_t num_labels, const siglip_text* templates,
                                       size_t num_templates, siglip_classifier** classifier) {
  return Guarded([&] {
    return CreateClassifier(model, labels, num_labels, templates, num_templates, classifier);
  });
}

siglip_error* siglip_classify(const siglip_classifier* classifier, const float* embeddings,
                              size_t count, double* probabilities) {
  return Guarded([&]() -> absl::Status {
    if (classifier == nullptr) return NullArgument("classifier");
    if (count > 0 && embeddings == nullptr) return NullArgument("embeddings");
    if (count > 0 && probabilities == nullptr) return NullArgument("probabilities");
    const std::size_t width = classifier->embedding_size;
    for (std::size_t i = 0; i < count; ++i) {
      const auto row = classifier->classifier.Probabilities({embeddings + i * width, width});
      std::copy(row.begin(), row.end(), probabilities + i * row.size());
    }
    return absl::OkStatus();
  });
}

void siglip_classifier_free(siglip_classifier* classifier) {
  std::unique_ptr<siglip_classifier>(classifier).reset();
}
