#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "siglip/siglip.h"
#include "triton/host/fake_core.h"

namespace siglip::triton {
namespace {

using nlohmann::json;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr const char* kDirectory =
    "model_repository/siglip_text";  // `checkpoint` is relative to it
constexpr const char* kCheckpoint = "../../models/demo";

std::string ReadAll(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

json Tensor(const char* name, const char* type, std::vector<std::int64_t> dims) {
  return {{"name", name}, {"data_type", type}, {"dims", dims}};
}

json Config(const char* name, const char* step, json input, json output) {
  const bool door = std::string(step).starts_with("embed_");
  return {{"name", name},
          {"platform", ""},
          {"backend", door ? "siglip_embed" : "siglip"},
          {"max_batch_size", door ? 60 : 32},
          {"input", {std::move(input)}},
          {"output", {std::move(output)}},
          {"parameters",
           {{"step", {{"string_value", step}}}, {"checkpoint", {{"string_value", kCheckpoint}}}}}};
}

const json kImage = Tensor("INPUT_IMAGE", "TYPE_STRING", {1});
const json kText = Tensor("INPUT_TEXT", "TYPE_STRING", {1});
const json kPixels = Tensor("PIXEL_VALUES", "TYPE_FP32", {3, -1, -1});
const json kIds = Tensor("INPUT_IDS", "TYPE_INT64", {-1});
const json kEmbedding = Tensor("EMBEDDING", "TYPE_FP32", {-1});

json ProcessConfig() { return Config("siglip_vision_process", "image_process", kImage, kPixels); }
json VisionConfig() {
  json config = Config("siglip_vision_model", "vision", kPixels, kEmbedding);
  config["dynamic_batching"] = json::object();
  return config;
}
json TextConfig() {
  json config = Config("siglip_text", "text", kIds, kEmbedding);
  config["dynamic_batching"] = json::object();
  return config;
}

std::string Wire(const std::vector<std::string>& elements) {
  std::string bytes;
  for (const std::string& element : elements) {
    const auto size = static_cast<std::uint32_t>(element.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(element);
  }
  return bytes;
}

FakeRequest BytesRequest(const char* model, const char* input, std::vector<std::string> elements) {
  FakeRequest request;
  request.model = model;
  request.input = {input,
                   TRITONSERVER_TYPE_BYTES,
                   {static_cast<std::int64_t>(elements.size()), 1},
                   Wire(elements)};
  return request;
}

FakeRequest ImageRequest(std::vector<std::string> images) {
  return BytesRequest("siglip_vision_process", "INPUT_IMAGE", std::move(images));
}

FakeRequest PixelsRequest(std::int64_t rows, const std::string& pixels) {
  FakeRequest request;
  request.model = "siglip_vision_model";
  request.input = {"PIXEL_VALUES", TRITONSERVER_TYPE_FP32, {rows, 3, 48, 48}, pixels};
  return request;
}

template <class T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The library's own answers, which the backends must equal.
class BackendTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { model_ = Model::Open("models/demo").value().release(); }
  static void TearDownTestSuite() { delete model_; }

  static std::string Load(FakeCore& core, const char* name) {
    const bool door = std::string(name) == "siglip_embed";
    return core.LoadBackend(name, door ? SIGLIP_EMBED_BACKEND : SIGLIP_BACKEND);
  }
  static void LoadSteps(FakeCore& core) {
    ASSERT_EQ(Load(core, "siglip"), "");
    ASSERT_EQ(core.LoadModel(ProcessConfig(), kDirectory, 2), "");
    ASSERT_EQ(core.LoadModel(VisionConfig(), kDirectory), "");
    ASSERT_EQ(core.LoadModel(TextConfig(), kDirectory), "");
  }
  static std::string Embedding(const std::string& image) {
    return BytesOf(model_->EmbedImage(image).value());
  }
  static std::string Pixels(const std::string& image) {
    std::vector<float> pixels(std::size_t{3} * 48 * 48);
    EXPECT_TRUE(model_->Preprocess(image, pixels.data()).ok());
    return BytesOf(pixels);
  }

  static inline Model* model_ = nullptr;
  const std::string seven_ = ReadAll("data/demo/examples/seven.png");
  const std::string circle_ = ReadAll("data/demo/examples/red_circle.jpg");
};

using StepsTest = BackendTest;

TEST_F(StepsTest, EqualTheLibrary) {
  FakeCore core;
  LoadSteps(core);
  const FakeAnswer pixels = core.Infer(ImageRequest({seven_, circle_}));
  ASSERT_EQ(pixels.code, -1) << pixels.message;
  EXPECT_EQ(pixels.outputs.at(0).name, "PIXEL_VALUES");
  EXPECT_EQ(pixels.outputs[0].type, TRITONSERVER_TYPE_FP32);
  EXPECT_THAT(pixels.outputs[0].shape, testing::ElementsAre(2, 3, 48, 48));
  EXPECT_EQ(pixels.outputs[0].bytes, Pixels(seven_) + Pixels(circle_));
  const FakeAnswer image = core.Infer(PixelsRequest(2, pixels.outputs[0].bytes));
  ASSERT_EQ(image.code, -1) << image.message;
  EXPECT_THAT(image.outputs.at(0).shape, testing::ElementsAre(2, 128));
  EXPECT_EQ(image.outputs[0].bytes, Embedding(seven_) + Embedding(circle_));

  const std::vector<std::int64_t> ids = model_->Tokenize("a photo of seven").value();
  FakeRequest request{.model = "siglip_text",
                      .input = {"INPUT_IDS",
                                TRITONSERVER_TYPE_INT64,
                                {1, static_cast<std::int64_t>(ids.size())},
                                BytesOf(ids)}};
  const FakeAnswer text = core.Infer(request);
  ASSERT_EQ(text.code, -1) << text.message;
  EXPECT_EQ(text.outputs.at(0).bytes, BytesOf(model_->EmbedText("a photo of seven").value()));
}

TEST_F(StepsTest, BuffersInPiecesAndAtOddAddressesGiveTheSame) {
  FakeCore core;
  LoadSteps(core);
  const std::string pixels = Pixels(seven_);
  for (const std::size_t num_buffers : {1, 2, 7}) {
    for (const std::size_t misalignment : {0, 1, 4}) {
      FakeRequest request = PixelsRequest(1, pixels);
      request.num_buffers = num_buffers;
      request.misalignment = misalignment;
      EXPECT_EQ(core.Infer(request).outputs.at(0).bytes, Embedding(seven_));
      request = ImageRequest({seven_, circle_});
      request.num_buffers = num_buffers;
      request.misalignment = misalignment;
      EXPECT_EQ(core.Infer(request).outputs.at(0).bytes, pixels + Pixels(circle_));
    }
  }
}

TEST_F(StepsTest, BadRequestOfABatchFailsAlone) {
  FakeCore core;
  LoadSteps(core);
  const std::string pixels = Pixels(seven_);
  core.Hold("siglip_vision_model");
  auto first = core.Send(PixelsRequest(1, pixels));
  FakeRequest wrong = PixelsRequest(1, pixels.substr(4));
  wrong.id = "7";
  auto second = core.Send(wrong);
  auto third = core.Send(PixelsRequest(2, pixels + pixels));
  core.Resume("siglip_vision_model");
  EXPECT_EQ(first.get().outputs.at(0).bytes, Embedding(seven_));
  const FakeAnswer bad = second.get();
  EXPECT_EQ(bad.code, TRITONSERVER_ERROR_INVALID_ARG);
  EXPECT_THAT(bad.message, StartsWith("[request id: 7] "));
  EXPECT_THAT(bad.message, HasSubstr("Expected 27648, got 27644"));
  EXPECT_EQ(third.get().outputs.at(0).bytes, Embedding(seven_) + Embedding(seven_));
  const FakeStatistics statistics = core.Statistics("siglip_vision_model");
  EXPECT_EQ(statistics.success, 2);
  EXPECT_EQ(statistics.fail, 1);
  EXPECT_EQ(statistics.executions, 1);
  EXPECT_EQ(statistics.rows, 3);
}

TEST_F(StepsTest, BadImagesAreNamed) {
  FakeCore core;
  LoadSteps(core);
  FakeRequest request = ImageRequest({seven_, "not an image", circle_, seven_.substr(0, 40)});
  request.id = "x";
  const FakeAnswer answer = core.Infer(request);
  EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INVALID_ARG);
  EXPECT_THAT(answer.message, StartsWith("[request id: x] 2 of 4 items failed: item 1: image: "));
  EXPECT_THAT(answer.message, HasSubstr("; item 3: "));
  EXPECT_THAT(answer.outputs, IsEmpty());
}

TEST_F(StepsTest, WrongInputsAreRefused) {
  FakeCore core;
  LoadSteps(core);
  const auto expect = [&core](FakeRequest request, const char* text) {
    const FakeAnswer answer = core.Infer(request);
    EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INVALID_ARG) << text;
    EXPECT_THAT(answer.message, HasSubstr(text));
  };
  FakeRequest request = ImageRequest({seven_});
  request.input.name = "OTHER";
  expect(request, "unexpected inference input 'OTHER'");
  request = ImageRequest({seven_});
  request.input.bytes.pop_back();
  expect(request, "element 0: expected a length and");
  request = ImageRequest({seven_});
  request.input.bytes = "ab";
  expect(request, "got 2 bytes in all");
  request = ImageRequest({seven_});
  request.input.shape = {2, 1};
  expect(request, "expected 2 string elements");
  request = PixelsRequest(1, Pixels(seven_));
  request.input.shape = {1, 3, 24, 96};
  expect(request, "[-1,3,48,48], got [1,3,24,96]");
  request.input.type = TRITONSERVER_TYPE_INVALID;
  expect(request, "expected a data type, got number 0");
}

TEST_F(StepsTest, BuffersOnAGpuAreRefused) {
  FakeCore core;
  LoadSteps(core);
  FakeRequest request = PixelsRequest(1, Pixels(seven_));
  request.input_memory = TRITONSERVER_MEMORY_GPU;
  FakeAnswer answer = core.Infer(request);
  EXPECT_EQ(answer.code, TRITONSERVER_ERROR_UNSUPPORTED);
  EXPECT_THAT(answer.message,
              HasSubstr("'PIXEL_VALUES': expected CPU memory, got memory of GPU 0"));
  request = PixelsRequest(1, Pixels(seven_));
  request.output_memory = TRITONSERVER_MEMORY_GPU;
  answer = core.Infer(request);
  EXPECT_EQ(answer.code, TRITONSERVER_ERROR_UNSUPPORTED);
  EXPECT_THAT(answer.message, HasSubstr("'EMBEDDING': expected CPU memory"));
  request = PixelsRequest(1, Pixels(seven_));
  request.input_memory = TRITONSERVER_MEMORY_CPU_PINNED;
  EXPECT_EQ(core.Infer(request).code, -1);
}

// NaFlex has two outputs.
TEST_F(StepsTest, OnlyOutputsThatAreAskedForAreSent) {
  FakeCore core;
  ASSERT_EQ(Load(core, "siglip"), "");
  json config = ProcessConfig();
  config["parameters"]["checkpoint"]["string_value"] = "../../tests/golden/naflex";
  config["output"] = {Tensor("PIXEL_VALUES", "TYPE_FP32", {-1, -1}),
                      Tensor("SPATIAL_SHAPES", "TYPE_INT64", {2})};
  ASSERT_EQ(core.LoadModel(config, kDirectory), "");
  FakeRequest request = ImageRequest({seven_, circle_});
  const FakeAnswer both = core.Infer(request);
  ASSERT_EQ(both.code, -1) << both.message;
  ASSERT_EQ(both.outputs.size(), 2u);
  for (const FakeTensor& expected : both.outputs) {
    request.outputs = {expected.name};
    const FakeAnswer one = core.Infer(request);
    ASSERT_EQ(one.outputs.size(), 1u);
    EXPECT_EQ(one.outputs[0].name, expected.name);
    EXPECT_EQ(one.outputs[0].shape, expected.shape);
    EXPECT_EQ(one.outputs[0].bytes, expected.bytes);
  }
}

// A request is neither lost nor handed back after it was answered.
TEST_F(StepsTest, ExceptionEndsItsBatchOnly) {
  FakeCore core;
  LoadSteps(core);
  core.Hold("siglip_vision_model");
  auto first = core.Send(PixelsRequest(1, Pixels(seven_)));
  FakeRequest request = PixelsRequest(1, Pixels(seven_));
  request.id_throws = "no id today";
  auto second = core.Send(request);
  core.Resume("siglip_vision_model");
  for (const FakeAnswer& answer : {first.get(), second.get()}) {
    EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INTERNAL);
    EXPECT_EQ(answer.message, "no id today");
  }
  EXPECT_EQ(core.Infer(PixelsRequest(1, Pixels(seven_))).outputs.at(0).bytes, Embedding(seven_));
}

TEST_F(StepsTest, CancelledRequestIsNotRun) {
  FakeCore core;
  LoadSteps(core);
  FakeRequest request = ImageRequest({seven_});
  request.cancelled = true;
  EXPECT_EQ(core.Infer(request).code, TRITONSERVER_ERROR_CANCELLED);
  EXPECT_EQ(core.Statistics("siglip_vision_process").executions, 0);
}

TEST_F(StepsTest, InstancesRunSideBySide) {
  FakeCore core;
  LoadSteps(core);
  const std::string pixels = Pixels(seven_);
  const std::string embedding = Embedding(seven_);
  std::vector<std::future<FakeAnswer>> images, rows;
  for (int i = 0; i < 100; ++i) {
    images.push_back(core.Send(ImageRequest({i % 10 == 0 ? "bad" : seven_})));
    rows.push_back(core.Send(PixelsRequest(1, pixels)));
  }
  for (int i = 0; i < 100; ++i) {
    const FakeAnswer image = images[static_cast<std::size_t>(i)].get();
    EXPECT_EQ(image.code, i % 10 == 0 ? TRITONSERVER_ERROR_INVALID_ARG : -1);
    if (image.code == -1) {
      EXPECT_EQ(image.outputs.at(0).bytes, pixels);
    }
    EXPECT_EQ(rows[static_cast<std::size_t>(i)].get().outputs.at(0).bytes, embedding);
  }
  EXPECT_EQ(core.Statistics("siglip_vision_process").success, 90);
  EXPECT_EQ(core.Statistics("siglip_vision_process").fail, 10);
  EXPECT_EQ(core.Statistics("siglip_vision_model").rows, 100);
}

using LoadTest = BackendTest;

TEST_F(LoadTest, DimsAreCompletedUnlessForbidden) {
  FakeCore core;
  LoadSteps(core);
  EXPECT_EQ(core.Config("siglip_vision_process")["output"][0]["dims"], json({3, 48, 48}));
  EXPECT_EQ(core.Config("siglip_vision_model")["output"][0]["dims"], json({128}));
  EXPECT_EQ(core.Config("siglip_text")["input"][0]["dims"], json({32}));
  EXPECT_EQ(core.Config("siglip_text")["parameters"], TextConfig()["parameters"]);
}

TEST_F(LoadTest, StrictConfigStaysAsItIs) {
  FakeCore core({.auto_complete_config = false});
  LoadSteps(core);
  EXPECT_EQ(core.Config("siglip_vision_model"), VisionConfig());
  EXPECT_EQ(core.Infer(PixelsRequest(1, Pixels(seven_))).outputs.at(0).bytes, Embedding(seven_));
}

TEST_F(LoadTest, WrongConfigsAreRefusedByName) {
  FakeCore core;
  ASSERT_EQ(Load(core, "siglip"), "");
  ASSERT_EQ(Load(core, "siglip_embed"), "");
  const auto error = [&core](const std::function<void(json&)>& change) {
    json config = VisionConfig();
    change(config);
    return core.LoadModel(config, kDirectory);
  };
  EXPECT_THAT(error([](json& c) { c["parameters"].erase("step"); }),
              StartsWith("model_repository/siglip_text/config.pbtxt: model 'siglip_vision_model': "
                         "parameters.step: expected image_process, vision, text, embed_image or "
                         "embed_text, got ''"));
  EXPECT_THAT(
      error([](json& c) { c["parameters"]["step"]["string_value"] = "embed_text"; }),
      HasSubstr("backend: expected 'siglip_embed' for the step 'embed_text', got 'siglip'"));
  EXPECT_THAT(error([](json& c) { c["backend"] = "siglip_embed"; }),
              HasSubstr("backend: expected 'siglip' for the step 'vision', got 'siglip_embed'"));
  EXPECT_THAT(error([](json& c) { c["output"][0]["dims"] = {7}; }),
              HasSubstr("output: 'EMBEDDING': dims [7] differ from the checkpoint's [128]"));
  EXPECT_THAT(error([](json& c) { c["output"][0]["data_type"] = "TYPE_FP7"; }),
              HasSubstr("data_type: expected a data type, got \"TYPE_FP7\""));
  EXPECT_THAT(error([](json& c) { c["parameters"]["checkpoint"]["string_value"] = "nope"; }),
              HasSubstr("parameters.checkpoint: "));
  const std::pair<const char*, json> ignored[] = {{"reshape", {{"shape", {12, 12, 48}}}},
                                                  {"is_shape_tensor", true}};
  for (const auto& [field, value] : ignored) {
    for (const char* tensors : {"input", "output"}) {
      EXPECT_THAT(
          error([&](json& c) { c[tensors][0][field] = value; }),
          HasSubstr(absl::StrCat("siglip_text/config.pbtxt: model 'siglip_vision_model': ", tensors,
                                 ": '", VisionConfig()[tensors][0]["name"].get<std::string>(),
                                 "': ", field, " is not supported")));
    }
  }
  for (const char* field : {"batch_input", "batch_output"}) {
    EXPECT_THAT(error([&](json& c) {
                  c[field] = {{{"target_name", {"X"}}}};
                }),
                HasSubstr(absl::StrCat("': ", field, ": expected none, it is not supported")));
  }
  EXPECT_THAT(error([](json& c) {
                c["model_transaction_policy"] = {{"decoupled", true}};
              }),
              HasSubstr("model_transaction_policy.decoupled: expected false"));
}

// As the core prints what is not set.
TEST_F(LoadTest, EmptyFieldsAreNoFields) {
  FakeCore core;
  ASSERT_EQ(Load(core, "siglip"), "");
  json config = VisionConfig();
  config["input"][0]["is_shape_tensor"] = false;
  config["batch_input"] = json::array();
  config["batch_output"] = json::array();
  EXPECT_EQ(core.LoadModel(config, kDirectory), "");
}

TEST_F(LoadTest, OldCoreIsRefused) {
  FakeCore core({.api_minor = 16});
  EXPECT_EQ(Load(core, "siglip"), "Triton's backend API: expected 1.17 or a later 1.x, got 1.16");
}

TEST_F(LoadTest, BackendConfigIsHonoured) {
  {
    FakeCore core({.backend_config = {{"threads", "many"}}});
    EXPECT_EQ(Load(core, "siglip"), "backend config threads: expected 0 to 1024, got 'many'");
  }
  {
    FakeCore core({.backend_config = {{"engine-batch-size", "0"}}});
    EXPECT_THAT(Load(core, "siglip"), HasSubstr("backend config engine-batch-size: expected 1 to"));
  }
  FakeCore core({.backend_config = {{"model", "models/demo"}, {"engine-batch-size", "8"}}});
  ASSERT_EQ(Load(core, "siglip"), "");
  json config = VisionConfig();
  config["parameters"]["checkpoint"]["string_value"] = "nope";  // overridden
  ASSERT_GT(config["max_batch_size"], 8);                       // run in several passes
  EXPECT_EQ(core.LoadModel(config, kDirectory), "");
}

TEST_F(LoadTest, GpuInstanceLoadsAndSaysWhoDecides) {
  FakeCore core;
  ASSERT_EQ(Load(core, "siglip"), "");
  ASSERT_EQ(core.LoadModel(VisionConfig(), kDirectory, 1, TRITONSERVER_INSTANCEGROUPKIND_GPU), "");
  EXPECT_THAT(FakeCore::TakeLog(), HasSubstr("0 instance 'siglip_vision_model_0' is of KIND_GPU"));
}

TEST_F(LoadTest, LibrariesExportTheirEntryPointsOnly) {
  for (const char* library : {SIGLIP_BACKEND, SIGLIP_EMBED_BACKEND}) {
    const std::string command = absl::StrCat("nm -D --defined-only --format=posix ", library);
    FILE* pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::vector<std::string> symbols;
    std::array<char, 4096> line;
    while (fgets(line.data(), line.size(), pipe) != nullptr) symbols.emplace_back(line.data());
    ASSERT_EQ(pclose(pipe), 0);
    EXPECT_EQ(symbols.size(), 7u);
    EXPECT_THAT(symbols, Each(StartsWith("TRITONBACKEND_")));
  }
}

// Doors, before models that the test answers for: row i of an answer is {first byte of the element,
// i, 0, 0, ...}.
class DoorsTest : public BackendTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(Load(core_, "siglip_embed"), "");
    ASSERT_EQ(core_.LoadModel(Config("embed_image", "embed_image", kImage, kEmbedding), kDirectory),
              "");
    ASSERT_EQ(core_.LoadModel(Config("embed_text", "embed_text", kText, kEmbedding), kDirectory),
              "");
  }

  static json TargetConfig(const char* name) {
    json config = Config(name, "host", kImage, kEmbedding);  // max_batch_size 32
    config["parameters"] = json::object();
    return config;
  }
  void AddTarget(HostModel host, const char* name = "siglip_vision") {
    core_.AddHostModel(TargetConfig(name), std::move(host));
  }
  static void AddRow(float first, float second, std::vector<float>& rows) {
    rows.insert(rows.end(), {first, second});
    rows.resize(rows.size() + kWidth - 2);
  }
  static FakeAnswer FirstBytes(const FakeTensor& input) {
    FakeAnswer answer;
    std::vector<float> rows;
    std::size_t at = 0;
    for (std::int64_t i = 0; i < input.shape.at(0); ++i) {
      std::uint32_t size = 0;
      std::memcpy(&size, input.bytes.data() + at, sizeof(size));
      const std::string element = input.bytes.substr(at + sizeof(size), size);
      if (element == "bad") {
        answer.code = TRITONSERVER_ERROR_INVALID_ARG;
        answer.message = "bad image";
      }
      AddRow(static_cast<float>(element.at(0)), static_cast<float>(i), rows);
      at += sizeof(size) + size;
    }
    EXPECT_EQ(at, input.bytes.size());
    if (answer.code < 0) {
      answer.outputs = {
          {"EMBEDDING", TRITONSERVER_TYPE_FP32, {input.shape[0], kWidth}, BytesOf(rows)}};
    }
    return answer;
  }
  static FakeRequest Images(std::vector<std::string> images) {
    return BytesRequest("embed_image", "INPUT_IMAGE", std::move(images));
  }
  void ExpectError(const FakeRequest& request, int code, const char* text) {
    const FakeAnswer answer = core_.Infer(request);
    EXPECT_EQ(answer.code, code);
    EXPECT_THAT(answer.message, HasSubstr(text));
  }

  static constexpr std::int64_t kWidth = 128;
  FakeCore core_;
};

TEST_F(DoorsTest, LargeRequestIsSplitAndJoinedInOrder) {
  AddTarget({.answer = FirstBytes});
  std::vector<std::string> images;
  std::vector<float> expected;
  for (int i = 0; i < 60; ++i) {
    images.emplace_back(1, static_cast<char>('A' + i));
    AddRow(static_cast<float>('A' + i), static_cast<float>(i % 32), expected);
  }
  const FakeAnswer answer = core_.Infer(Images(images));
  ASSERT_EQ(answer.code, -1) << answer.message;
  EXPECT_THAT(answer.outputs.at(0).shape, testing::ElementsAre(60, kWidth));
  EXPECT_EQ(answer.outputs[0].bytes, BytesOf(expected));
  EXPECT_EQ(core_.Executed("siglip_vision"), 2);
  const FakeStatistics statistics = core_.Statistics("embed_image");
  EXPECT_EQ(statistics.success, 1);
  EXPECT_EQ(statistics.executions, 1);
  EXPECT_EQ(statistics.rows, 60);
}

TEST_F(DoorsTest, PartThatFailsFailsTheWhole) {
  AddTarget({.answer = FirstBytes});
  std::vector<std::string> images(60, "x");
  images[40] = "bad";
  FakeRequest request = Images(images);
  request.id = "r";
  ExpectError(request, TRITONSERVER_ERROR_INVALID_ARG, "[request id: r] items 32..59: bad image");
  EXPECT_EQ(core_.Statistics("embed_image").fail, 1);
}

TEST_F(DoorsTest, DoorNeverWaitsForTheModelBelow) {
  AddTarget({.answer = FirstBytes});
  core_.Hold("siglip_vision");
  std::vector<std::future<FakeAnswer>> answers;
  for (int i = 0; i < 5; ++i) answers.push_back(core_.Send(Images({"z"})));
  // One instance; nothing below answers.
  while (core_.Executed("embed_image") < 5) std::this_thread::yield();
  core_.Resume("siglip_vision");
  for (auto& answer : answers) EXPECT_EQ(answer.get().code, -1);
}

TEST_F(DoorsTest, ParametersAreHonoured) {
  AddTarget({.answer = FirstBytes});
  AddTarget({.answer =
                 [](const FakeTensor&) {
                   FakeAnswer answer;
                   answer.code = TRITONSERVER_ERROR_UNAVAILABLE;
                   answer.message = "other model";
                   return answer;
                 }},
            "other");
  FakeRequest request = Images({absl::Base64Escape("Qxyz")});
  request.parameters = {{"base64_encoded", true}, {"number", std::int64_t{7}}, {"ratio", 0.5}};
  const FakeAnswer answer = core_.Infer(request);
  ASSERT_EQ(answer.code, -1) << answer.message;
  std::vector<float> expected;
  AddRow('Q', 0, expected);
  EXPECT_EQ(answer.outputs.at(0).bytes, BytesOf(expected));
  request = Images({"x"});
  request.parameters = {{"embed_model", std::string("other")}};
  ExpectError(request, TRITONSERVER_ERROR_UNAVAILABLE, "other model");
  request.parameters = {{"embed_model", std::string("nope")}};
  ExpectError(request, TRITONSERVER_ERROR_INVALID_ARG,
              "parameter 'embed_model': Request for unknown model: 'nope' is not found");
  request.parameters = {{"embed_model", std::string("embed_image")}};
  ExpectError(request, TRITONSERVER_ERROR_INVALID_ARG, "leads to embed_image or embed_text");
  request.parameters = {{"base64_encoded", std::string("yes")}};
  ExpectError(request, TRITONSERVER_ERROR_INVALID_ARG,
              "parameter 'base64_encoded': expected true or false");
}

TEST_F(DoorsTest, AnswersOfEveryKindEndTheRequest) {
  AddTarget({.answer = FirstBytes, .release_first = true}, "early");
  AddTarget({.answer = FirstBytes, .num_answers = 0}, "silent");
  AddTarget({.answer = FirstBytes, .num_answers = 2}, "twice");
  FakeRequest request = Images({"x"});
  request.parameters = {{"embed_model", std::string("early")}};
  EXPECT_EQ(core_.Infer(request).code, -1);
  request.parameters = {{"embed_model", std::string("silent")}};
  ExpectError(request, TRITONSERVER_ERROR_INTERNAL, "no answer came");
  request.parameters = {{"embed_model", std::string("twice")}};
  ExpectError(request, TRITONSERVER_ERROR_INTERNAL, "expected one answer, got several");
}

// A model of another backend answers what it likes, whatever its configuration says.
TEST_F(DoorsTest, AnswersThatAreNoEmbeddingsAreNamed) {
  using Change = std::function<void(std::vector<FakeTensor>&)>;
  const std::pair<Change, const char*> cases[] = {
      {[](auto& outputs) { outputs.clear(); }, "got none"},
      {[](auto& outputs) { outputs.push_back(outputs[0]); }, " bytes and EMBEDDING FP32 ["},
      {[](auto& outputs) { outputs[0].name = "OTHER"; }, "got OTHER FP32 ["},
      {[](auto& outputs) { outputs[0].type = TRITONSERVER_TYPE_INT32; }, "got EMBEDDING INT32 ["},
      {[](auto& outputs) { outputs[0].shape[1] /= 2; }, ",64] of "},
      {[](auto& outputs) { outputs[0].shape.pop_back(); }, "got EMBEDDING FP32 ["},
      {[](auto& outputs) { outputs[0].shape.clear(); }, "got EMBEDDING FP32 [] of "},
      {[](auto& outputs) { ++outputs[0].shape[0]; }, ",128] of "},
      {[](auto& outputs) { outputs[0].bytes.resize(8); }, "] of 8 bytes"}};
  for (std::size_t i = 0; i < std::size(cases); ++i) {
    const std::string name = absl::StrCat("foreign_", i);
    AddTarget({.answer =
                   [change = cases[i].first](const FakeTensor& input) {
                     FakeAnswer answer = FirstBytes(input);
                     change(answer.outputs);
                     return answer;
                   }},
              name.c_str());
    for (const std::size_t rows : {1, 40}) {
      FakeRequest request = Images(std::vector<std::string>(rows, "x"));
      request.parameters = {{"embed_model", name}};
      const FakeAnswer answer = core_.Infer(request);
      EXPECT_EQ(answer.code, TRITONSERVER_ERROR_INTERNAL);
      EXPECT_THAT(answer.message,
                  HasSubstr(absl::StrCat("model '", name, "': expected EMBEDDING FP32 [",
                                         rows == 1 ? 1 : 32, ",128], got ")));
      EXPECT_THAT(answer.message, HasSubstr(cases[i].second));
      EXPECT_EQ(answer.message.find("items 32..39: ") != std::string::npos, rows == 40);
    }
  }
}

TEST_F(DoorsTest, TargetThatRefusesAtOnceEndsTheRequest) {
  // It says 4 and takes none: ServerInferAsync itself fails.
  json config = TargetConfig("siglip_vision");
  config["max_batch_size"] = 4;
  config["refuses"] = true;
  core_.AddHostModel(config, {.answer = FirstBytes});
  ExpectError(Images({"x", "y", "z", "x", "y"}), TRITONSERVER_ERROR_UNAVAILABLE,
              "items 0..3: refused; items 4..4: refused");
}

TEST_F(DoorsTest, CancelledRequestIsNotSentOn) {
  AddTarget({.answer = FirstBytes});
  FakeRequest request = Images({"x"});
  request.cancelled = true;
  EXPECT_EQ(core_.Infer(request).code, TRITONSERVER_ERROR_CANCELLED);
  EXPECT_EQ(core_.Executed("siglip_vision"), 0);
}

TEST_F(DoorsTest, ExceptionEndsItsRequestOnly) {
  AddTarget({.answer = FirstBytes});
  FakeRequest request = Images({"x"});
  request.id_throws = "no id today";
  ExpectError(request, TRITONSERVER_ERROR_INTERNAL, "dropped without an answer");
  EXPECT_EQ(core_.Infer(Images({"x"})).code, -1);
}

// On the core's own thread.
TEST_F(DoorsTest, ExceptionInAnAnswerEndsItsRequestOnly) {
  AddTarget({.answer = FirstBytes});
  FakeRequest request = Images({"x"});
  request.report_throws = "no statistics today";
  ExpectError(request, TRITONSERVER_ERROR_INTERNAL, "dropped without an answer");
  EXPECT_THAT(FakeCore::TakeLog(), HasSubstr("no statistics today"));
  EXPECT_EQ(core_.Infer(Images({"x"})).code, -1);
}

TEST_F(DoorsTest, DoorWithoutABatchDimensionAnswersWithout) {
  AddTarget({.answer = FirstBytes});
  json config = Config("single", "embed_image", kImage, kEmbedding);
  config["max_batch_size"] = 0;
  ASSERT_EQ(core_.LoadModel(config, kDirectory), "");
  FakeRequest request = Images({"x"});
  request.model = "single";
  request.input.shape = {1};
  const FakeAnswer answer = core_.Infer(request);
  ASSERT_EQ(answer.code, -1) << answer.message;
  EXPECT_THAT(answer.outputs.at(0).shape, testing::ElementsAre(kWidth));
}

TEST_F(DoorsTest, TextGoesThroughBothLibraries) {
  ASSERT_EQ(Load(core_, "siglip"), "");
  ASSERT_EQ(core_.LoadModel(TextConfig(), kDirectory), "");
  std::vector<std::future<FakeAnswer>> answers;
  for (int i = 0; i < 40; ++i) {
    answers.push_back(core_.Send(
        BytesRequest("embed_text", "INPUT_TEXT", {absl::StrCat("a photo of ", i), "star"})));
  }
  for (int i = 0; i < 40; ++i) {
    const FakeAnswer answer = answers[static_cast<std::size_t>(i)].get();
    ASSERT_EQ(answer.code, -1) << answer.message;
    EXPECT_EQ(answer.outputs.at(0).bytes,
              BytesOf(model_->EmbedText(absl::StrCat("a photo of ", i)).value()) +
                  BytesOf(model_->EmbedText("star").value()));
  }
  ExpectError(BytesRequest("embed_text", "INPUT_TEXT", {"ok", "\xff"}),
              TRITONSERVER_ERROR_INVALID_ARG, "item 1: ");
}

TEST_F(DoorsTest, UnloadWaitsForWhatIsUnderWay) {
  AddTarget({.answer = FirstBytes});
  core_.Hold("siglip_vision");
  auto answer = core_.Send(Images({"x"}));
  while (core_.Executed("embed_image") < 1) std::this_thread::yield();
  std::thread unload([this] { core_.Unload("embed_image"); });
  core_.Resume("siglip_vision");
  EXPECT_EQ(answer.get().code, -1);
  unload.join();
}

// The host notices what it is there to notice.
using HostDeathTest = BackendTest;

TEST_F(HostDeathTest, MisuseEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        auto* error = TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "x");
        TRITONSERVER_ErrorDelete(error);
        TRITONSERVER_ErrorDelete(error);
      },
      "ErrorDelete: got a error that does not exist");
  EXPECT_DEATH(
      {
        FakeCore core;
        TRITONSERVER_Message* message = nullptr;
        TRITONSERVER_MessageNewFromSerializedJson(&message, "{}", 2);
      },
      "a message is left over at the end");
}

}  // namespace
}  // namespace siglip::triton
