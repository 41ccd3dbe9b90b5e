#include "serving/model_control.h"

#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/fakes_for_test.h"
#include "serving/service_impl.h"

namespace siglip {
namespace {

using testing::AddOneStep;
using testing::Answered;
using ::testing::ElementsAre;
using testing::FloatConfig;
using testing::FloatRequest;
using testing::Floats;
using ::testing::HasSubstr;

// Steps live until the model is destroyed; "broken" fails; the parameter `hold` waits for release.
class StepFactory final : public DeploymentFactory {
 public:
  absl::StatusOr<Deployment> Make(ModelConfig& config) override {
    if (during_make) during_make();
    if (config.parameters.contains("broken")) return absl::DataLossError("no weights");
    Deployment deployment;
    auto step = std::make_shared<AddOneStep>();
    if (config.parameters.contains("hold")) {
      step->during_run = [this] {
        entered.set_value();
        released.wait();
      };
    }
    ++made;
    deployment.step = std::move(step);
    return deployment;
  }
  int made = 0;
  std::function<void()> during_make;
  std::promise<void> entered;
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
};

// A repository that the test changes. Borrowed state, since the service owns the repository.
struct Files {
  std::map<std::string, std::pair<ModelConfig, std::uint64_t>> models;
  bool readable = true;
  void Put(ModelConfig config) {
    auto& [old, stamp] = models[config.name];
    ++stamp;
    old = std::move(config);
  }
};

class FakeRepository : public ModelRepository {
 public:
  explicit FakeRepository(Files& files) : files_(files) {}
  absl::StatusOr<std::vector<std::string>> Names() const override {
    if (!files_.readable) return absl::DataLossError("no answer");
    std::vector<std::string> names;
    for (const auto& [name, entry] : files_.models) names.push_back(name);
    return names;
  }
  absl::StatusOr<ModelConfig> Read(const std::string& name) const override {
    const auto found = files_.models.find(name);
    if (found == files_.models.end()) return absl::NotFoundError("not there");
    return found->second.first;
  }
  std::uint64_t Stamp(const std::string& name) const override {
    return files_.models.at(name).second;
  }

 private:
  const Files& files_;
};

ModelConfig TwoSteps() {
  ModelConfig config = FloatConfig("e");
  config.backend.clear();
  config.platform = "ensemble";
  config.ensemble_steps = {
      {.model_name = "m", .input_map = {{"X", "X"}}, .output_map = {{"Y", "mid"}}},
      {.model_name = "m2", .input_map = {{"X", "mid"}}, .output_map = {{"Y", "Y"}}}};
  return config;
}

class ModelControlTest : public ::testing::Test {
 protected:
  ModelControlTest() {
    for (const char* name : {"m", "m2"}) files_.Put(FloatConfig(name));
    files_.Put(TwoSteps());
  }
  absl::Status Open(ServiceOptions options) {
    auto service =
        ServiceImpl::Open(std::make_unique<FakeRepository>(files_), factory_, clock_, options);
    if (service.ok()) service_ = *std::move(service);
    return service.status();
  }
  absl::Status OpenExplicit(std::vector<std::string> names = {}) {
    return Open({.exit_on_error = false,
                 .control_mode = ModelControlMode::kExplicit,
                 .load_models = std::move(names)});
  }
  absl::Status LoadModel(const std::string& name, std::optional<ModelConfig> config = {}) {
    std::promise<absl::Status> done;
    service_->LoadModel({name, std::move(config)},
                        [&done](absl::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }
  absl::Status UnloadModel(const std::string& name, bool dependents = false) {
    std::promise<absl::Status> done;
    service_->UnloadModel(name, dependents,
                          [&done](absl::Status status) { done.set_value(std::move(status)); });
    return done.get_future().get();
  }
  InferResponse Infer(const std::string& model) {
    auto request = FloatRequest({1, 2}, nullptr, model);
    Answered answered(*request);
    service_->Infer(std::move(request));
    return answered.Wait();
  }
  // "name=STATE" of each row, with the reason after a slash. A model that nobody uses is ended by a
  // thread of its own, so UNLOADING is waited for.
  std::vector<std::string> Index() {
    std::vector<std::string> rows;
    for (const IndexRow& row : service_->RepositoryIndex(false)) {
      IndexRow now = row;
      while (now.state == "UNLOADING") {
        std::this_thread::yield();
        for (const IndexRow& r : service_->RepositoryIndex(false)) {
          if (r.name == row.name) now = r;
        }
      }
      rows.push_back(now.name + "=" + now.state + (now.reason.empty() ? "" : "/" + now.reason));
    }
    return rows;
  }

  SystemClock clock_;
  StepFactory factory_;
  Files files_;
  std::unique_ptr<ServiceImpl> service_;
};

TEST_F(ModelControlTest, OtherModesRefuse) {
  ASSERT_TRUE(Open({}).ok());
  EXPECT_EQ(LoadModel("m"), ControlRefused());
  EXPECT_EQ(UnloadModel("m"), ControlRefused());
  EXPECT_EQ(ControlRefused().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ModelControlTest, ExplicitStartsWithWhatIsNamed) {
  ASSERT_TRUE(OpenExplicit().ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=", "m2="));
  EXPECT_TRUE(service_->Ready());
  EXPECT_EQ(Infer("m").status.code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(OpenExplicit({"m2"}).ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=", "m2=READY"));
  ASSERT_TRUE(OpenExplicit({"*"}).ok());
  EXPECT_THAT(Index(), ElementsAre("e=READY", "m=READY", "m2=READY"));
}

TEST_F(ModelControlTest, AnEnsembleBringsItsStepsAndTakesThemAlongIfTold) {
  ASSERT_TRUE(OpenExplicit().ok());
  ASSERT_TRUE(LoadModel("e").ok());
  EXPECT_THAT(Floats(Infer("e").outputs[0]), ElementsAre(3, 4));
  ASSERT_TRUE(UnloadModel("e").ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "m=READY", "m2=READY"));
  ASSERT_TRUE(LoadModel("e").ok());
  ASSERT_TRUE(UnloadModel("e", true).ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "m=UNAVAILABLE/unloaded",
                                   "m2=UNAVAILABLE/unloaded"));
  EXPECT_TRUE(service_->Ready()) << "unloaded on purpose";
  EXPECT_EQ(Infer("e").status,
            absl::NotFoundError("Request for unknown model: 'e' has no available versions"));
}

TEST_F(ModelControlTest, AStepThatIsWantedElsewhereStays) {
  ModelConfig other = TwoSteps();
  other.name = "e2";
  files_.Put(other);
  ASSERT_TRUE(OpenExplicit({"m2"}).ok());
  ASSERT_TRUE(LoadModel("e").ok());
  ASSERT_TRUE(LoadModel("e2").ok());
  ASSERT_TRUE(UnloadModel("e", true).ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "e2=READY", "m=READY", "m2=READY"));
  ASSERT_TRUE(UnloadModel("e2", true).ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "e2=UNAVAILABLE/unloaded",
                                   "m=UNAVAILABLE/unloaded", "m2=READY"))
      << "m2 was loaded by its name";
  ASSERT_TRUE(UnloadModel("m2").ok());
  ASSERT_TRUE(LoadModel("m").ok());
  ASSERT_TRUE(LoadModel("e").ok());
  ASSERT_TRUE(UnloadModel("e", true).ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "e2=UNAVAILABLE/unloaded", "m=READY",
                                   "m2=UNAVAILABLE/unloaded"));
}

TEST_F(ModelControlTest, AnEnsembleThatLostItsStepsComesBackWithThem) {
  ModelConfig outer = FloatConfig("outer");
  outer.backend.clear();
  outer.platform = "ensemble";
  outer.ensemble_steps = {
      {.model_name = "e", .input_map = {{"X", "X"}}, .output_map = {{"Y", "Y"}}}};
  files_.Put(outer);
  ASSERT_TRUE(OpenExplicit({"outer"}).ok());
  ASSERT_TRUE(UnloadModel("m").ok());
  ASSERT_TRUE(UnloadModel("m2").ok());
  EXPECT_EQ(Infer("outer").status.code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(LoadModel("m2").ok());
  EXPECT_EQ(Infer("e").status.code(), absl::StatusCode::kNotFound) << "m is not there";
  ASSERT_TRUE(LoadModel("m").ok());
  EXPECT_THAT(Floats(Infer("outer").outputs.at(0)), ElementsAre(3, 4));
  EXPECT_THAT(Index(), ElementsAre("e=READY", "m=READY", "m2=READY", "outer=READY"));
  ASSERT_TRUE(UnloadModel("m").ok());
  ASSERT_TRUE(UnloadModel("e", true).ok()) << "with the step that is still there, but was loaded";
  ASSERT_TRUE(LoadModel("m").ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "m=READY", "m2=READY",
                                   ::testing::StartsWith("outer=UNAVAILABLE/ensemble 'outer'")))
      << "unloaded by its own name";
}

TEST_F(ModelControlTest, AStepOfAnEnsembleThatLostAnotherGoesWithIt) {
  ModelConfig other = TwoSteps();
  other.name = "e2";
  files_.Put(other);
  ASSERT_TRUE(OpenExplicit({"e", "e2"}).ok());
  ASSERT_TRUE(UnloadModel("m").ok());
  ASSERT_TRUE(UnloadModel("e", true).ok());
  EXPECT_THAT(Index(), ::testing::Contains("m2=READY")) << "e2 waits with it";
  ASSERT_TRUE(UnloadModel("e2", true).ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "e2=UNAVAILABLE/unloaded",
                                   "m=UNAVAILABLE/unloaded", "m2=UNAVAILABLE/unloaded"));
}

TEST_F(ModelControlTest, WithoutAStepTheEnsembleGoesToo) {
  ASSERT_TRUE(OpenExplicit({"*"}).ok());
  ASSERT_TRUE(UnloadModel("m").ok());
  EXPECT_THAT(Index(),
              ElementsAre("e=UNAVAILABLE/ensemble 'e' depends on 'm' which has no loaded version",
                          "m=UNAVAILABLE/unloaded", "m2=READY"));
}

TEST_F(ModelControlTest, FailuresSayWhyAndTheOldModelServesOn) {
  ASSERT_TRUE(OpenExplicit({"m"}).ok());
  ModelConfig broken = FloatConfig("m");
  broken.parameters["broken"] = "";
  const absl::Status status = LoadModel("m", broken);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << "as Triton";
  EXPECT_EQ(status.message(), "load failed for model 'm': no weights");
  EXPECT_TRUE(Infer("m").status.ok());
  ModelConfig wrong = FloatConfig("m");
  wrong.max_batch_size = -1;
  EXPECT_EQ(LoadModel("m", wrong).code(), absl::StatusCode::kInternal) << "as Triton";
  EXPECT_EQ(LoadModel("x").message(), "failed to load 'x', failed to poll from model repository");
  EXPECT_THAT(std::string(UnloadModel("x").message()), HasSubstr("'x'"));
  EXPECT_TRUE(UnloadModel("m2").ok()) << "known, not loaded";
  broken.name = "m2";
  EXPECT_FALSE(LoadModel("m2", broken).ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=READY", "m2=UNAVAILABLE/no weights"));
  EXPECT_FALSE(service_->Ready());
}

TEST_F(ModelControlTest, UnloadingWhatFailedToLoadEndsTheWaitForIt) {
  ASSERT_TRUE(OpenExplicit({"m"}).ok());
  ModelConfig broken = FloatConfig("m2");
  broken.parameters["broken"] = "";
  EXPECT_FALSE(LoadModel("m2", broken).ok());
  EXPECT_FALSE(service_->Ready());
  EXPECT_TRUE(UnloadModel("m2").ok());
  EXPECT_TRUE(service_->Ready());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=READY", "m2=UNAVAILABLE/unloaded"));
}

TEST_F(ModelControlTest, OfNamesThatTheRepositoryLacksNothingIsLeft) {
  ASSERT_TRUE(OpenExplicit().ok());
  ModelConfig other = FloatConfig("other");
  other.parameters["broken"] = "";
  EXPECT_EQ(LoadModel("other", other).message(), "load failed for model 'other': no weights");
  EXPECT_TRUE(service_->Ready());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=", "m2="));
  ASSERT_TRUE(LoadModel("other", FloatConfig("other")).ok());
  EXPECT_FALSE(LoadModel("other", other).ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=", "m2=", "other=READY")) << "the older one serves on";
  ASSERT_TRUE(UnloadModel("other").ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=", "m2="));
  EXPECT_FALSE(UnloadModel("other").ok());
  ModelConfig ensemble = TwoSteps();
  ensemble.name = "over";
  ASSERT_TRUE(LoadModel("over", ensemble).ok());
  ASSERT_TRUE(UnloadModel("m").ok());
  EXPECT_THAT(Index(), ElementsAre("e=", "m=UNAVAILABLE/unloaded", "m2=READY"));
}

// Names are the client's, and each has threads.
TEST_F(ModelControlTest, ThreadsOfAllModelsAreBounded) {
  // One for the instance, one that refuses, one that judges.
  constexpr int kOfOne = 3;
  ASSERT_TRUE(Open({.exit_on_error = false,
                    .max_model_threads = 4 * kOfOne + 1,
                    .control_mode = ModelControlMode::kExplicit})
                  .ok());
  const auto load = [this](const std::string& name, int instances = 1) {
    ModelConfig config = FloatConfig(name);
    config.instance_groups = {{.count = instances}};
    return LoadModel(name, std::move(config));
  };
  EXPECT_FALSE(load("a", 12).ok()) << "more than all, though it is alone";
  for (const char* name : {"a", "b", "c", "m"}) ASSERT_TRUE(load(name).ok()) << name;
  const std::string error(load("d").message());
  EXPECT_THAT(error,
              HasSubstr("load failed for model 'd': load request: model 'd': instance_group: "
                        "expected at most 13 threads of all models together "
                        "(--max-model-threads), 12 are there and this one needs 3"));
  EXPECT_FALSE(load("a").ok()) << "the older one counts as long as it is there";
  EXPECT_TRUE(Infer("a").status.ok());
  ModelConfig ensemble = TwoSteps();
  ensemble.ensemble_steps.pop_back();
  ensemble.ensemble_steps[0].output_map = {{"Y", "Y"}};
  ensemble.ensemble_max_inflight_requests = 1;
  EXPECT_TRUE(LoadModel("e", ensemble).ok()) << "its queue's is the last one";
  EXPECT_THAT(std::string(LoadModel("e2", ensemble).message()), HasSubstr("needs 1"));
  for (const char* name : {"a", "b"}) ASSERT_TRUE(UnloadModel(name).ok());
  EXPECT_FALSE(load("d", 5).ok());
  while (!load("d", 4).ok()) std::this_thread::yield();  // until both are gone
}

// Doors and ensembles have no threads, but names and configurations.
TEST_F(ModelControlTest, NamesOfAllModelsAreBounded) {
  ASSERT_TRUE(
      Open({.exit_on_error = false, .max_models = 2, .control_mode = ModelControlMode::kExplicit})
          .ok());
  const auto load = [this](const std::string& name) { return LoadModel(name, FloatConfig(name)); };
  ModelConfig ensemble = TwoSteps();
  ensemble.ensemble_steps.pop_back();
  ensemble.ensemble_steps[0].output_map = {{"Y", "Y"}};
  ASSERT_TRUE(load("m").ok());
  ASSERT_TRUE(LoadModel("e", ensemble).ok());
  EXPECT_THAT(
      std::string(load("a").message()),
      HasSubstr("load failed for model 'a': load request: model 'a': name: expected at most 2 "
                "models (--max-models), as many are there"));
  EXPECT_TRUE(load("m").ok()) << "a name that is there";
  ASSERT_TRUE(UnloadModel("m").ok());
  while (!load("a").ok()) std::this_thread::yield();  // until it is gone
  EXPECT_FALSE(load("m").ok()) << "the ensemble waits for its step";
  ASSERT_TRUE(UnloadModel("e").ok());
  while (!load("m").ok()) std::this_thread::yield();
}

TEST_F(ModelControlTest, AConfigurationOfTheRequestReplacesTheFile) {
  ASSERT_TRUE(OpenExplicit({"*"}).ok());
  ModelConfig small = FloatConfig("m");
  small.max_batch_size = 3;
  ASSERT_TRUE(LoadModel("m", small).ok());
  EXPECT_EQ((*service_->GetModelConfig("m", ""))->max_batch_size, 3);
  EXPECT_THAT(Index()[0], HasSubstr("e=UNAVAILABLE/")) << "it allows more than its step";
  EXPECT_THAT(Index()[0], HasSubstr("max_batch_size"));
  EXPECT_FALSE(service_->Ready());
  ASSERT_TRUE(LoadModel("m").ok());
  EXPECT_EQ((*service_->GetModelConfig("m", ""))->max_batch_size, 8);
  ASSERT_TRUE(LoadModel("e").ok());
  EXPECT_TRUE(service_->Ready());
}

// Whether a path is there is nothing that a client may learn by asking for it.
TEST_F(ModelControlTest, ARequestsCheckpointIsOneOfTheRepository) {
  files_.models.at("m").first.directory = "/models/m";
  files_.models.at("m").first.parameters["checkpoint"] = "../../checkpoints/a/";
  files_.models.at("m2").first.directory = "/models/m2";
  ASSERT_TRUE(OpenExplicit().ok());
  const auto load = [this](const char* name, const char* checkpoint) {
    ModelConfig config = FloatConfig(name);
    config.parameters["checkpoint"] = checkpoint;
    return LoadModel(name, config);
  };
  for (const char* own : {"../../checkpoints/a", "/checkpoints/./a", "weights", "./1/../weights"}) {
    EXPECT_TRUE(load("m", own).ok()) << own;
  }
  EXPECT_TRUE(load("m2", "/checkpoints/a").ok()) << "as m has it";
  EXPECT_TRUE(load("new", "/checkpoints/a").ok());
  for (const char* other : {"/", "/checkpoints", "/checkpoints/a/b", "/etc/passwd", "..", "../m2",
                            "weights/../../m2", "/models/m-other", "/no/such/path"}) {
    EXPECT_THAT(std::string(load("m", other).message()),
                HasSubstr("load request: model 'm': parameters.checkpoint: expected one in the "
                          "model's folder, or of a model of the repository"))
        << other;
  }
  EXPECT_FALSE(load("new", "weights").ok()) << "it has no folder";
  EXPECT_FALSE(load("new", "/weights").ok());
}

ModelConfig Around(const std::string& name, const std::string& step) {
  ModelConfig config = TwoSteps();
  config.name = name;
  config.ensemble_steps = {
      {.model_name = step, .input_map = {{"X", "X"}}, .output_map = {{"Y", "Y"}}}};
  return config;
}

// The steps are loaded, so that nothing is loaded with the ensemble that closes the circle.
TEST_F(ModelControlTest, AReloadThatClosesACycleIsRefused) {
  ASSERT_TRUE(OpenExplicit({"e"}).ok());
  ASSERT_TRUE(LoadModel("over", Around("over", "e")).ok());
  for (const char* name : {"e", "m"}) {
    const absl::Status status = LoadModel(name, Around(name, "over"));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected no cycle of ensembles"));
    EXPECT_TRUE(Infer("over").status.ok());
  }
  EXPECT_FALSE(LoadModel("self", Around("self", "self")).ok());
}

TEST_F(ModelControlTest, EnsemblesWithinEachOtherAreBounded) {
  ASSERT_TRUE(OpenExplicit({"m"}).ok());
  std::string below = "m";
  absl::Status status;
  int depth = 0;
  for (; status.ok() && depth < 100; ++depth) {
    const std::string name = "over" + std::to_string(depth);
    status = LoadModel(name, Around(name, below));
    if (status.ok()) below = name;
  }
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 16 ensembles within each other"));
  EXPECT_EQ(depth, 17);
  EXPECT_TRUE(Infer(below).status.ok());
}

TEST_F(ModelControlTest, UnloadAndReloadLoseNoRequest) {
  files_.models.at("m").first.parameters["hold"] = "";
  ASSERT_TRUE(OpenExplicit({"e"}).ok());
  auto request = FloatRequest({1, 2}, nullptr, "e");
  Answered answered(*request);
  service_->Infer(std::move(request));
  factory_.entered.get_future().wait();
  auto queued = FloatRequest({3, 4}, nullptr, "m2");
  Answered queued_answer(*queued);
  service_->Infer(std::move(queued));
  ASSERT_TRUE(UnloadModel("e", true).ok());
  std::string state;
  for (const IndexRow& row : service_->RepositoryIndex(false)) state += row.state + " ";
  EXPECT_THAT(state, HasSubstr("UNLOADING UNLOADING"));
  EXPECT_EQ(Infer("m2").status.code(), absl::StatusCode::kNotFound);
  files_.models.at("m").first.parameters.clear();
  ASSERT_TRUE(LoadModel("m").ok());
  EXPECT_TRUE(Infer("m").status.ok()) << "the new one works while the old one still does";
  factory_.release.set_value();
  EXPECT_THAT(Floats(answered.Wait().outputs[0]), ElementsAre(3, 4)) << "through the old m and m2";
  EXPECT_TRUE(queued_answer.Wait().status.ok());
  EXPECT_THAT(Index(), ElementsAre("e=UNAVAILABLE/unloaded", "m=READY", "m2=UNAVAILABLE/unloaded"));
}

// The control alone, polled by hand.
class PollTest : public ModelControlTest {
 protected:
  ~PollTest() override { registry_.StopAll(); }

  std::string Names() const {
    std::string text;
    for (const auto& [name, model] : registry_.table()->ready()) text += name + " ";
    return text;
  }

  ModelRegistry registry_;
  FakeRepository repository_{files_};
  WorkLanes lanes_{clock_, 1};
  ModelControl control_{
      {.registry = &registry_,
       .repository = &repository_,
       .factory = &factory_,
       .clock = &clock_,
       .output_budget = std::make_shared<Budget>(1 << 20),
       .lanes = &lanes_,
       .cache = nullptr,
       .options = {.exit_on_error = false, .control_mode = ModelControlMode::kPoll}}};
};

TEST_F(PollTest, FollowsTheFiles) {
  ASSERT_TRUE(control_.LoadInitial().ok());
  EXPECT_EQ(Names(), "e m m2 ");
  EXPECT_EQ(factory_.made, 2);
  control_.Poll();
  EXPECT_EQ(factory_.made, 2) << "nothing changed";
  files_.Put(FloatConfig("m"));
  files_.Put(FloatConfig("n"));
  control_.Poll();
  EXPECT_EQ(Names(), "e m m2 n ");
  EXPECT_EQ(factory_.made, 4);
  ModelConfig broken = FloatConfig("n");
  broken.parameters["broken"] = "";
  files_.Put(broken);
  files_.models.erase("m2");
  control_.Poll();
  EXPECT_EQ(Names(), "m n ") << "the old n serves on; e went with its step";
  control_.Poll();
  EXPECT_EQ(Names(), "m n ");
  files_.readable = false;
  files_.Put(FloatConfig("m"));
  control_.Poll();
  EXPECT_EQ(Names(), "m n ") << "a file system that does not answer has lost nothing";
  EXPECT_EQ(factory_.made, 4);
  files_.readable = true;
  control_.Poll();
  EXPECT_EQ(factory_.made, 5);
}

TEST_F(PollTest, AnEnsembleIsBackWithItsStep) {
  ASSERT_TRUE(control_.LoadInitial().ok());
  auto step = files_.models.extract("m2");
  control_.Poll();
  EXPECT_EQ(Names(), "m ");
  EXPECT_FALSE(registry_.AllReady()) << "e is in the repository and is not served";
  files_.models.insert(std::move(step));
  control_.Poll();
  EXPECT_EQ(Names(), "e m m2 ");
  EXPECT_TRUE(registry_.AllReady());
}

TEST_F(PollTest, AnEnsembleIsBackWhenItsStepFitsAgain) {
  ASSERT_TRUE(control_.LoadInitial().ok());
  ModelConfig small = FloatConfig("m");
  small.max_batch_size = 3;
  files_.Put(small);
  control_.Poll();
  EXPECT_EQ(Names(), "m m2 ");
  EXPECT_FALSE(registry_.AllReady());
  files_.Put(FloatConfig("m"));
  control_.Poll();
  EXPECT_EQ(Names(), "e m m2 ");
  EXPECT_TRUE(registry_.AllReady());
}

TEST_F(PollTest, StepsMayComeAfterTheirEnsembles) {
  // Of ensembles of ensembles too.
  ModelConfig over = TwoSteps();
  over.name = "a";
  over.ensemble_steps[0].model_name = "e";
  files_.Put(over);
  auto first = files_.models.extract("m");
  auto second = files_.models.extract("m2");
  ASSERT_TRUE(control_.LoadInitial().ok());
  EXPECT_EQ(Names(), "");
  files_.models.insert(std::move(second));
  control_.Poll();
  EXPECT_EQ(Names(), "m2 ");
  EXPECT_FALSE(registry_.AllReady());
  files_.models.insert(std::move(first));
  control_.Poll();
  EXPECT_EQ(Names(), "a e m m2 ");
  EXPECT_TRUE(registry_.AllReady());
  EXPECT_EQ(factory_.made, 2);
}

// Whose files are others at each look.
class ChangingRepository final : public FakeRepository {
 public:
  using FakeRepository::FakeRepository;
  std::uint64_t Stamp(const std::string&) const override { return ++stamp_; }

 private:
  mutable std::uint64_t stamp_ = 0;
};

TEST_F(ModelControlTest, AServerThatEndsPollsNoFurtherModel) {
  factory_.during_make = [this] {
    if (factory_.made != 2) return;  // at the start
    factory_.entered.set_value();
    factory_.released.wait();
  };
  auto service = ServiceImpl::Open(
      std::make_unique<ChangingRepository>(files_), factory_, clock_,
      {.control_mode = ModelControlMode::kPoll, .poll_interval = std::chrono::seconds(1)});
  ASSERT_TRUE(service.ok()) << service.status();
  factory_.entered.get_future().wait();
  (*service)->BeginDrain();
  factory_.release.set_value();
  service->reset();
  EXPECT_EQ(factory_.made, 3) << "what was under way";
}

// Of `names`, of which the first makes the answer Y.
ModelConfig Over(const std::string& name, const std::vector<std::string>& names) {
  ModelConfig config = FloatConfig(name);
  config.backend.clear();
  config.platform = "ensemble";
  for (const std::string& step : names) {
    config.ensemble_steps.push_back({.model_name = step,
                                     .input_map = {{"X", "X"}},
                                     .output_map = {{"Y", step == names[0] ? "Y" : step}}});
    if (step == names[0]) continue;
    config.outputs.push_back(config.outputs[0]);
    config.outputs.back().name = step;
  }
  return config;
}

// Layers of ensembles, each of all of the layer below: as many ways up as 3 to the power of 8.
TEST_F(PollTest, ADependentIsMadeOnceHoweverManyWaysLeadToIt) {
  constexpr int kWidth = 3, kDepth = 8;
  std::vector<std::string> below = {"m"};
  for (int layer = 0; layer < kDepth; ++layer) {
    std::vector<std::string> names;
    for (int i = 0; i < kWidth; ++i) {
      names.push_back("e" + std::to_string(layer) + "_" + std::to_string(i));
      files_.Put(Over(names.back(), below));
    }
    below = names;
  }
  ASSERT_TRUE(control_.LoadInitial().ok());
  ASSERT_TRUE(registry_.AllReady());
  const auto top = registry_.table()->ready().at(below[0]);

  files_.Put(FloatConfig("m"));
  const std::uint64_t before = registry_.table()->generation();
  control_.Poll();
  // Two of "m" itself; one of each ensemble over it, "e" among them.
  EXPECT_EQ(registry_.table()->generation() - before, 2u + kWidth * kDepth + 1);
  EXPECT_NE(registry_.table()->ready().at(below[0]), top);
  EXPECT_TRUE(registry_.AllReady());

  // What they no longer fit takes them all along, each once.
  ModelConfig wide = FloatConfig("m");
  wide.inputs[0].dims = {3};
  files_.Put(wide);
  const std::uint64_t ready = registry_.table()->generation();
  control_.Poll();
  EXPECT_EQ(Names(), "m m2 ");
  // Those that have "m" as a step are tried again after it, in vain.
  EXPECT_EQ(registry_.table()->generation() - ready, 2u + kWidth * kDepth + 1 + kWidth + 1);
}

TEST_F(PollTest, StepsThatComeWithTheirEnsembleAreMadeOnce) {
  const Files all = files_;
  files_.models.clear();
  ASSERT_TRUE(control_.LoadInitial().ok());
  files_ = all;
  control_.Poll();
  EXPECT_EQ(Names(), "e m m2 ");
  EXPECT_EQ(factory_.made, 2);
}

TEST(ModelRegistryTest, AForgottenModelIsNotCountedForTheNextOfItsName) {
  ModelRegistry registry;
  std::promise<void> ended;
  const auto load = [&registry](std::promise<void>* end) {
    auto model = std::make_unique<LoadedModel>();
    model->name = "m";
    if (end != nullptr) {
      model->place = std::shared_ptr<const void>(end, [end](const void*) { end->set_value(); });
    }
    registry.Begin("m", "1");
    registry.Finish(std::move(model));
    return registry.table();  // as a request keeps it
  };
  auto old = load(&ended);
  registry.Forget("m");
  auto next = load(nullptr);
  old.reset();
  ended.get_future().wait();
  registry.Unload("m", "unloaded", true);
  // The old one is counted no longer a moment after its end.
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(registry.Index().at(0).state, "UNLOADING");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  next.reset();
  while (registry.Index().at(0).state == "UNLOADING") std::this_thread::yield();
  EXPECT_EQ(registry.Index().at(0).state, "UNAVAILABLE");
}

TEST_F(ModelControlTest, LoadsUnderLoadAnswerEveryRequest) {
  ASSERT_TRUE(OpenExplicit({"*"}).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> lost{0};
  std::atomic<int> good{0};
  std::thread sender([&] {
    while (!stop) {
      const InferResponse response = Infer("e");
      if (response.status.ok()) {
        ++good;
      } else if (!absl::IsNotFound(response.status)) {
        ++lost;
      }
    }
  });
  for (int i = 0; i < 30; ++i) {
    EXPECT_TRUE(UnloadModel("e", i % 2 == 0).ok());
    EXPECT_TRUE(LoadModel("e").ok());
    EXPECT_TRUE(LoadModel("m").ok());
    while (good < i + 1) std::this_thread::yield();
  }
  stop = true;
  sender.join();
  EXPECT_EQ(lost, 0);
}

}  // namespace
}  // namespace siglip
