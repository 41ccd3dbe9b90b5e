// The extension module behind the Python package: lists of Python objects -> calls of the C API,
// without the GIL. Output arrays are made by Python and written here, so nothing is copied.
//
// In a list, a str stands for an item that the Python side could not convert, and says why. It is
// given only where `failures` is.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/unique_ptr.h>

#include "siglip/siglip_c.h"

namespace nb = nanobind;

namespace {

struct ErrorDeleter {
  void operator()(siglip_error* error) const { siglip_error_free(error); }
};
using Error = std::unique_ptr<siglip_error, ErrorDeleter>;

// Which Python exception an error is.
PyObject* ExceptionType(int code) {
  switch (code) {
    case SIGLIP_INVALID_ARGUMENT:
      return PyExc_ValueError;
    case SIGLIP_NOT_FOUND:
      return PyExc_FileNotFoundError;
    case SIGLIP_PERMISSION_DENIED:
      return PyExc_PermissionError;
    case SIGLIP_RESOURCE_EXHAUSTED:
      return PyExc_MemoryError;
    default:
      return PyExc_RuntimeError;
  }
}

// REQUIRES, here and below: the GIL.
nb::object Message(const siglip_error* error, const std::string& place = {}) {
  const std::string text = place + siglip_error_message(error);
  return nb::steal(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

[[noreturn]] void Raise(const siglip_error* error, const std::string& place = {}) {
  const nb::object message = Message(error, place);
  PyErr_SetObject(ExceptionType(siglip_error_code(error)), message.ptr());
  throw nb::python_error();
}

void Check(siglip_error* raw) {
  const Error error(raw);
  if (error != nullptr) Raise(error.get());
}

// A string for C, which would end at a NUL. Valid as long as `bytes`.
const char* CString(const nb::bytes& bytes, const char* name) {
  if (std::memchr(bytes.c_str(), 0, bytes.size()) != nullptr) {
    throw nb::value_error((std::string(name) + ": expected no NUL byte in it").c_str());
  }
  return bytes.c_str();
}

// The memory of a Python object, contiguous, for as long as this lives.
class Buffer {
 public:
  Buffer(nb::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
  }
  ~Buffer() {
    if (view_.obj != nullptr) PyBuffer_Release(&view_);
  }
  Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return view_.buf; }
  std::size_t size() const { return static_cast<std::size_t>(view_.len); }

 private:
  Py_buffer view_{};
};

// An array to write `bytes` into. The Python side makes it so; a wrong size would be its bug.
Buffer Output(nb::handle array, std::size_t bytes) {
  Buffer buffer(array, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS);
  if (buffer.size() != bytes) throw nb::value_error("output: wrong size");
  return buffer;
}

Buffer Input(nb::handle array, std::size_t bytes) {
  Buffer buffer(array, PyBUF_C_CONTIGUOUS);
  if (buffer.size() != bytes) throw nb::value_error("input: wrong size");
  return buffer;
}

// [(kind, buffer, width, height), ...]; for a str, an empty file, which fails.
class ImageList {
 public:
  explicit ImageList(nb::list items) {
    for (nb::handle item : items) {
      if (nb::isinstance<nb::str>(item)) {
        images_.push_back({SIGLIP_IMAGE_FILE, nullptr, 0, 0, 0});
        continue;
      }
      const nb::tuple fields = nb::cast<nb::tuple>(item);
      buffers_.emplace_back(fields[1], PyBUF_C_CONTIGUOUS);
      images_.push_back({nb::cast<std::int32_t>(fields[0]), buffers_.back().data(),
                         buffers_.back().size(), nb::cast<std::int64_t>(fields[2]),
                         nb::cast<std::int64_t>(fields[3])});
    }
  }
  const siglip_image* data() const { return images_.data(); }
  std::size_t size() const { return images_.size(); }

 private:
  std::vector<Buffer> buffers_;
  std::vector<siglip_image> images_;
};

// UTF-8 bytes of each. (Not std::string: a lone surrogate is passed on as bytes, and refused
// there.) For a str, what is no UTF-8, which fails.
class TextList {
 public:
  explicit TextList(nb::list items) {
    for (nb::handle item : items) {
      if (nb::isinstance<nb::str>(item)) {
        texts_.push_back({"\xff", 1});
        continue;
      }
      buffers_.emplace_back(item, PyBUF_C_CONTIGUOUS);
      texts_.push_back({static_cast<const char*>(buffers_.back().data()), buffers_.back().size()});
    }
  }
  const siglip_text* data() const { return texts_.data(); }
  std::size_t size() const { return texts_.size(); }

 private:
  std::vector<Buffer> buffers_;
  std::vector<siglip_text> texts_;
};

// What one call of the library gets: no more than keeps it busy, since Python hears of Ctrl-C
// between calls only. It does not grow with the time that earlier calls took: items that fail at
// once, or are small, tell nothing of those that follow.
constexpr std::size_t kImagesToEncode = 8;  // what the library gives its engine at once
constexpr std::size_t kOtherItems = 32;     // likewise of texts; and enough for many threads
constexpr std::size_t kProductsToClassify = std::size_t{1} << 28;  // some tenths of a second

// What a list call of the library answered.
struct ListAnswer {
  Error error;
  std::vector<Error> item_errors;
};

// One that another thread waits for. The destructor waits too. REQUIRES: of it, the GIL.
class PendingAnswer {
 public:
  PendingAnswer() = default;
  PendingAnswer(const PendingAnswer&) = delete;
  PendingAnswer& operator=(const PendingAnswer&) = delete;
  ~PendingAnswer() {
    if (!is_pending()) return;
    const nb::gil_scoped_release release;
    future_.wait();
  }

  // Nothing is pending afterwards if there is no thread to be had.
  template <class Work>
  void Start(const Work& work) {
    try {
      future_ = std::async(std::launch::async, work);
    } catch (const std::system_error&) {
    }
  }
  bool is_pending() const { return future_.valid(); }
  ListAnswer Get() { return future_.get(); }

 private:
  std::future<ListAnswer> future_;
};

// Runs a list call, call(begin, count, item_errors), for `per_call` items at a time, without the
// GIL. While they are quick, two are under way at a time: the second one's items are decoded while
// the engine works for the first. If `failures`, a dict, is given, it gets {index: message};
// otherwise the first bad item raises. An empty list is one call too: it may be refused.
template <class Call>
void RunList(nb::list items, nb::object failures, std::size_t per_call, const Call& call) {
  const std::size_t total = items.size();
  const auto run = [&](std::size_t begin) {
    std::vector<siglip_error*> raw(std::min(per_call, total - begin));
    ListAnswer answer;
    answer.item_errors.resize(raw.size());
    answer.error.reset(call(begin, raw.size(), raw.data()));
    for (std::size_t i = 0; i < raw.size(); ++i) answer.item_errors[i].reset(raw[i]);
    return answer;
  };
  PendingAnswer pending[2];
  bool quick = false;
  std::size_t begin = 0;
  do {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    PendingAnswer& now = pending[begin / per_call % 2];
    PendingAnswer& next = pending[(begin / per_call + 1) % 2];
    ListAnswer answer;
    {
      const nb::gil_scoped_release release;
      const auto start = std::chrono::steady_clock::now();
      if (quick && total - begin > per_call) {
        next.Start([&run, begin, per_call] { return run(begin + per_call); });
      }
      answer = now.is_pending() ? now.Get() : run(begin);
      quick = std::chrono::steady_clock::now() - start < std::chrono::seconds(1);
    }
    if (answer.error != nullptr) Raise(answer.error.get());
    for (std::size_t i = 0; i < answer.item_errors.size(); ++i) {
      const siglip_error* const error = answer.item_errors[i].get();
      if (error == nullptr) continue;
      const std::size_t index = begin + i;
      if (failures.is_none()) {
        Raise(error, "item " + std::to_string(index) + " of " + std::to_string(total) + ": ");
      }
      const nb::object why = items[index];
      failures[nb::int_(index)] = nb::isinstance<nb::str>(why) ? why : Message(error);
    }
    begin += per_call;
  } while (begin < total);
}

// Runs call(begin, count) over rows of arrays, `per_call` at a time, without the GIL.
template <class Call>
void RunRows(std::size_t total, std::size_t per_call, const Call& call) {
  std::size_t begin = 0;
  do {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    Error error;
    {
      const nb::gil_scoped_release release;
      error.reset(call(begin, std::min(per_call, total - begin)));
    }
    if (error != nullptr) {
      Raise(error.get(), begin == 0 ? "" : "from row " + std::to_string(begin) + " on: ");
    }
    begin += per_call;
  } while (begin < total);
}

// Row `index` of rows of `bytes` bytes each.
template <class T>
T* Row(const Buffer& buffer, std::size_t index, std::size_t bytes) {
  return reinterpret_cast<T*>(static_cast<char*>(buffer.data()) + index * bytes);
}

class Classifier {
 public:
  Classifier(siglip_classifier* classifier, std::size_t num_labels, std::size_t embedding_size)
      : classifier_(classifier), num_labels_(num_labels), embedding_size_(embedding_size) {}

  void Classify(nb::object rows, std::size_t total, nb::object probabilities) const {
    const std::size_t row_bytes = embedding_size_ * sizeof(float);
    const std::size_t answer_bytes = num_labels_ * sizeof(double);
    const Buffer input = Input(rows, total * row_bytes);
    const Buffer output = Output(probabilities, total * answer_bytes);
    const std::size_t products = std::max<std::size_t>(1, num_labels_ * embedding_size_);
    const std::size_t per_call = std::max<std::size_t>(1, kProductsToClassify / products);
    RunRows(total, per_call, [&](std::size_t begin, std::size_t count) {
      return siglip_classify(classifier_.get(), Row<const float>(input, begin, row_bytes), count,
                             Row<double>(output, begin, answer_bytes));
    });
  }

 private:
  struct Deleter {
    void operator()(siglip_classifier* classifier) const { siglip_classifier_free(classifier); }
  };
  std::unique_ptr<siglip_classifier, Deleter> classifier_;
  std::size_t num_labels_;
  std::size_t embedding_size_;
};

// Rows and columns of an image's patches.
constexpr std::size_t kShapeBytes = 2 * sizeof(std::int64_t);

class Model {
 public:
  // directory and the bytes after it: as the file system has them, UTF-8 otherwise.
  Model(const nb::bytes& directory, int threads, const nb::bytes& precision,
        const nb::bytes& device, const nb::bytes& isa, int pillow, std::int64_t max_pixels,
        const nb::bytes& cache_dir, std::int64_t max_patches) {
    const char* const path = CString(directory, "directory");
    siglip_options options = SIGLIP_OPTIONS_INIT;
    options.num_threads = threads;
    options.pillow = pillow;
    options.max_pixels = max_pixels;
    options.precision = CString(precision, "precision");
    options.device = CString(device, "device");
    options.isa = CString(isa, "isa");
    options.cache_dir = CString(cache_dir, "cache_dir");
    options.max_patches = max_patches;
    siglip_model* model = nullptr;
    siglip_error* error = nullptr;
    {
      nb::gil_scoped_release release;
      error = siglip_model_open(path, &options, &model);
    }
    Check(error);
    model_.reset(model);
  }

  siglip_model* get() const { return model_.get(); }
  std::size_t embedding_bytes() const {
    return static_cast<std::size_t>(siglip_embedding_size(get())) * sizeof(float);
  }
  std::size_t pixel_bytes() const {
    const auto side = static_cast<std::size_t>(siglip_image_size(get()));
    return 3 * side * side * sizeof(float);
  }
  std::size_t patch_bytes() const {
    const auto side = static_cast<std::size_t>(siglip_patch_size(get()));
    return static_cast<std::size_t>(siglip_max_patches(get())) * side * side * 3 * sizeof(float);
  }
  std::size_t id_bytes() const {
    return static_cast<std::size_t>(siglip_text_length(get())) * sizeof(std::int64_t);
  }

  void EmbedImages(nb::list items, nb::object rows, nb::object failures) {
    const ImageList images(items);
    const Buffer output = Output(rows, images.size() * embedding_bytes());
    RunList(items, failures, kImagesToEncode,
            [&](std::size_t begin, std::size_t count, siglip_error** errors) {
              return siglip_embed_images(get(), images.data() + begin, count,
                                         Row<float>(output, begin, embedding_bytes()), errors);
            });
  }
  void Preprocess(nb::list items, nb::object pixels, nb::object failures) {
    const ImageList images(items);
    const Buffer output = Output(pixels, images.size() * pixel_bytes());
    RunList(items, failures, kOtherItems,
            [&](std::size_t begin, std::size_t count, siglip_error** errors) {
              return siglip_preprocess(get(), images.data() + begin, count,
                                       Row<float>(output, begin, pixel_bytes()), errors);
            });
  }
  void PreprocessPatches(nb::list items, nb::object pixels, nb::object shapes,
                         nb::object failures) {
    const ImageList images(items);
    const Buffer output = Output(pixels, images.size() * patch_bytes());
    const Buffer grids = Output(shapes, images.size() * kShapeBytes);
    RunList(items, failures, kOtherItems,
            [&](std::size_t begin, std::size_t count, siglip_error** errors) {
              return siglip_preprocess_patches(
                  get(), images.data() + begin, count, Row<float>(output, begin, patch_bytes()),
                  Row<std::int64_t>(grids, begin, kShapeBytes), errors);
            });
  }
  void EmbedTexts(nb::list items, nb::object rows, nb::object failures) {
    const TextList texts(items);
    const Buffer output = Output(rows, texts.size() * embedding_bytes());
    RunList(items, failures, kOtherItems,
            [&](std::size_t begin, std::size_t count, siglip_error** errors) {
              return siglip_embed_texts(get(), texts.data() + begin, count,
                                        Row<float>(output, begin, embedding_bytes()), errors);
            });
  }
  void Tokenize(nb::list items, nb::object ids, nb::object failures) {
    const TextList texts(items);
    const Buffer output = Output(ids, texts.size() * id_bytes());
    RunList(items, failures, kOtherItems,
            [&](std::size_t begin, std::size_t count, siglip_error** errors) {
              return siglip_tokenize(get(), texts.data() + begin, count,
                                     Row<std::int64_t>(output, begin, id_bytes()), errors);
            });
  }
  void EncodePixels(nb::object pixels, std::size_t total, nb::object rows) {
    const Buffer input = Input(pixels, total * pixel_bytes());
    const Buffer output = Output(rows, total * embedding_bytes());
    RunRows(total, kImagesToEncode, [&](std::size_t begin, std::size_t count) {
      return siglip_encode_pixels(get(), Row<const float>(input, begin, pixel_bytes()), count,
                                  Row<float>(output, begin, embedding_bytes()));
    });
  }
  void EncodePatches(nb::object pixels, nb::object shapes, std::size_t total, nb::object rows) {
    const Buffer input = Input(pixels, total * patch_bytes());
    const Buffer grids = Input(shapes, total * kShapeBytes);
    const Buffer output = Output(rows, total * embedding_bytes());
    RunRows(total, kImagesToEncode, [&](std::size_t begin, std::size_t count) {
      return siglip_encode_patches(get(), Row<const float>(input, begin, patch_bytes()),
                                   Row<const std::int64_t>(grids, begin, kShapeBytes), count,
                                   Row<float>(output, begin, embedding_bytes()));
    });
  }
  void EncodeTokens(nb::object ids, std::size_t total, nb::object rows) {
    const Buffer input = Input(ids, total * id_bytes());
    const Buffer output = Output(rows, total * embedding_bytes());
    RunRows(total, kOtherItems, [&](std::size_t begin, std::size_t count) {
      return siglip_encode_tokens(get(), Row<const std::int64_t>(input, begin, id_bytes()), count,
                                  Row<float>(output, begin, embedding_bytes()));
    });
  }
  std::unique_ptr<Classifier> MakeClassifier(nb::list label_items, nb::list template_items) {
    const TextList labels(label_items);
    const TextList templates(template_items);
    siglip_classifier* classifier = nullptr;
    siglip_error* error = nullptr;
    {
      nb::gil_scoped_release release;
      error = siglip_classifier_create(get(), labels.data(), labels.size(), templates.data(),
                                       templates.size(), &classifier);
    }
    Check(error);
    return std::make_unique<Classifier>(classifier, labels.size(),
                                        static_cast<std::size_t>(siglip_embedding_size(get())));
  }

 private:
  struct Deleter {
    void operator()(siglip_model* model) const { siglip_model_free(model); }
  };
  std::unique_ptr<siglip_model, Deleter> model_;
};

}  // namespace

NB_MODULE(_siglip, module) {
  // A daemon thread that still holds a model when the process ends is no leak.
  nb::set_leak_warnings(false);
  module.doc() = "The C API of siglip.cpp; use the package siglip.";
  module.attr("FILE") = static_cast<int>(SIGLIP_IMAGE_FILE);
  module.attr("PATH") = static_cast<int>(SIGLIP_IMAGE_PATH);
  module.attr("RGB") = static_cast<int>(SIGLIP_IMAGE_RGB);
  module.def("version", &siglip_version);
  module.def("set_log_level",
             [](const nb::bytes& level) { Check(siglip_set_log_level(CString(level, "level"))); });
  nb::class_<Classifier>(module, "Classifier").def("classify", &Classifier::Classify);
  nb::class_<Model>(module, "Model")
      .def(nb::init<const nb::bytes&, int, const nb::bytes&, const nb::bytes&, const nb::bytes&,
                    int, std::int64_t, const nb::bytes&, std::int64_t>())
      .def("embed_images", &Model::EmbedImages, nb::arg("images"), nb::arg("rows"),
           nb::arg("failures").none())
      .def("preprocess", &Model::Preprocess, nb::arg("images"), nb::arg("pixels"),
           nb::arg("failures").none())
      .def("preprocess_patches", &Model::PreprocessPatches, nb::arg("images"), nb::arg("pixels"),
           nb::arg("spatial_shapes"), nb::arg("failures").none())
      .def("embed_texts", &Model::EmbedTexts, nb::arg("texts"), nb::arg("rows"),
           nb::arg("failures").none())
      .def("tokenize", &Model::Tokenize, nb::arg("texts"), nb::arg("ids"),
           nb::arg("failures").none())
      .def("encode_pixels", &Model::EncodePixels)
      .def("encode_patches", &Model::EncodePatches)
      .def("encode_tokens", &Model::EncodeTokens)
      .def("classifier", &Model::MakeClassifier)
      .def_prop_ro("image_size", [](const Model& m) { return siglip_image_size(m.get()); })
      .def_prop_ro("patch_size", [](const Model& m) { return siglip_patch_size(m.get()); })
      .def_prop_ro("max_patches", [](const Model& m) { return siglip_max_patches(m.get()); })
      .def_prop_ro("embedding_size", [](const Model& m) { return siglip_embedding_size(m.get()); })
      .def_prop_ro("text_length", [](const Model& m) { return siglip_text_length(m.get()); })
      .def_prop_ro("vocab_size", [](const Model& m) { return siglip_vocab_size(m.get()); })
      .def_prop_ro("logit_scale", [](const Model& m) { return siglip_logit_scale(m.get()); })
      .def_prop_ro("logit_bias", [](const Model& m) { return siglip_logit_bias(m.get()); })
      .def_prop_ro("engine", [](const Model& m) { return siglip_engine(m.get()); });
}
