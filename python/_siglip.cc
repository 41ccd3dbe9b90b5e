// The extension module behind the Python package: lists of Python objects -> one call of the C API,
// without the GIL. Output arrays are made by Python and written here, so nothing is copied.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
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
    case SIGLIP_RESOURCE_EXHAUSTED:
      return PyExc_MemoryError;
    default:
      return PyExc_RuntimeError;
  }
}

// REQUIRES: the GIL.
void Check(siglip_error* raw) {
  const Error error(raw);
  if (error == nullptr) return;
  nb::object message = nb::steal(PyUnicode_DecodeUTF8(
      siglip_error_message(error.get()),
      static_cast<Py_ssize_t>(std::char_traits<char>::length(siglip_error_message(error.get()))),
      "replace"));
  PyErr_SetObject(ExceptionType(siglip_error_code(error.get())), message.ptr());
  throw nb::python_error();
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

// [(kind, buffer, width, height), ...]
class ImageList {
 public:
  explicit ImageList(nb::list items) {
    for (nb::handle item : items) {
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
// there.)
class TextList {
 public:
  explicit TextList(nb::list items) {
    for (nb::handle item : items) {
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

// Runs a list call without the GIL. If `failures`, a dict, is given, it gets {index: message}.
template <class Call>
void RunList(std::size_t count, nb::object failures, const Call& call) {
  std::vector<siglip_error*> raw(failures.is_none() ? 0 : count, nullptr);
  siglip_error* error = nullptr;
  {
    nb::gil_scoped_release release;
    error = call(raw.empty() ? nullptr : raw.data());
  }
  std::vector<Error> errors;
  for (siglip_error* item : raw) errors.emplace_back(item);
  Check(error);
  for (std::size_t i = 0; i < errors.size(); ++i) {
    if (errors[i] == nullptr) continue;
    failures[nb::int_(i)] = nb::str(siglip_error_message(errors[i].get()));
  }
}

class Classifier {
 public:
  Classifier(siglip_classifier* classifier, std::size_t num_labels, std::size_t embedding_size)
      : classifier_(classifier), num_labels_(num_labels), embedding_size_(embedding_size) {}

  void Classify(nb::object rows, std::size_t count, nb::object probabilities) const {
    const Buffer input = Input(rows, count * embedding_size_ * sizeof(float));
    const Buffer output = Output(probabilities, count * num_labels_ * sizeof(double));
    siglip_error* error = nullptr;
    {
      nb::gil_scoped_release release;
      error = siglip_classify(classifier_.get(), static_cast<const float*>(input.data()), count,
                              static_cast<double*>(output.data()));
    }
    Check(error);
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
  Model(const std::string& directory, int threads, const std::string& precision,
        const std::string& device, const std::string& isa, int pillow, std::int64_t max_pixels,
        const std::string& cache_dir, std::int64_t max_patches) {
    siglip_options options = SIGLIP_OPTIONS_INIT;
    options.num_threads = threads;
    options.pillow = pillow;
    options.max_pixels = max_pixels;
    options.precision = precision.c_str();
    options.device = device.c_str();
    options.isa = isa.c_str();
    options.cache_dir = cache_dir.c_str();
    options.max_patches = max_patches;
    siglip_model* model = nullptr;
    siglip_error* error = nullptr;
    {
      nb::gil_scoped_release release;
      error = siglip_model_open(directory.c_str(), &options, &model);
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
    RunList(images.size(), failures, [&](siglip_error** errors) {
      return siglip_embed_images(get(), images.data(), images.size(),
                                 static_cast<float*>(output.data()), errors);
    });
  }
  void Preprocess(nb::list items, nb::object pixels, nb::object failures) {
    const ImageList images(items);
    const Buffer output = Output(pixels, images.size() * pixel_bytes());
    RunList(images.size(), failures, [&](siglip_error** errors) {
      return siglip_preprocess(get(), images.data(), images.size(),
                               static_cast<float*>(output.data()), errors);
    });
  }
  void PreprocessPatches(nb::list items, nb::object pixels, nb::object shapes,
                         nb::object failures) {
    const ImageList images(items);
    const Buffer output = Output(pixels, images.size() * patch_bytes());
    const Buffer grids = Output(shapes, images.size() * kShapeBytes);
    RunList(images.size(), failures, [&](siglip_error** errors) {
      return siglip_preprocess_patches(get(), images.data(), images.size(),
                                       static_cast<float*>(output.data()),
                                       static_cast<std::int64_t*>(grids.data()), errors);
    });
  }
  void EmbedTexts(nb::list items, nb::object rows, nb::object failures) {
    const TextList texts(items);
    const Buffer output = Output(rows, texts.size() * embedding_bytes());
    RunList(texts.size(), failures, [&](siglip_error** errors) {
      return siglip_embed_texts(get(), texts.data(), texts.size(),
                                static_cast<float*>(output.data()), errors);
    });
  }
  void Tokenize(nb::list items, nb::object ids, nb::object failures) {
    const TextList texts(items);
    const Buffer output = Output(ids, texts.size() * id_bytes());
    RunList(texts.size(), failures, [&](siglip_error** errors) {
      return siglip_tokenize(get(), texts.data(), texts.size(),
                             static_cast<std::int64_t*>(output.data()), errors);
    });
  }
  void EncodePixels(nb::object pixels, std::size_t count, nb::object rows) {
    const Buffer input = Input(pixels, count * pixel_bytes());
    const Buffer output = Output(rows, count * embedding_bytes());
    RunList(count, nb::none(), [&](siglip_error**) {
      return siglip_encode_pixels(get(), static_cast<const float*>(input.data()), count,
                                  static_cast<float*>(output.data()));
    });
  }
  void EncodePatches(nb::object pixels, nb::object shapes, std::size_t count, nb::object rows) {
    const Buffer input = Input(pixels, count * patch_bytes());
    const Buffer grids = Input(shapes, count * kShapeBytes);
    const Buffer output = Output(rows, count * embedding_bytes());
    RunList(count, nb::none(), [&](siglip_error**) {
      return siglip_encode_patches(get(), static_cast<const float*>(input.data()),
                                   static_cast<const std::int64_t*>(grids.data()), count,
                                   static_cast<float*>(output.data()));
    });
  }
  void EncodeTokens(nb::object ids, std::size_t count, nb::object rows) {
    const Buffer input = Input(ids, count * id_bytes());
    const Buffer output = Output(rows, count * embedding_bytes());
    RunList(count, nb::none(), [&](siglip_error**) {
      return siglip_encode_tokens(get(), static_cast<const std::int64_t*>(input.data()), count,
                                  static_cast<float*>(output.data()));
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
  module.doc() = "The C API of siglip.cpp; use the package siglip.";
  module.attr("FILE") = static_cast<int>(SIGLIP_IMAGE_FILE);
  module.attr("PATH") = static_cast<int>(SIGLIP_IMAGE_PATH);
  module.attr("RGB") = static_cast<int>(SIGLIP_IMAGE_RGB);
  module.def("version", &siglip_version);
  module.def("set_log_level",
             [](const std::string& level) { Check(siglip_set_log_level(level.c_str())); });
  nb::class_<Classifier>(module, "Classifier").def("classify", &Classifier::Classify);
  nb::class_<Model>(module, "Model")
      .def(nb::init<const std::string&, int, const std::string&, const std::string&,
                    const std::string&, int, std::int64_t, const std::string&, std::int64_t>())
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
      .def_prop_ro("engine", [](const Model& m) { return std::string(siglip_engine(m.get())); });
}
