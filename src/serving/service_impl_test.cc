#include "serving/service_impl.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "serving/fakes_for_test.h"
#include "serving/overload.h"

namespace siglip {
namespace {

using testing::AddOneStep;
using testing::Answered;
using ::testing::ElementsAre;
using testing::FloatConfig;
using testing::FloatRequest;
using testing::Floats;
using ::testing::HasSubstr;

// Sends its input on to model "m" and passes the answer back.
class PassOn final : public Forwarder {
 public:
  void Forward(std::unique_ptr<InferRequest> request, ModelAccess& models) override {
    if (auto target = models.ReadyConfig("m", ""); !target.ok()) {
      Refuse(std::move(request), target.status());
      return;
    }
    auto inner = std::make_unique<InferRequest>();
    inner->model_name = "m";
    inner->inputs = request->inputs;
    std::shared_ptr<InferRequest> outer = std::move(request);
    inner->done = [outer](InferResponse response) {
      response.model_name.clear();
      response.model_version.clear();
      Answer(*outer, std::move(response));
    };
    models.InferWithin(std::move(inner));
  }
};

// Every model adds one; "forward" passes on; "broken" fails to load.
class FakeFactory final : public DeploymentFactory {
 public:
  absl::StatusOr<Deployment> Make(ModelConfig& config) override {
    if (config.name == "broken") return absl::DataLossError("no weights");
    Deployment deployment;
    if (config.name == "forward") {
      deployment.forwarder = std::make_shared<PassOn>();
    } else {
      deployment.step = step;
    }
    return deployment;
  }
  std::shared_ptr<AddOneStep> step = std::make_shared<AddOneStep>();
};

EnsembleStep Link(std::string model, std::string in, std::string out) {
  return {.model_name = std::move(model), .input_map = {{"X", in}}, .output_map = {{"Y", out}}};
}

// X -> m -> mid -> m2 -> Y: adds two.
ModelConfig Ensemble() {
  ModelConfig config = FloatConfig("e");
  config.backend.clear();
  config.platform = "ensemble";
  config.inputs[0].dims = {-1};
  config.outputs[0].dims = {-1};
  config.ensemble_steps = {Link("m2", "mid", "Y"), Link("m", "X", "mid")};
  return config;
}

class ServiceTest : public ::testing::Test {
 protected:
  absl::Status Load(std::vector<ModelConfig> configs, ServiceOptions options = {}) {
    auto service = ServiceImpl::Load(std::move(configs), factory_, clock_, options);
    if (!service.ok()) return service.status();
    service_ = *std::move(service);
    return absl::OkStatus();
  }
  InferResponse Infer(std::unique_ptr<InferRequest> request) {
    Answered answered(*request);
    service_->Infer(std::move(request));
    return answered.Wait();
  }
  ModelStatistics Stats(const std::string& name) {
    return service_->GetStatistics(name, "")->at(0);
  }

  SystemClock clock_;
  FakeFactory factory_;
  std::unique_ptr<ServiceImpl> service_;
};

TEST_F(ServiceTest, AnswersWithNameVersionAndId) {
  ModelConfig config = FloatConfig();
  config.versions = {2, 10, 9};
  ASSERT_TRUE(Load({config}).ok());
  auto request = FloatRequest({1, 2});
  request->id = "q";
  const InferResponse response = Infer(std::move(request));
  ASSERT_TRUE(response.status.ok());
  EXPECT_EQ(response.id, "q");
  EXPECT_EQ(response.model_name, "m");
  EXPECT_EQ(response.model_version, "10");
  EXPECT_THAT(Floats(response.outputs[0]), ElementsAre(2, 3));
}

TEST_F(ServiceTest, UnknownModelsAndVersionsAreNotFound) {
  ASSERT_TRUE(Load({FloatConfig()}).ok());
  EXPECT_EQ(Infer(FloatRequest({1, 2}, nullptr, "x")).status,
            absl::NotFoundError("Request for unknown model: 'x' is not found"));
  auto request = FloatRequest({1, 2});
  request->model_version = "7";
  EXPECT_EQ(Infer(std::move(request)).status,
            absl::NotFoundError("Request for unknown model: 'm' version 7 is not found"));
  EXPECT_EQ(service_->GetStatistics("x", "").status(),
            absl::InvalidArgumentError("requested model 'x' is not available"));
  EXPECT_EQ(service_->GetStatistics("x", "1").status(),
            absl::InvalidArgumentError("requested model 'x' is not available"));
  EXPECT_EQ(service_->GetStatistics("m", "2").status(),
            absl::InvalidArgumentError("requested model version is not available for model 'm'"));
  EXPECT_EQ(service_->GetStatistics("", "a").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service_->GetStatistics("", "7")->size(), 1u);
  EXPECT_TRUE(service_->ModelReady("m", "1").ok());
  for (const auto& [name, version] : {std::pair("m", "2"), std::pair("x", "")}) {
    EXPECT_EQ(service_->ModelReady(name, version),
              absl::FailedPreconditionError("Model version not ready"))
        << name;
  }
}

TEST_F(ServiceTest, EnsembleAddsUpAndCopiesNothing) {
  ASSERT_TRUE(Load({Ensemble(), FloatConfig("m"), FloatConfig("m2")}).ok());
  const InferResponse response = Infer(FloatRequest({1, 2, 3, 4}, nullptr, "e"));
  ASSERT_TRUE(response.status.ok()) << response.status;
  EXPECT_EQ(response.model_name, "e");
  EXPECT_EQ(response.outputs[0].name, "Y");
  EXPECT_THAT(Floats(response.outputs[0]), ElementsAre(3, 4, 5, 6));
  for (const char* name : {"e", "m", "m2"}) {
    const ModelStatistics s = Stats(name);
    EXPECT_EQ(s.success.count, 1u) << name;
    EXPECT_EQ(s.queue.count, 1u);
    EXPECT_EQ(s.inference_count, 2u);
    EXPECT_EQ(s.execution_count, 1u);
    EXPECT_EQ(s.compute_input.count, 1u);
    EXPECT_EQ(s.compute_output.count, 1u);
  }
  EXPECT_EQ(Stats("e").compute_infer.ns,
            Stats("m").compute_infer.ns + Stats("m2").compute_infer.ns);
  EXPECT_THAT(service_->GetModelMetadata("e", "")->outputs[0].dims, ElementsAre(-1, 2))
      << "open dims come from the steps";
}

TEST_F(ServiceTest, EnsembleFailureNamesTheEnsemble) {
  ASSERT_TRUE(Load({Ensemble(), FloatConfig("m"), FloatConfig("m2")}).ok());
  const InferResponse response = Infer(FloatRequest({-1, 2}, nullptr, "e"));
  EXPECT_EQ(response.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(response.status.message(), "in ensemble 'e', negative");
  EXPECT_EQ(Stats("m2").success.count, 0u);
  EXPECT_EQ(Stats("e").fail.count, 1u);
  EXPECT_EQ(Stats("m").failures.at(FailureReason::kBackend), 1u);
  EXPECT_EQ(Stats("e").failures.at(FailureReason::kOther), 1u) << "it has no backend";
}

TEST_F(ServiceTest, EnsembleInflightLimitLetsAllThrough) {
  ModelConfig config = Ensemble();
  config.ensemble_max_inflight_requests = 1;
  ASSERT_TRUE(Load({config, FloatConfig("m"), FloatConfig("m2")}).ok());
  std::vector<Answered> answers;
  for (int i = 0; i < 20; ++i) {
    auto request = FloatRequest({1, 2}, nullptr, "e");
    answers.emplace_back(*request);
    service_->Infer(std::move(request));
  }
  for (Answered& answer : answers) EXPECT_TRUE(answer.Wait().status.ok());
}

TEST_F(ServiceTest, AnEnsemblesQueueIsLeftByTheGone) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  factory_.step->during_run = [released] { released.wait(); };
  ModelConfig config = Ensemble();
  config.ensemble_max_inflight_requests = 1;
  ASSERT_TRUE(Load({config, FloatConfig("m"), FloatConfig("m2")}).ok());
  std::vector<Answered> answers;
  for (int i = 0; i < 4; ++i) {
    auto request = FloatRequest({1, 2}, nullptr, "e");
    if (i == 1) request->is_cancelled = [] { return true; };
    if (i == 2) request->client_end_ns = 1;
    if (i == 3) request->timeout_us = 1;
    answers.emplace_back(*request);
    service_->Infer(std::move(request));
  }
  EXPECT_EQ(answers[1].Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(answers[2].Wait().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(answers[3].Wait().status, absl::UnavailableError("Request timeout expired"));
  EXPECT_EQ(Stats("e").fail.count, 3u);
  EXPECT_GT(Stats("e").fail.ns, 0u) << "they waited";
  release.set_value();
  EXPECT_TRUE(answers[0].Wait().status.ok());
}

TEST_F(ServiceTest, RefusalsInAnEnsemblesQueueDoNotNest) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  factory_.step->during_run = [released] { released.wait(); };
  ModelConfig config = Ensemble();
  config.ensemble_max_inflight_requests = 1;
  ServiceOptions options;
  options.max_inflight_requests = 40'000;
  ASSERT_TRUE(Load({config, FloatConfig("m"), FloatConfig("m2")}, options).ok());
  std::vector<Answered> answers;
  for (int i = 0; i < 30'000; ++i) {
    // The step refuses 13 where it is sent.
    auto request = FloatRequest({i == 0 ? 1.0F : 13.0F, 2}, nullptr, "e");
    answers.emplace_back(*request);
    service_->Infer(std::move(request));
  }
  release.set_value();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].Wait().status.ok(), i == 0);
  }
}

TEST_F(ServiceTest, ForwardedWorkCountsInBothRows) {
  ASSERT_TRUE(Load({FloatConfig("forward"), FloatConfig("m")}).ok());
  const InferResponse response = Infer(FloatRequest({1, 2}, nullptr, "forward"));
  ASSERT_TRUE(response.status.ok());
  EXPECT_EQ(response.model_name, "forward");
  EXPECT_EQ(Stats("forward").success.count, 1u);
  EXPECT_EQ(Stats("m").success.count, 1u);
}

TEST_F(ServiceTest, LargeForwardedRequestsChangeTheThreadNotTheAnswer) {
  ModelConfig outer = FloatConfig("forward");
  ModelConfig inner = FloatConfig("m");
  for (ModelConfig* config : {&outer, &inner}) {
    config->inputs[0].dims = config->outputs[0].dims = {16384};
  }
  ASSERT_TRUE(Load({outer, inner}).ok());
  std::vector<float> row(16384, 4.0F);
  const InferResponse response = Infer(FloatRequest(row, nullptr, "forward", 16384));
  ASSERT_TRUE(response.status.ok()) << response.status;
  EXPECT_EQ(Floats(response.outputs[0])[0], 5);
}

TEST_F(ServiceTest, BrokenGraphsAreLoadErrorsThatNameTheTensor) {
  const auto error = [this](auto change) {
    ModelConfig config = Ensemble();
    config.source = "repo/e/config.pbtxt";
    change(config);
    const absl::Status status = Load({config, FloatConfig("m"), FloatConfig("m2")});
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr("repo/e/config.pbtxt: model 'e'"));
    return std::string(status.message());
  };
  EXPECT_THAT(error([](ModelConfig& c) { c.ensemble_steps[0].model_name = "gone"; }),
              HasSubstr("'gone' is not found"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.ensemble_steps[0].input_map = {{"Q", "mid"}};
              }),
              HasSubstr("unknown input 'Q'"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.ensemble_steps[0].input_map = {{"X", "nowhere"}};
              }),
              HasSubstr("makes tensor 'nowhere'"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.ensemble_steps[1].output_map = {{"Y", "X"}};
              }),
              HasSubstr("tensor 'X' to be made once"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.ensemble_steps[1].input_map = {{"X", "Y"}};
              }),
              HasSubstr("expected no cycle"));
  EXPECT_THAT(error([](ModelConfig& c) { c.outputs[0].dims = {3}; }), HasSubstr("[2]"));
  EXPECT_THAT(error([](ModelConfig& c) { c.outputs[0].datatype = DataType::kInt64; }),
              HasSubstr("data-type"));
  EXPECT_THAT(error([](ModelConfig& c) { c.max_batch_size = 9; }), HasSubstr("max_batch_size"));
  EXPECT_THAT(error([](ModelConfig& c) { c.backend = "siglip"; }), HasSubstr("backend"));
  EXPECT_THAT(error([](ModelConfig& c) { c.warmups = {{.name = "w"}}; }),
              HasSubstr("model_warmup: expected none for an ensemble"));
  EXPECT_THAT(error([](ModelConfig& c) { c.has_optimization = true; }),
              HasSubstr("optimization: expected none for an ensemble"));
  EXPECT_THAT(error([](ModelConfig& c) { c.ensemble_steps[0].model_name = ""; }),
              HasSubstr("expected a model_name for each step"));
  EXPECT_THAT(error([](ModelConfig& c) { c.ensemble_steps[0].output_map = {}; }),
              HasSubstr("step 'm2': expected an input_map and an output_map"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.inputs.push_back(c.inputs[0]);
                c.inputs[1].name = "unread";
              }),
              HasSubstr("step or output that takes tensor 'unread' (the ensemble's input)"));
  EXPECT_THAT(error([](ModelConfig& c) { c.ensemble_steps.push_back(Link("m", "X", "unread")); }),
              HasSubstr("takes tensor 'unread' (output 'Y' of step 'm')"));
}

TEST_F(ServiceTest, WrongConfigurationsAreLoadErrorsThatNameTheField) {
  const auto error = [this](auto change) {
    ModelConfig config = FloatConfig();
    config.dynamic_batching = DynamicBatching{};
    change(config);
    return std::string(Load({config}).message());
  };
  const auto prefix = [](const char* field) {
    return absl::StrCat("built-in: model 'm': ", field);
  };
  EXPECT_THAT(error([](ModelConfig& c) { c.backend = "onnx"; }), HasSubstr(prefix("backend")));
  EXPECT_THAT(error([](ModelConfig& c) { c.max_batch_size = -1; }), HasSubstr(prefix("max_batch")));
  EXPECT_THAT(error([](ModelConfig& c) { c.max_batch_size = 9; }), HasSubstr("at most 8"));
  EXPECT_THAT(error([](ModelConfig& c) { c.dynamic_batching->preferred_batch_sizes = {9}; }),
              HasSubstr("preferred_batch_size: expected 1 to max_batch_size 8, got 9"));
  EXPECT_THAT(error([](ModelConfig& c) { c.dynamic_batching->priority_levels = 2; }),
              HasSubstr("default_priority_level: expected 1 to 2, got 0"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.dynamic_batching->preserve_ordering = true;
                c.dynamic_batching->default_queue_policy.timeout_action =
                    QueuePolicy::TimeoutAction::kDelay;
              }),
              HasSubstr("preserve_ordering"));
  EXPECT_THAT(
      error([](ModelConfig& c) { c.instance_groups = {{.kind = InstanceGroup::Kind::kGpu}}; }),
      HasSubstr("KIND_GPU"));
  for (const auto kind : {InstanceGroup::Kind::kCpu, InstanceGroup::Kind::kModel}) {
    EXPECT_THAT(
        error([kind](ModelConfig& c) { c.instance_groups = {{.kind = kind, .gpus = {0}}}; }),
        HasSubstr("instance_group.gpus: expected none beside KIND_"));
  }
  EXPECT_THAT(
      error([](ModelConfig& c) { c.instance_groups = {{.gpus = {0}}}; }),
      HasSubstr("instance_group.gpus: expected none where the model runs on the CPU, got 0"));
  EXPECT_THAT(error([](ModelConfig& c) { c.instance_groups = {{.count = 65}}; }),
              HasSubstr("instance_group.count: expected 0 to 64, got 65"));
  EXPECT_THAT(error([](ModelConfig& c) {
                c.instance_groups = {{.count = 64}, {.count = 1}};
              }),
              HasSubstr("instance_group: expected at most 64 in all, got 65"));
  EXPECT_THAT(error([](ModelConfig& c) { c.inputs[0].dims = {-1}; }), HasSubstr("fixed dims"));
  EXPECT_THAT(error([](ModelConfig& c) { c.versions = {}; }), HasSubstr("version folder"));
  for (const char* name : {"", "..", ".m", "a/b", "a\xff", "a\nb"}) {
    EXPECT_THAT(error([&](ModelConfig& c) { c.name = name; }),
                HasSubstr("built-in: name: expected 1 to 128"));
  }
  for (const char* tag : {"", "my-tag", "1st", "x=\"1\"} 1\nforged{a"}) {
    EXPECT_THAT(error([&](ModelConfig& c) { c.metric_tags[tag] = "b"; }),
                HasSubstr(prefix("metric_tags: expected keys")));
  }
  EXPECT_EQ(error([](ModelConfig& c) { c.metric_tags["my_tag1"] = "b-\n"; }), "");
  EXPECT_THAT(std::string(Load({FloatConfig(), FloatConfig()}).message()),
              HasSubstr("each name once"));
}

TEST_F(ServiceTest, ConfigurationIsNormalisedAsTritonPrintsIt) {
  ModelConfig config = FloatConfig();
  config.dynamic_batching = DynamicBatching{};
  ASSERT_TRUE(Load({config}).ok());
  const auto seen = *service_->GetModelConfig("m", "");
  EXPECT_THAT(seen->dynamic_batching->preferred_batch_sizes, ElementsAre(8));
  ASSERT_EQ(seen->instance_groups.size(), 1u);
  EXPECT_EQ(seen->instance_groups[0].name, "m");
  EXPECT_EQ(seen->instance_groups[0].kind, InstanceGroup::Kind::kCpu);
  EXPECT_EQ(seen->instance_groups[0].count, 1);
  config.instance_groups = {{.count = 2}, {.name = "own"}, {}};
  ASSERT_TRUE(Load({config}).ok());
  std::vector<std::string> names;
  for (const InstanceGroup& group : (*service_->GetModelConfig("m", ""))->instance_groups) {
    names.push_back(group.name);
  }
  EXPECT_THAT(names, ElementsAre("m_0", "own", "m_2"));
}

TEST_F(ServiceTest, WarmUpRunsBeforeReadyAndLeavesNoStatistics) {
  ModelConfig config = FloatConfig();
  config.warmups = {{.name = "w",
                     .batch_size = 4,
                     .inputs = {{"X", {.dims = {2}, .source = WarmupInput::Source::kRandom}}},
                     .count = 3}};
  ASSERT_TRUE(Load({config}).ok());
  EXPECT_THAT(factory_.step->batches(), ElementsAre(4, 4, 4));
  EXPECT_EQ(Stats("m").execution_count, 0u);
  factory_.step->fail = absl::InternalError("cold");
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("model_warmup: 'w' failed: cold"));
  config.warmups[0].count = 1000;
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("failed: cold"));
  config.warmups.push_back({.name = "w2", .count = 0});
  EXPECT_THAT(std::string(Load({config}).message()),
              HasSubstr("model_warmup.count: expected at most 1000 in all, got 1001"));
  config.warmups[1].count = std::numeric_limits<std::uint32_t>::max();
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("model_warmup.count"));
  config.warmups.pop_back();
  config.warmups[0].batch_size = 9;
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("model_warmup.batch_size"));
  config.warmups[0].batch_size = 4;
  config.warmups[0].inputs["X"].dims = {3};
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("'X': expected [2], got [3]"));
}

TEST_F(ServiceTest, WarmUpReadsRegularFilesOfTheModelsFolder) {
  ModelConfig config = FloatConfig();
  config.directory = ::testing::TempDir() + "warmup_test";
  const std::string folder = config.directory + "/warmup/";
  std::filesystem::remove_all(config.directory);
  std::filesystem::create_directories(folder + "folder");
  ASSERT_EQ(::mkfifo((folder + "fifo").c_str(), 0600), 0);
  std::ofstream(folder + "long") << std::string(12, '\0');
  std::ofstream(folder + "short") << std::string(7, '\0');
  std::ofstream(folder + "sparse");
  std::filesystem::resize_file(folder + "sparse", std::uintmax_t{1} << 40);
  const auto error = [&](const char* file) {
    config.warmups = {
        {.name = "w",
         .inputs = {{"X", {.dims = {2}, .source = WarmupInput::Source::kFile, .file = file}}}}};
    return std::string(Load({config}).message());
  };
  EXPECT_EQ(error("long"), "");
  EXPECT_THAT(error("short"), HasSubstr("expected 8 bytes, got 7"));
  EXPECT_THAT(error("none"), HasSubstr("model_warmup.input_data_file: cannot open"));
  EXPECT_THAT(error("fifo"), HasSubstr("not a regular file"));
  EXPECT_THAT(error("folder"), HasSubstr("not a regular file"));
  EXPECT_THAT(error("sparse"), HasSubstr("the limit is"));
  config.directory.clear();
  EXPECT_THAT(error("long"), HasSubstr("expected a model with a folder"));
}

TEST_F(ServiceTest, TheVersionOfThePolicyIsServed) {
  ModelConfig config = FloatConfig();
  config.versions = {5, 1, 2};
  ASSERT_TRUE(Load({config}).ok());
  EXPECT_EQ(Stats("m").version, "5");
  config.version_policy_specific = {{7, 2}};
  ASSERT_TRUE(Load({config}).ok());
  EXPECT_EQ(Stats("m").version, "2");
  for (const std::vector<std::int64_t>& none : {std::vector<std::int64_t>{7}, {}}) {
    config.version_policy_specific = none;
    EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("at least one version must be"));
  }
  config.version_policy_specific.reset();
  config.version_policy_latest = 0;
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("at least one version must be"));
}

// Clients would ask for versions that are not there.
TEST_F(ServiceTest, APolicyOfSeveralVersionsIsRefused) {
  ModelConfig config = FloatConfig();
  config.versions = {1, 2, 5};
  config.version_policy_specific = {{7, 2, 1}};
  EXPECT_THAT(std::string(Load({config}).message()),
              HasSubstr("version_policy: expected one version to serve, got 1, 2"));
  config.version_policy_specific.reset();
  config.version_policy_latest = 2;
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("to serve, got 2, 5"));
  config.version_policy_latest.reset();
  EXPECT_THAT(std::string(Load({config}).message()), HasSubstr("to serve, got 1, 2, 5"));
  config.versions = {5};
  EXPECT_TRUE(Load({config}).ok());
}

TEST_F(ServiceTest, AModelThatFailsToLoadEndsAllOrItselfAlone) {
  EXPECT_EQ(Load({FloatConfig(), FloatConfig("broken")}), absl::InvalidArgumentError("no weights"));
  ServiceOptions options;
  options.exit_on_error = false;
  ASSERT_TRUE(Load({FloatConfig(), FloatConfig("broken")}, options).ok());
  EXPECT_FALSE(service_->Ready());
  EXPECT_EQ(Infer(FloatRequest({1, 2}, nullptr, "broken")).status,
            absl::NotFoundError("Request for unknown model: 'broken' has no available versions"));
  auto versioned = FloatRequest({1, 2}, nullptr, "broken");
  versioned->model_version = "1";
  EXPECT_EQ(Infer(std::move(versioned)).status,
            absl::UnavailableError(
                "Request for unknown model: 'broken' version 1 is not at ready state"));
  EXPECT_EQ(service_->GetStatistics("broken", "1").status(),
            absl::InvalidArgumentError("requested model 'broken' is not available"));
  EXPECT_EQ(service_->RepositoryIndex(false).at(0).state, "UNAVAILABLE");
  EXPECT_EQ(service_->RepositoryIndex(false).at(0).reason, "no weights");
  EXPECT_EQ(service_->RepositoryIndex(true).size(), 1u);
  EXPECT_TRUE(Infer(FloatRequest({1, 2})).status.ok());
}

TEST_F(ServiceTest, TooManyInFlightAreRefusedAtTheDoor) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  factory_.step->during_run = [released] { released.wait(); };
  ServiceOptions options;
  options.max_inflight_requests = 2;
  ASSERT_TRUE(Load({FloatConfig()}, options).ok());
  std::vector<Answered> answers;
  for (int i = 0; i < 3; ++i) {
    auto request = FloatRequest({1, 2});
    answers.emplace_back(*request);
    service_->Infer(std::move(request));
  }
  const InferResponse refused = answers[2].Wait();
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(IsOverloaded(refused.status));
  EXPECT_EQ(refused.model_name, "m");
  release.set_value();
  EXPECT_TRUE(answers[0].Wait().status.ok());
  EXPECT_TRUE(answers[1].Wait().status.ok());
}

TEST_F(ServiceTest, InputBytesAreBoundedAtTheDoor) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  factory_.step->during_run = [released] { released.wait(); };
  ServiceOptions options;
  options.max_input_bytes = 8;
  ASSERT_TRUE(Load({FloatConfig()}, options).ok());
  auto first = FloatRequest({1, 2, 3, 4});  // more than all, alone
  Answered first_answer(*first);
  service_->Infer(std::move(first));
  EXPECT_EQ(Infer(FloatRequest({1, 2})).status.code(), absl::StatusCode::kUnavailable);
  release.set_value();
  EXPECT_TRUE(first_answer.Wait().status.ok());
}

TEST(HeldBytes, CountsWhatStaysAlive) {
  auto request = FloatRequest({1, 2, 3, 4});
  EXPECT_EQ(HeldBytes(*request), 16u);
  request->body_bytes = 1000;  // the input lies beside it
  EXPECT_EQ(HeldBytes(*request), 1016u);
  request->inputs[0].storage = nullptr;  // and now in it
  EXPECT_EQ(HeldBytes(*request), 1000u);
  request->parameters["x"] = std::string(99, 'p');
  EXPECT_EQ(HeldBytes(*request), 1912u) << "each step of an ensemble has a copy";
  request->id = std::string(10, 'i');
  EXPECT_EQ(HeldBytes(*request), 1952u);
}

TEST_F(ServiceTest, DrainFinishesTheAcceptedAndRefusesTheNew) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  factory_.step->during_run = [released] { released.wait(); };
  ASSERT_TRUE(Load({FloatConfig()}).ok());
  auto request = FloatRequest({1, 2});
  Answered accepted(*request);
  service_->Infer(std::move(request));
  EXPECT_TRUE(service_->Ready());
  service_->BeginDrain();
  EXPECT_FALSE(service_->Ready());
  EXPECT_TRUE(service_->Live());
  EXPECT_EQ(Infer(FloatRequest({1, 2})).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(service_->WaitUntilIdle(std::chrono::nanoseconds(0)));
  release.set_value();
  EXPECT_TRUE(accepted.Wait().status.ok());
  EXPECT_TRUE(service_->WaitUntilIdle(std::chrono::seconds(60)));
}

// Of a request whose inputs are still on their way.
TEST_F(ServiceTest, APlaceIsOneInFlightAndIsKeptThroughTheDrain) {
  ASSERT_TRUE(Load({FloatConfig()}, {.max_inflight_requests = 1}).ok());
  absl::StatusOr<std::shared_ptr<const void>> place = service_->TakePlace();
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_EQ(service_->InflightRequests(), 1);
  EXPECT_TRUE(IsOverloaded(Infer(FloatRequest({1, 2})).status));
  EXPECT_TRUE(IsOverloaded(service_->TakePlace().status()));
  service_->BeginDrain();
  EXPECT_FALSE(service_->WaitUntilIdle(std::chrono::milliseconds(1)));
  EXPECT_TRUE(absl::IsUnavailable(service_->TakePlace().status()));
  std::unique_ptr<InferRequest> request = FloatRequest({1, 2});
  request->place = *std::move(place);
  place = std::shared_ptr<const void>();
  const InferResponse answer = Infer(std::move(request));
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_TRUE(service_->WaitUntilIdle(std::chrono::seconds(20)));
  EXPECT_EQ(service_->InflightRequests(), 0);
  EXPECT_TRUE(absl::IsUnavailable(Infer(FloatRequest({1, 2})).status));
}

TEST_F(ServiceTest, NotReadyWhileAStepCannotRun) {
  ASSERT_TRUE(Load({FloatConfig()}).ok());
  EXPECT_TRUE(service_->Ready());
  factory_.step->readiness = absl::UnavailableError("nobody to do it");
  EXPECT_FALSE(service_->Ready());
  EXPECT_FALSE(service_->ModelReady("m", "").ok());
  factory_.step->readiness = absl::OkStatus();
  EXPECT_TRUE(service_->Ready());
  EXPECT_TRUE(service_->ModelReady("m", "").ok());
}

TEST_F(ServiceTest, ALostDeviceFailsItsRequestsTurnsReadinessOffAndIsToldOnce) {
  std::atomic<int> told = 0;
  ServiceOptions options;
  options.on_lost = [&](const absl::Status&) { ++told; };
  ASSERT_TRUE(Load({FloatConfig()}, options).ok());
  factory_.step->fail = absl::InternalError("out of luck");
  EXPECT_EQ(Infer(FloatRequest({1, 2})).status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(service_->Ready());
  factory_.step->health = absl::InternalError("device lost");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Infer(FloatRequest({1, 2})).status.code(), absl::StatusCode::kInternal);
    EXPECT_FALSE(service_->Ready());
    EXPECT_FALSE(service_->ModelReady("m", "").ok());
    EXPECT_EQ(told, 1);
  }
}

TEST_F(ServiceTest, ClassificationIsBounded) {
  constexpr std::int64_t kWidth = (1 << 20) + 1;
  ModelConfig config = FloatConfig();
  config.inputs[0].dims = config.outputs[0].dims = {kWidth};
  ASSERT_TRUE(Load({config}).ok());
  const auto classify = [this](std::int64_t count) {
    auto request = FloatRequest(std::vector<float>(kWidth, 1), nullptr, "m", kWidth);
    request->outputs = {{.name = "Y", .classification = count}};
    return Infer(std::move(request));
  };
  EXPECT_EQ(classify(kWidth).status.code(), absl::StatusCode::kInvalidArgument);
  const InferResponse some = classify(3);
  ASSERT_TRUE(some.status.ok()) << some.status;
  EXPECT_THAT(some.outputs[0].shape, ElementsAre(1, 3));
}

TEST_F(ServiceTest, ClassificationGivesTheLargestFirst) {
  ASSERT_TRUE(Load({FloatConfig()}).ok());
  auto request = FloatRequest({1, 2, 4, 3});
  request->outputs = {{.name = "Y", .classification = 1}};
  const InferResponse response = Infer(std::move(request));
  ASSERT_TRUE(response.status.ok()) << response.status;
  const OutputTensor& output = response.outputs[0];
  EXPECT_EQ(output.datatype, DataType::kBytes);
  EXPECT_THAT(output.shape, ElementsAre(2, 1));
  const std::string wire(reinterpret_cast<const char*>(output.data.data()), output.data.size());
  EXPECT_EQ(wire, std::string("\x0a\0\0\0"
                              "3.000000:1"
                              "\x0a\0\0\0"
                              "5.000000:0",
                              28));
}

// Everything at once: answers come to all, with the right numbers, while the service is drained and
// destroyed.
TEST_F(ServiceTest, EveryRequestIsAnsweredOnceWhateverHappens) {
  ModelConfig batching = FloatConfig("m");
  batching.dynamic_batching = DynamicBatching{.max_queue_delay_us = 300};
  batching.instance_groups = {{.count = 2}};
  ASSERT_TRUE(Load({Ensemble(), batching, FloatConfig("m2"), FloatConfig("forward")}).ok());
  std::atomic<int> answered{0};
  std::atomic<int> wrong{0};
  constexpr int kSenders = 3;
  constexpr int kEach = 200;
  std::vector<std::thread> senders;
  for (int s = 0; s < kSenders; ++s) {
    senders.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        const char* model = i % 3 == 0 ? "e" : i % 3 == 1 ? "forward" : "m";
        const float plus = i % 3 == 0 ? 2 : 1;
        const auto value = static_cast<float>(i + 20);
        auto request = FloatRequest({value, 0}, nullptr, model);
        request->done = [&, value, plus](InferResponse response) {
          if (response.status.ok() && Floats(response.outputs[0])[0] != value + plus) ++wrong;
          ++answered;
        };
        service_->Infer(std::move(request));
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  service_.reset();
  EXPECT_EQ(answered, kSenders * kEach);
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace siglip
