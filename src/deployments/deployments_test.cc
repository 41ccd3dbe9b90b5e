#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "deployments/built_in_configs.h"
#include "deployments/factory.h"
#include "serving/config_check.h"
#include "serving/item_errors.h"
#include "serving/service_impl.h"

namespace siglip {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

// S = 2, D = 2, T = 3, vocabulary 100. An image "v..." becomes pixels of its first byte and the
// embedding [first byte, 1]; "bad" is refused. A text becomes {its length, 0, 0} and [length, 2].
class ByteModel : public Model {
 public:
  ByteModel() {
    info_.image_size = 2;
    info_.embedding_size = 2;
    info_.text_length = 3;
    info_.vocab_size = 100;
  }
  const ModelInfo& info() const override { return info_; }
  absl::StatusOr<ImageInfo> InspectImage(std::string_view bytes) const override {
    if (bytes.starts_with("bomb")) return absl::InvalidArgumentError("image too large");
    ImageInfo info;
    info.working_set_bytes = 100;
    return info;
  }
  absl::StatusOr<PatchGrid> Preprocess(std::string_view bytes, float* pixels,
                                       PreprocessTimes* times) const override {
    if (times != nullptr) times->decode_ns = 1000;
    if (bytes.starts_with("bad") || bytes.empty()) {
      absl::Status status = absl::InvalidArgumentError("not an image");
      status.SetPayload(kImageRefusedPayload, absl::Cord("damaged"));
      return status;
    }
    std::fill_n(pixels, 12, static_cast<float>(static_cast<unsigned char>(bytes[0])));
    return PatchGrid{1, 1};
  }
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t*, std::int64_t, std::int64_t, float*,
                                          PreprocessTimes*) const override {
    return absl::UnimplementedError("no deployment asks for it");
  }
  absl::Status EncodePixels(std::span<const ImagePixels> images,
                            std::span<float* const> rows) override {
    for (std::size_t i = 0; i < images.size(); ++i) {
      rows[i][0] = images[i].values[11];
      rows[i][1] = 1;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const override {
    if (text.starts_with("\xff")) return absl::InvalidArgumentError("not UTF-8 at offset 0");
    return std::vector<std::int64_t>{static_cast<std::int64_t>(text.size()), 0, 0};
  }
  absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view text) const override {
    return std::vector<std::int64_t>(text.empty() ? 1 : 2);
  }
  absl::Status EncodeTokens(std::span<const std::int64_t* const> ids, std::int64_t,
                            std::span<float* const> rows) override {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      rows[i][0] = static_cast<float>(ids[i][0]);
      rows[i][1] = 2;
    }
    return absl::OkStatus();
  }

 protected:
  ModelInfo info_;
};

TensorConfig Tensor(const char* name, DataType type, std::vector<std::int64_t> dims) {
  return {.name = name, .datatype = type, .dims = std::move(dims)};
}

ModelConfig Leaf(const char* name, const char* step, int max_batch_size, TensorConfig input,
                 TensorConfig output) {
  ModelConfig config;
  config.name = name;
  config.backend = "siglip";
  config.max_batch_size = max_batch_size;
  config.inputs = {std::move(input)};
  config.outputs = {std::move(output)};
  config.parameters = {{"step", step}, {"checkpoint", "x"}};
  config.versions = {1};
  config.source = std::string(name) + "/config.pbtxt";
  return config;
}

std::vector<ModelConfig> Six() {
  const TensorConfig image = Tensor("INPUT_IMAGE", DataType::kBytes, {1});
  const TensorConfig pixels = Tensor("PIXEL_VALUES", DataType::kFp32, {3, -1, -1});
  const TensorConfig embedding = Tensor("EMBEDDING", DataType::kFp32, {-1});
  std::vector<ModelConfig> configs = {
      Leaf("siglip_vision_process", "image_process", 4, image, pixels),
      Leaf("siglip_vision_model", "vision", 4, pixels, embedding),
      Leaf("siglip_text", "text", 4, Tensor("INPUT_IDS", DataType::kInt64, {}), embedding),
      Leaf("embed_image", "embed_image", 60, image, embedding),
      Leaf("embed_text", "embed_text", 60, Tensor("INPUT_TEXT", DataType::kBytes, {1}), embedding)};
  configs[1].dynamic_batching = DynamicBatching{};
  ModelConfig ensemble;
  ensemble.name = "siglip_vision";
  ensemble.platform = "ensemble";
  ensemble.max_batch_size = 4;
  ensemble.inputs = {image};
  ensemble.outputs = {embedding};
  ensemble.versions = {1};
  ensemble.source = "siglip_vision/config.pbtxt";
  ensemble.ensemble_steps = {{.model_name = "siglip_vision_process",
                              .input_map = {{"INPUT_IMAGE", "INPUT_IMAGE"}},
                              .output_map = {{"PIXEL_VALUES", "PIXEL_VALUES"}}},
                             {.model_name = "siglip_vision_model",
                              .input_map = {{"PIXEL_VALUES", "PIXEL_VALUES"}},
                              .output_map = {{"EMBEDDING", "EMBEDDING"}}}};
  configs.push_back(ensemble);
  return configs;
}

// The same of NaFlex: a patch is one pixel, an image has at most N = 4 (or what is asked for). "vn"
// becomes 1 row of n of them, and the embedding [first byte, n].
class PatchModel final : public ByteModel {
 public:
  explicit PatchModel(std::int64_t max_patches) {
    info_.image_size = 0;
    info_.patch_size = 1;
    info_.max_patches = max_patches > 0 ? max_patches : 4;
  }
  absl::StatusOr<PatchGrid> Preprocess(std::string_view bytes, float* pixels,
                                       PreprocessTimes*) const override {
    if (bytes.starts_with("bad")) return absl::InvalidArgumentError("not an image");
    std::fill_n(pixels, info_.pixel_values(),
                static_cast<float>(static_cast<unsigned char>(bytes[0])));
    return PatchGrid{1, bytes[1] - '0'};
  }
  absl::Status EncodePixels(std::span<const ImagePixels> images,
                            std::span<float* const> rows) override {
    for (std::size_t i = 0; i < images.size(); ++i) {
      rows[i][0] = images[i].values[0];
      rows[i][1] = static_cast<float>(images[i].grid.rows * images[i].grid.columns);
    }
    return absl::OkStatus();
  }
};

std::vector<ModelConfig> NaflexSix() {
  std::vector<ModelConfig> configs = Six();
  const TensorConfig pixels = Tensor("PIXEL_VALUES", DataType::kFp32, {-1, -1});
  const TensorConfig shapes = Tensor("SPATIAL_SHAPES", DataType::kInt64, {2});
  configs[0].outputs = {pixels, shapes};
  configs[1].inputs = {pixels, shapes};
  std::vector<EnsembleStep>& steps = configs[5].ensemble_steps;
  steps[0].output_map["SPATIAL_SHAPES"] = "SPATIAL_SHAPES";
  steps[1].input_map["SPATIAL_SHAPES"] = "SPATIAL_SHAPES";
  return configs;
}

class DeploymentsTest : public testing::Test {
 protected:
  DeploymentsTest() : service_(*Load(Six())) {}

  using OpenModel = std::function<absl::StatusOr<std::unique_ptr<Model>>(const std::string&,
                                                                         const ModelOptions&)>;
  static absl::StatusOr<std::unique_ptr<Model>> OpenBytes(const std::string&, const ModelOptions&) {
    return std::make_unique<ByteModel>();
  }
  static absl::StatusOr<std::unique_ptr<Model>> OpenPatches(const std::string&,
                                                            const ModelOptions& options) {
    return std::make_unique<PatchModel>(options.max_patches);
  }

  static absl::StatusOr<std::unique_ptr<ServiceImpl>> Load(std::vector<ModelConfig> configs,
                                                           OpenModel open = OpenBytes) {
    static const SystemClock clock;
    DeploymentsOptions options;
    options.open = std::move(open);
    DeploymentsFactory factory(std::move(options));
    return ServiceImpl::Load(std::move(configs), factory, clock);
  }

  InferResponse Send(const std::string& model, const std::string& input,
                     const std::vector<std::string>& elements, Parameters parameters = {}) {
    auto request = std::make_unique<InferRequest>();
    request->model_name = model;
    request->parameters = std::move(parameters);
    auto storage = std::make_shared<std::vector<std::string>>(elements);
    InputTensor tensor;
    tensor.name = input;
    tensor.datatype = DataType::kBytes;
    tensor.shape = {static_cast<std::int64_t>(elements.size()), 1};
    for (const std::string& element : *storage) tensor.elements.emplace_back(element);
    tensor.storage = storage;
    request->inputs.push_back(std::move(tensor));
    return Wait(std::move(request));
  }

  InferResponse Wait(std::unique_ptr<InferRequest> request) {
    auto promise = std::make_shared<std::promise<InferResponse>>();
    request->done = [promise](InferResponse response) { promise->set_value(std::move(response)); };
    service_->Infer(std::move(request));
    return promise->get_future().get();
  }

  static std::vector<float> Floats(const InferResponse& response) {
    EXPECT_TRUE(response.status.ok()) << response.status;
    if (response.outputs.size() != 1) return {};
    std::vector<float> values(response.outputs[0].data.size() / sizeof(float));
    std::memcpy(values.data(), response.outputs[0].data.data(), response.outputs[0].data.size());
    return values;
  }

  std::unique_ptr<ServiceImpl> service_;
};

TEST_F(DeploymentsTest, TheDoorsTellWhatProbabilitiesNeed) {
  for (const char* door : {"embed_image", "embed_text"}) {
    const auto config = service_->GetModelConfig(door, "");
    ASSERT_TRUE(config.ok());
    const auto& parameters = (*config)->parameters;
    EXPECT_EQ(parameters.at("logit_scale"), "0");
    EXPECT_EQ(parameters.at("logit_bias"), "0");
    EXPECT_EQ(parameters.at("image_size"), std::to_string(ByteModel().info().image_size));
    EXPECT_EQ(parameters.at("text_length"), std::to_string(ByteModel().info().text_length));
    EXPECT_EQ(parameters.count("engine"), 1u);
  }
  EXPECT_EQ((*service_->GetModelConfig("siglip_text", ""))->parameters.count("logit_scale"), 0u);
}

TEST_F(DeploymentsTest, AnotherPillowLoadsNoOtherWeights) {
  std::vector<ModelConfig> configs = Six();
  configs[0].parameters["pillow"] = "12";
  int opened = 0;
  const auto service =
      Load(std::move(configs), [&opened](const std::string& folder, const ModelOptions& options) {
        ++opened;
        return OpenBytes(folder, options);
      });
  ASSERT_TRUE(service.ok()) << service.status();
  EXPECT_EQ(opened, 1);
  const auto pillow_of = [](const ServiceImpl& of) {
    return (*of.GetModelConfig("siglip_vision_process", ""))->parameters.at("pillow");
  };
  EXPECT_EQ(pillow_of(**service), "12");
  EXPECT_EQ(pillow_of(*service_), "13");
}

TEST_F(DeploymentsTest, DimsAreFilledFromTheCheckpoint) {
  const auto vision = service_->GetModelConfig("siglip_vision_model", "");
  ASSERT_TRUE(vision.ok()) << vision.status();
  EXPECT_EQ((*vision)->inputs[0].dims, (std::vector<std::int64_t>{3, 2, 2}));
  EXPECT_EQ((*service_->GetModelConfig("siglip_text", ""))->inputs[0].dims,
            (std::vector<std::int64_t>{3}));
}

TEST_F(DeploymentsTest, EveryDoorGivesTheSameEmbedding) {
  const std::vector<float> expected = {'h', 1};
  EXPECT_EQ(Floats(Send("embed_image", "INPUT_IMAGE", {"hello"})), expected);
  EXPECT_EQ(Floats(Send("siglip_vision", "INPUT_IMAGE", {"hello"})), expected);
  EXPECT_EQ(Floats(Send("embed_image", "INPUT_IMAGE", {"aGVsbG8="}, {{"base64_encoded", true}})),
            expected);
  EXPECT_EQ(Floats(Send("embed_text", "INPUT_TEXT", {"abc"})), (std::vector<float>{3, 2}));
}

TEST_F(DeploymentsTest, ALargeRequestIsSplitAndRejoinedInOrder) {
  std::vector<std::string> images, texts;
  std::vector<float> image_rows, text_rows;
  for (int i = 0; i < 60; ++i) {
    images.push_back(std::string(1, static_cast<char>('A' + i)));
    texts.push_back(std::string(static_cast<std::size_t>(i), 'x'));
    image_rows.insert(image_rows.end(), {static_cast<float>('A' + i), 1});
    text_rows.insert(text_rows.end(), {static_cast<float>(i), 2});
  }
  const InferResponse answer = Send("embed_image", "INPUT_IMAGE", images);
  EXPECT_EQ(Floats(answer), image_rows);
  EXPECT_EQ(answer.outputs[0].shape, (std::vector<std::int64_t>{60, 2}));
  EXPECT_EQ(answer.model_name, "embed_image");
  EXPECT_EQ(Floats(Send("embed_text", "INPUT_TEXT", texts)), text_rows);
  images.push_back("a");
  EXPECT_EQ(Send("embed_image", "INPUT_IMAGE", images).status.code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(DeploymentsTest, ADoorWithoutABatchDimensionAnswersWithout) {
  std::vector<ModelConfig> configs = Six();
  for (std::size_t door : {3, 4}) configs[door].max_batch_size = 0;
  service_ = *Load(std::move(configs));
  for (const auto& [door, input] :
       {std::pair{"embed_image", "INPUT_IMAGE"}, {"embed_text", "INPUT_TEXT"}}) {
    auto request = std::make_unique<InferRequest>();
    request->model_name = door;
    InputTensor& tensor = request->inputs.emplace_back();
    tensor.name = input;
    tensor.datatype = DataType::kBytes;
    tensor.shape = {1};
    tensor.elements = {"abc"};
    const InferResponse answer = Wait(std::move(request));
    EXPECT_EQ(Floats(answer).size(), 2u);
    EXPECT_EQ(answer.outputs.at(0).shape, (std::vector<std::int64_t>{2}));
  }
}

TEST_F(DeploymentsTest, TokensAreCountedWithoutPaddingIfAsked) {
  for (const bool counts : {false, true}) {
    auto request = std::make_unique<InferRequest>();
    request->model_name = "embed_text";
    request->count_tokens = counts;
    InputTensor& tensor = request->inputs.emplace_back();
    tensor.name = "INPUT_TEXT";
    tensor.datatype = DataType::kBytes;
    tensor.shape = {3, 1};
    tensor.elements = {"abc", "", "d"};
    const InferResponse response = Wait(std::move(request));
    EXPECT_TRUE(response.status.ok()) << response.status;
    EXPECT_EQ(response.input_tokens, counts ? 5 : 0);
  }
}

// Texts that begin with "stuck" are tokenized until the test is over.
class StuckModel final : public ByteModel {
 public:
  struct Gate {
    Mutex mu;
    CondVar changed;
    bool open SIGLIP_GUARDED_BY(mu) = false;
    int entered SIGLIP_GUARDED_BY(mu) = 0;
    std::thread::id last SIGLIP_GUARDED_BY(mu);  // of other texts
  };
  explicit StuckModel(std::shared_ptr<Gate> gate) : gate_(std::move(gate)) {}
  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const override {
    MutexLock lock(gate_->mu);
    if (text.starts_with("stuck")) {
      ++gate_->entered;
      gate_->changed.NotifyAll();
      while (!gate_->open) gate_->changed.Wait(gate_->mu);
    } else {
      gate_->last = std::this_thread::get_id();
    }
    return std::vector<std::int64_t>{1, 0, 0};
  }

 private:
  const std::shared_ptr<Gate> gate_;
};

class LongTextTest : public DeploymentsTest {
 protected:
  LongTextTest() {
    service_ = *Load(Six(), [gate = gate_](const std::string&, const ModelOptions&) {
      return std::make_unique<StuckModel>(gate);
    });
  }
  ~LongTextTest() override { Open(); }

  void Open() {
    MutexLock lock(gate_->mu);
    gate_->open = true;
    gate_->changed.NotifyAll();
  }
  bool Entered(int count) {
    MutexLock lock(gate_->mu);
    while (gate_->entered < count) {
      if (!gate_->changed.WaitFor(gate_->mu, kPatience)) return false;
    }
    return true;
  }
  std::future<InferResponse> Post(const std::string& model, const std::string& input,
                                  const std::string& element,
                                  const std::function<void(InferRequest&)>& change = {}) {
    auto request = std::make_unique<InferRequest>();
    request->model_name = model;
    auto storage = std::make_shared<std::string>(element);
    InputTensor& tensor = request->inputs.emplace_back();
    tensor.name = input;
    tensor.datatype = DataType::kBytes;
    tensor.shape = {1, 1};
    tensor.elements = {*storage};
    tensor.storage = storage;
    if (change) change(*request);
    auto promise = std::make_shared<std::promise<InferResponse>>();
    request->done = [promise](InferResponse response) { promise->set_value(std::move(response)); };
    service_->Infer(std::move(request));
    return promise->get_future();
  }
  std::future<InferResponse> PostText(const std::string& text,
                                      const std::function<void(InferRequest&)>& change = {}) {
    return Post("embed_text", "INPUT_TEXT", text, change);
  }
  static std::string Stuck(std::size_t bytes) { return "stuck" + std::string(bytes - 5, 'x'); }
  static bool Comes(std::future<InferResponse>& answer) {
    return answer.wait_for(kPatience) == std::future_status::ready;
  }

  // As long as a machine under load may take.
  static constexpr std::chrono::seconds kPatience{20};

  const std::shared_ptr<StuckModel::Gate> gate_ = std::make_shared<StuckModel::Gate>();
};

TEST_F(LongTextTest, TheyHoldUpNeitherPicturesNorShorterTexts) {
  std::vector<std::future<InferResponse>> stuck;
  for (int i = 0; i < 3; ++i) stuck.push_back(PostText(Stuck(1 << 20)));
  ASSERT_TRUE(Entered(1));
  std::future<InferResponse> shorter = PostText(std::string(100'000, 'x'));
  EXPECT_TRUE(Comes(shorter));
  for (int i = 0; i < 3; ++i) stuck.push_back(PostText(Stuck(100'000)));
  EXPECT_TRUE(Entered(3));
  std::future<InferResponse> picture =
      Post("embed_image", "INPUT_IMAGE", std::string(100'000, 'A'),
           [](InferRequest& request) { request.parameters["base64_encoded"] = true; });
  EXPECT_TRUE(Comes(picture));
  std::future<InferResponse> word = PostText("x");
  EXPECT_TRUE(Comes(word));
  Open();
  for (auto& answer : stuck) EXPECT_TRUE(answer.get().status.ok());
}

TEST_F(LongTextTest, TheyAreTokenizedOnAnotherThread) {
  for (const bool is_long : {false, true}) {
    const InferResponse answer = PostText(std::string(is_long ? 2'100 : 2'000, 'x')).get();
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    MutexLock lock(gate_->mu);
    EXPECT_EQ(gate_->last == std::this_thread::get_id(), !is_long);
  }
}

TEST_F(LongTextTest, TheGoneAndTheLateLeaveWhileTheyWait) {
  std::future<InferResponse> stuck = PostText(Stuck(1 << 20));
  ASSERT_TRUE(Entered(1));
  auto hung_up = std::make_shared<std::atomic<bool>>(false);
  std::future<InferResponse> gone = PostText(Stuck(1 << 20), [&](InferRequest& request) {
    request.is_cancelled = [hung_up] { return hung_up->load(); };
  });
  std::future<InferResponse> late =
      PostText(Stuck(1 << 20), [](InferRequest& request) { request.timeout_us = 1000; });
  std::future<InferResponse> past_deadline = PostText(Stuck(1 << 20), [](InferRequest& request) {
    request.client_end_ns = SteadyNowNs() + 1'000'000;
  });
  hung_up->store(true);
  ASSERT_TRUE(Comes(gone) && Comes(late) && Comes(past_deadline));
  EXPECT_TRUE(absl::IsCancelled(gone.get().status));
  const absl::Status timeout = late.get().status;
  EXPECT_TRUE(absl::IsUnavailable(timeout)) << timeout;
  EXPECT_THAT(std::string(timeout.message()), HasSubstr("Request timeout expired"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(past_deadline.get().status));
  Open();
  EXPECT_TRUE(stuck.get().status.ok());
  const ModelStatistics statistics = service_->GetStatistics("embed_text", "")->at(0);
  EXPECT_EQ(statistics.success.count, 1u);
  EXPECT_EQ(statistics.fail.count, 3u);
}

TEST_F(DeploymentsTest, BadItemsAreNamedAndFailTheirRequestOnly) {
  EXPECT_EQ(Send("embed_image", "INPUT_IMAGE", {"bad"}).status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Send("embed_image", "INPUT_IMAGE", {"a", "bad", "c"}).status.message()),
              HasSubstr("item 1"));
  EXPECT_THAT(std::string(Send("embed_image", "INPUT_IMAGE", {"bomb"}).status.message()),
              HasSubstr("too large"));
  EXPECT_THAT(std::string(Send("embed_text", "INPUT_TEXT", {"a", "\xff"}).status.message()),
              HasSubstr("item 1"));
  EXPECT_EQ(Send("embed_image", "INPUT_IMAGE", {"Y"}, {{"base64_encoded", true}}).status.code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Floats(Send("embed_image", "INPUT_IMAGE", {"ok"})), (std::vector<float>{'o', 1}));
}

// Models of four items a batch are below doors of sixty.
TEST_F(DeploymentsTest, ItemsOfASplitRequestKeepTheirNumbers) {
  std::vector<std::string> images(60, "a");
  images[40] = "bad";
  InferResponse answer = Send("embed_image", "INPUT_IMAGE", images);
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(answer.status.message(), "1 of 60 items failed: item 40: not an image");
  for (int i = 45; i < 57; ++i) images[static_cast<std::size_t>(i)] = "bomb";
  answer = Send("embed_image", "INPUT_IMAGE", images);
  EXPECT_THAT(std::string(answer.status.message()),
              StartsWith("13 of 60 items failed: item 40: not an image; item 45: "));
  EXPECT_THAT(std::string(answer.status.message()), EndsWith("; and 5 more: item 52..56"));
  const std::vector<ItemError> errors = ItemErrorsOf(answer.status);
  ASSERT_EQ(errors.size(), 13u);
  EXPECT_EQ(errors.back().item, 56u);
}

TEST_F(DeploymentsTest, ImagesAreCountedByStageAndByWhyTheyWereRefused) {
  Send("embed_image", "INPUT_IMAGE", {"a", "b"});
  Send("embed_image", "INPUT_IMAGE", {"bad"});
  Send("embed_image", "INPUT_IMAGE", {"bomb"});  // refused by its head, before it is queued
  const StepCounters counters = service_->GetStatistics("siglip_vision_process", "")->at(0).step;
  EXPECT_EQ(counters.stages.at("decode").count, 3u);
  EXPECT_EQ(counters.stages.at("decode").ns, 3000u);
  EXPECT_FALSE(counters.stages.contains("resize"));
  EXPECT_EQ(counters.refused.at("damaged"), 1u);
  EXPECT_EQ(counters.refused.at("other"), 1u);
}

TEST_F(DeploymentsTest, EmbedModelMustBeKnownAndSuitable) {
  const auto error = [&](ParameterValue value) {
    const InferResponse answer =
        Send("embed_image", "INPUT_IMAGE", {"a"}, {{"embed_model", std::move(value)}});
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(answer.status.message());
  };
  EXPECT_THAT(error(std::string("nothing")), HasSubstr("embed_model"));
  EXPECT_THAT(error(std::string("siglip_text")), HasSubstr("unsuitable"));
  EXPECT_THAT(error(true), HasSubstr("expected a string"));
  EXPECT_EQ(Floats(Send("embed_image", "INPUT_IMAGE", {"a"},
                        {{"embed_model", std::string("siglip_vision")}, {"unknown", true}})),
            (std::vector<float>{'a', 1}));
  EXPECT_EQ(Send("embed_image", "INPUT_IMAGE", {"a"}, {{"base64_encoded", std::string("true")}})
                .status.code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(DeploymentsTest, ADoorOrAnEnsembleOfOneIsUnsuitable) {
  std::vector<ModelConfig> configs = Six();
  ModelConfig ensemble = configs.back();
  ensemble.name = "around";
  ensemble.ensemble_steps = {{.model_name = "embed_image",
                              .input_map = {{"INPUT_IMAGE", "INPUT_IMAGE"}},
                              .output_map = {{"EMBEDDING", "EMBEDDING"}}}};
  configs.push_back(ensemble);
  // As a config.pbtxt without a version says it.
  ensemble.name = "around_unset";
  ensemble.ensemble_steps[0].model_version = 0;
  configs.push_back(ensemble);
  // Followed, these would send a request round for ever.
  for (const char* target : {"embed_image", "embed_text", "around", "around_unset"}) {
    std::vector<ModelConfig> looped = configs;
    looped[3].parameters["embed_model"] = target;
    service_ = *Load(std::move(looped));
    const InferResponse answer = Send("embed_image", "INPUT_IMAGE", {"a"});
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(answer.status.message()), HasSubstr("is unsuitable: it leads to"));
  }
}

TEST_F(DeploymentsTest, AnIdOutsideTheVocabularyIsNamed) {
  auto request = std::make_unique<InferRequest>();
  request->model_name = "siglip_text";
  auto ids = std::make_shared<std::vector<std::int64_t>>(std::vector<std::int64_t>{1, 100, 0});
  InputTensor tensor;
  tensor.name = "INPUT_IDS";
  tensor.datatype = DataType::kInt64;
  tensor.shape = {1, 3};
  tensor.data = std::as_bytes(std::span(*ids));
  tensor.storage = ids;
  request->inputs.push_back(std::move(tensor));
  EXPECT_THAT(std::string(Wait(std::move(request)).status.message()),
              HasSubstr("position 1: expected an id in 0..99, got 100"));
}

TEST_F(DeploymentsTest, ComposingModelsCountWhatTheDoorForwards) {
  for (int i = 0; i < 5; ++i) Send("embed_image", "INPUT_IMAGE", {"a", "b"});
  for (const char* name :
       {"embed_image", "siglip_vision", "siglip_vision_process", "siglip_vision_model"}) {
    const auto rows = service_->GetStatistics(name, "");
    ASSERT_TRUE(rows.ok()) << rows.status();
    const ModelStatistics& row = (*rows)[0];
    EXPECT_EQ(row.success.count, 5u) << name;
    EXPECT_EQ(row.queue.count, 5u) << name;
    EXPECT_EQ(row.compute_infer.count, 5u) << name;
    EXPECT_EQ(row.compute_input.count, row.compute_output.count) << name;
    EXPECT_EQ(row.inference_count, 10u) << name;
  }
}

class NaflexDeploymentsTest : public DeploymentsTest {
 protected:
  NaflexDeploymentsTest() { service_ = *Load(NaflexSix(), OpenPatches); }

  // Straight to the vision model: an image of four patches of value 7 and this shape.
  InferResponse SendShape(std::vector<std::int64_t> shape) {
    auto request = std::make_unique<InferRequest>();
    request->model_name = "siglip_vision_model";
    auto pixels = std::make_shared<std::vector<float>>(12, 7.0f);
    auto storage = std::make_shared<std::vector<std::int64_t>>(std::move(shape));
    InputTensor values;
    values.name = "PIXEL_VALUES";
    values.datatype = DataType::kFp32;
    values.shape = {1, 4, 3};
    values.data = std::as_bytes(std::span(*pixels));
    values.storage = pixels;
    InputTensor shapes;
    shapes.name = "SPATIAL_SHAPES";
    shapes.datatype = DataType::kInt64;
    shapes.shape = {1, static_cast<std::int64_t>(storage->size())};
    shapes.data = std::as_bytes(std::span(*storage));
    shapes.storage = storage;
    // In another order than the configuration's.
    request->inputs.push_back(std::move(shapes));
    request->inputs.push_back(std::move(values));
    return Wait(std::move(request));
  }
};

TEST_F(NaflexDeploymentsTest, ShapesGoWithThePixelsFromDoorToTower) {
  EXPECT_EQ(Floats(Send("embed_image", "INPUT_IMAGE", {"v3", "w1", "x4"})),
            (std::vector<float>{'v', 3, 'w', 1, 'x', 4}));
  const InferResponse prepared = Send("siglip_vision_process", "INPUT_IMAGE", {"v3"});
  ASSERT_TRUE(prepared.status.ok()) << prepared.status;
  ASSERT_EQ(prepared.outputs.size(), 2u);
  EXPECT_EQ(prepared.outputs[0].shape, (std::vector<std::int64_t>{1, 4, 3}));
  EXPECT_EQ(prepared.outputs[1].name, "SPATIAL_SHAPES");
  std::int64_t shape[2];
  ASSERT_EQ(prepared.outputs[1].data.size(), sizeof(shape));
  std::memcpy(shape, prepared.outputs[1].data.data(), sizeof(shape));
  EXPECT_EQ(shape[0], 1);
  EXPECT_EQ(shape[1], 3);
  EXPECT_FALSE(Send("embed_image", "INPUT_IMAGE", {"bad"}).status.ok());
}

TEST_F(NaflexDeploymentsTest, HostileShapesAreRefused) {
  EXPECT_EQ(Floats(SendShape({2, 2})), (std::vector<float>{7, 4}));
  for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{0, 4},
                                      {4, 0},
                                      {-2, -2},
                                      {5, 1},
                                      {2, 3},
                                      {std::int64_t{1} << 62, 4},
                                      {std::int64_t{1} << 32, std::int64_t{1} << 32}}) {
    const absl::Status status = SendShape({rows, columns}).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("SPATIAL_SHAPES: expected rows and columns of 1 to 4 patches, got ["));
  }
  EXPECT_FALSE(SendShape({2}).status.ok());
  EXPECT_FALSE(SendShape({2, 2, 1}).status.ok());
}

TEST_F(NaflexDeploymentsTest, TheConfigurationChoosesHowManyPatches) {
  std::vector<ModelConfig> configs = NaflexSix();
  for (ModelConfig& config : configs) config.parameters["max_num_patches"] = "9";
  service_ = *Load(std::move(configs), OpenPatches);
  EXPECT_EQ((*service_->GetModelConfig("siglip_vision_model", ""))->inputs[0].dims,
            (std::vector<std::int64_t>{9, 3}));
  const auto door = *service_->GetModelConfig("embed_image", "");
  EXPECT_EQ(door->parameters.at("max_num_patches"), "9");
  EXPECT_EQ(door->parameters.at("patch_size"), "1");
  EXPECT_FALSE(door->parameters.contains("image_size"));
  for (const char* wrong : {"0", "-1", "x", "1e3"}) {
    configs = NaflexSix();
    configs[0].parameters["max_num_patches"] = wrong;
    EXPECT_THAT(std::string(Load(std::move(configs), OpenPatches).status().message()),
                HasSubstr("parameters.max_num_patches: expected a number above 0"));
  }
}

TEST_F(NaflexDeploymentsTest, TheOtherKindsConfigurationIsALoadErrorThatNamesTheTensors) {
  EXPECT_THAT(std::string(Load(Six(), OpenPatches).status().message()),
              HasSubstr("expected PIXEL_VALUES FP32 and SPATIAL_SHAPES INT64, got PIXEL_VALUES"));
  EXPECT_THAT(std::string(Load(NaflexSix()).status().message()),
              HasSubstr("expected PIXEL_VALUES FP32, got PIXEL_VALUES FP32 and SPATIAL_SHAPES"));
}

TEST_F(DeploymentsTest, WrongConfigsAreLoadErrorsThatNameBothSides) {
  const auto error = [](const std::function<void(ModelConfig&)>& change) {
    std::vector<ModelConfig> configs = Six();
    change(configs[1]);
    const auto service = Load(std::move(configs));
    return service.ok() ? std::string("loaded") : std::string(service.status().message());
  };
  EXPECT_THAT(error([](ModelConfig& c) { c.outputs[0].dims = {1152}; }),
              testing::AllOf(HasSubstr("siglip_vision_model/config.pbtxt"), HasSubstr("[1152]"),
                             HasSubstr("[2]")));
  EXPECT_THAT(error([](ModelConfig& c) { c.parameters["step"] = "fly"; }), HasSubstr("got 'fly'"));
  EXPECT_THAT(error([](ModelConfig& c) { c.parameters.erase("checkpoint"); }),
              HasSubstr("checkpoint"));
  EXPECT_THAT(error([](ModelConfig& c) { c.parameters["pillow"] = "11"; }), HasSubstr("12 or 13"));
  EXPECT_THAT(error([](ModelConfig& c) { c.inputs[0].name = "X"; }), HasSubstr("PIXEL_VALUES"));
  EXPECT_THAT(error([](ModelConfig& c) { c.max_batch_size = -1; }), HasSubstr("max_batch_size"));
}

TEST_F(DeploymentsTest, ATowersBatchMayBeMoreThanAPassOfItsModel) {
  DeploymentsOptions options;
  options.model.max_batch_size = 2;
  options.open = OpenBytes;
  DeploymentsFactory factory(std::move(options));
  for (ModelConfig& config : Six()) {
    if (config.is_ensemble() || config.max_batch_size != 4) continue;
    const auto deployment = factory.Make(config);
    ASSERT_TRUE(deployment.ok()) << deployment.status();
    EXPECT_TRUE(CheckCompleted(config, *deployment).ok()) << config.name;
  }
}

TEST(BuiltInConfigsTest, AreTheSixFiles) {
  ASSERT_EQ(BuiltInConfigs().size(), 6u);
  for (const BuiltInConfig& config : BuiltInConfigs()) {
    const std::string name = "name: \"" + std::string(config.name) + "\"";
    EXPECT_NE(config.text.find(name), std::string_view::npos);
    const bool takes_pixels = config.name.starts_with("siglip_vision");
    EXPECT_EQ(config.naflex.find(name) != std::string_view::npos, takes_pixels) << config.name;
  }
}

// With one, Triton's core forms the next batch only when it is woken, or every 500 ms.
TEST(BuiltInConfigsTest, HaveNoQueuePolicy) {
  for (const BuiltInConfig& config : BuiltInConfigs()) {
    for (const std::string_view text : {config.text, config.naflex}) {
      EXPECT_EQ(text.find("_queue_policy"), std::string_view::npos) << config.name;
    }
  }
}

}  // namespace
}  // namespace siglip
