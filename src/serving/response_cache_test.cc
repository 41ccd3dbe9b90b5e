#include "serving/response_cache.h"

#include <functional>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "serving/cache_scheduler.h"
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
using testing::ManualClock;

Sha256Digest Key(std::uint8_t first) {
  Sha256Digest key = {};
  key[0] = first;
  return key;
}

std::vector<OutputTensor> Output(float value, std::size_t size = 1) {
  auto values = std::make_shared<std::vector<float>>(size, value);
  OutputTensor output;
  output.name = "Y";
  output.shape = {1, static_cast<std::int64_t>(size)};
  output.data = std::as_bytes(std::span(*values));
  output.storage = values;
  return {output};
}

TEST(ResponseCache, FindsWhatWasKeptAndNothingElse) {
  ResponseCache cache(1 << 20);
  cache.Insert(Key(1), Output(7, 2), 5);
  const auto found = cache.Find(Key(1));
  ASSERT_TRUE(found);
  EXPECT_THAT(Floats(found->outputs[0]), ElementsAre(7, 7));
  EXPECT_EQ(found->outputs[0].name, "Y");
  EXPECT_EQ(found->input_tokens, 5);
  EXPECT_THAT(found->outputs[0].shape, ElementsAre(1, 2));
  EXPECT_FALSE(cache.Find(Key(2)));
}

TEST(ResponseCache, KeepsACopyThatOutlivesItsEntry) {
  ResponseCache cache(2000);
  std::vector<OutputTensor> source = Output(7);
  cache.Insert(Key(1), source, 0);
  const_cast<std::byte*>(source[0].data.data())[3] = std::byte{0};
  const auto found = cache.Find(Key(1));
  for (std::uint8_t i = 2; i < 10; ++i) cache.Insert(Key(i), Output(1), 0);
  ASSERT_FALSE(cache.Find(Key(1)));
  EXPECT_THAT(Floats(found->outputs[0]), ElementsAre(7));
}

TEST(ResponseCache, TheLeastRecentlyUsedGoesAndTheLimitHolds) {
  constexpr std::int64_t kLimit =
      4000;  // three of the entries below: 1000 bytes and what keeps them
  ResponseCache cache(kLimit);
  ASSERT_EQ(cache.num_shards(), 1u);
  for (std::uint8_t i = 1; i <= 2; ++i) cache.Insert(Key(i), Output(i, 250), 0);
  EXPECT_TRUE(cache.Find(Key(1)));
  cache.Insert(Key(3), Output(3, 250), 0);
  EXPECT_LE(cache.bytes(), kLimit);
  EXPECT_TRUE(cache.Find(Key(1))) << "used after 2";
  EXPECT_FALSE(cache.Find(Key(2)));
  EXPECT_TRUE(cache.Find(Key(3)));
  cache.Insert(Key(4), Output(4, 1000), 0);
  EXPECT_FALSE(cache.Find(Key(4))) << "larger than all";
  EXPECT_TRUE(cache.Find(Key(3)));
  cache.Insert(Key(3), Output(9, 250), 0);
  EXPECT_THAT(Floats(cache.Find(Key(3))->outputs[0])[0], 3) << "the first of two equal requests";
  const CacheStatistics statistics = cache.Statistics();
  EXPECT_EQ(statistics.entries, 2u);
  EXPECT_EQ(statistics.utilization, static_cast<double>(cache.bytes()) / kLimit);
  EXPECT_EQ(statistics.hits, 5u);
  EXPECT_EQ(statistics.misses, 2u);
  EXPECT_EQ(statistics.evictions, 1u);
  EXPECT_GT(statistics.lookup_ns, 0u);
  EXPECT_GT(statistics.insertion_ns, 0u);
}

TEST(ResponseCache, ThreadsShareIt) {
  ResponseCache cache(4 << 20);
  ASSERT_EQ(cache.num_shards(), 4u);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        Sha256Digest key = Key(static_cast<std::uint8_t>(i));
        key.back() = static_cast<std::uint8_t>(i % 7);
        const float value = static_cast<float>(i % 256 * 7 + i % 7);
        if (const auto found = cache.Find(key); found && Floats(found->outputs[0])[0] != value)
          ++wrong;
        cache.Insert(key, Output(value, 4096), 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_LE(cache.bytes(), 4 << 20);
}

// Everything that an answer depends on changes the key; what it does not depend on does not.
TEST(CacheKey, IsOfAllThatMatters) {
  const auto make = [] {
    auto request = FloatRequest({1, 2, 3, 4});
    request->model_version = "1";
    request->parameters = {{"a", true}, {"b", std::string("x")}};
    return request;
  };
  const std::vector<std::function<void(InferRequest&)>> changes = {
      [](InferRequest&) {},
      [](InferRequest& r) { r.model_name = "n"; },
      [](InferRequest& r) { r.model_version = "2"; },
      [](InferRequest& r) { r.inputs[0].name = "Z"; },
      [](InferRequest& r) { r.inputs[0].datatype = DataType::kInt32; },
      [](InferRequest& r) {
        r.inputs[0].shape = {4, 1};
      },
      [](InferRequest& r) { r.inputs[0].data = r.inputs[0].data.first(12); },
      [](InferRequest& r) {
        r.inputs[0].elements = {"ab", "c"};
      },
      [](InferRequest& r) {
        r.inputs[0].elements = {"a", "bc"};
      },
      [](InferRequest& r) { r.parameters["a"] = false; },
      [](InferRequest& r) { r.parameters["a"] = std::int64_t{1}; },
      [](InferRequest& r) { r.parameters["a"] = 1.0; },
      [](InferRequest& r) { r.parameters["b"] = std::string("y"); },
      [](InferRequest& r) { r.parameters.erase("b"); },
      [](InferRequest& r) { r.outputs = {{.name = "Y"}}; },
      [](InferRequest& r) { r.count_tokens = true; },
      [](InferRequest& r) {
        r.outputs = {{.name = "Y"}, {.name = "Y"}};
      },
  };
  std::set<Sha256Digest> keys;
  for (const auto& change : changes) {
    auto request = make();
    change(*request);
    keys.insert(CacheKey(*request, 1));
  }
  EXPECT_EQ(keys.size(), changes.size());
  EXPECT_FALSE(keys.contains(CacheKey(*make(), 2))) << "other models are loaded";

  auto same = make();
  same->id = "other";
  same->priority = 3;
  same->timeout_us = 5;
  EXPECT_TRUE(keys.contains(CacheKey(*same, 1)));
}

TEST(CacheConfig, IsLocalAndASize) {
  EXPECT_EQ(*ParseCacheConfig({}), 0);
  EXPECT_EQ(*ParseCacheConfig(std::vector<std::string>{"local,size=1048576"}), 1 << 20);
  for (const char* wrong :
       {"redis,host=x", "local", "local,size=", "local,size=-1", "local,size=1k"}) {
    const auto parsed = ParseCacheConfig(std::vector<std::string>{wrong});
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(wrong)) << wrong;
  }
}

class CachedServiceTest : public ::testing::Test, public DeploymentFactory {
 protected:
  absl::StatusOr<Deployment> Make(ModelConfig&) override {
    Deployment deployment;
    deployment.step = step_;
    return deployment;
  }

  void Load(std::int64_t cache_bytes, std::int64_t width = 2) {
    width_ = width;
    ModelConfig config = FloatConfig();
    config.inputs[0].dims = {width};
    config.response_cache = true;
    ServiceOptions options;
    options.cache_bytes = cache_bytes;
    options.control_mode = ModelControlMode::kExplicit;
    options.load_models = {"*"};
    auto service = ServiceImpl::Load({config}, *this, clock_, options);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
  }
  InferResponse Infer(std::vector<float> values) {
    auto request = FloatRequest(std::move(values), nullptr, "m", width_);
    Answered answered(*request);
    service_->Infer(std::move(request));
    return answered.Wait();
  }
  ModelStatistics Statistics() { return (*service_->GetStatistics("m", ""))[0]; }

  std::int64_t width_ = 2;
  ManualClock clock_;
  std::shared_ptr<AddOneStep> step_ = std::make_shared<AddOneStep>();
  std::unique_ptr<ServiceImpl> service_;
};

TEST_F(CachedServiceTest, TheSecondAnswerIsTheFirstAndRunsNothing) {
  Load(1 << 20);
  EXPECT_TRUE((*service_->GetModelConfig("m", ""))->response_cache);
  EXPECT_THAT(Floats(Infer({1, 2}).outputs[0]), ElementsAre(2, 3));
  const InferResponse again = Infer({1, 2});
  EXPECT_THAT(Floats(again.outputs[0]), ElementsAre(2, 3));
  EXPECT_EQ(again.model_version, "1");
  EXPECT_THAT(Floats(Infer({1, 3}).outputs[0]), ElementsAre(2, 4));
  EXPECT_EQ(step_->batches().size(), 2u);
  const ModelStatistics s = Statistics();
  EXPECT_EQ(s.success.count, 3u);
  EXPECT_EQ(s.queue.count, 3u);
  EXPECT_EQ(s.compute_infer.count, 2u);
  EXPECT_EQ(s.inference_count, 2u);
  EXPECT_EQ(s.execution_count, 2u);
  EXPECT_EQ(s.cache_hit.count, 1u);
  EXPECT_EQ(s.cache_miss.count, 2u);
  EXPECT_TRUE(s.cached);
}

TEST_F(CachedServiceTest, LargeRequestsAreCachedToo) {
  Load(1 << 20, 16384);  // hashed in the pool
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Floats(Infer(std::vector<float>(16384, 1.0F)).outputs[0]), ElementsAre(2, 2));
  }
  EXPECT_EQ(step_->batches().size(), 1u);
}

TEST_F(CachedServiceTest, ALargeRequestWhoseClientHasGoneIsCounted) {
  Load(1 << 20, 16384);
  auto request = FloatRequest(std::vector<float>(16384, 1.0F), nullptr, "m", 16384);
  request->is_cancelled = [] { return true; };
  Answered answered(*request);
  service_->Infer(std::move(request));
  EXPECT_EQ(answered.Wait().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Statistics().fail.count, 1u);
  EXPECT_TRUE(step_->batches().empty());
}

TEST_F(CachedServiceTest, ErrorsAreNotKept) {
  Load(1 << 20);
  EXPECT_FALSE(Infer({-1, 0}).status.ok());
  EXPECT_FALSE(Infer({-1, 0}).status.ok());
  EXPECT_EQ(step_->batches().size(), 2u);
  EXPECT_EQ(Statistics().cache_miss.count, 2u) << "as in Triton";
}

TEST_F(CachedServiceTest, AModelThatIsLoadedAnewStartsWithoutAnswers) {
  Load(1 << 20);
  Infer({1, 2});
  std::promise<absl::Status> loaded;
  service_->LoadModel({.name = "m", .config = std::nullopt},
                      [&loaded](absl::Status status) { loaded.set_value(std::move(status)); });
  EXPECT_TRUE(loaded.get_future().get().ok());
  Infer({1, 2});
  EXPECT_EQ(step_->batches().size(), 2u);
}

TEST_F(CachedServiceTest, WithoutACacheNothingIsKeptAndClientsAreToldSo) {
  Load(0);
  EXPECT_FALSE((*service_->GetModelConfig("m", ""))->response_cache);
  Infer({1, 2});
  Infer({1, 2});
  EXPECT_EQ(step_->batches().size(), 2u);
  EXPECT_FALSE(Statistics().cached);
}

}  // namespace
}  // namespace siglip
