#include "engine/device_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/engine.h"

namespace siglip {
namespace {

using testing::HasSubstr;

std::unique_ptr<Engine> OpenCpu(const Checkpoint& checkpoint, Precision precision) {
  auto engine = Engine::Open(checkpoint, {.num_threads = 1, .precision = precision});
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

// An engine of several devices that take turns, of which the last may be broken.
class Devices final : public Engine {
 public:
  enum class Fault { kNone, kSwapsItems, kNan, kNanInBatchesOf3, kFails };

  Devices(std::unique_ptr<Engine> engine, int count, Fault of_last)
      : engine_(std::move(engine)), count_(count), of_last_(of_last) {}

  absl::Status EncodeImages(std::span<const float* const> images,
                            std::span<float* const> embeddings) override {
    return Break(engine_->EncodeImages(images, embeddings), embeddings);
  }
  absl::Status EncodeTexts(std::span<const std::int64_t* const> ids, std::int64_t num_tokens,
                           std::span<float* const> embeddings) override {
    lengths.insert(num_tokens);
    return Break(engine_->EncodeTexts(ids, num_tokens, embeddings), embeddings);
  }
  std::string Describe() const override { return "devices"; }
  std::int64_t memory_bytes() const override { return 0; }

  std::set<std::int64_t> lengths;  // of texts that came

 private:
  absl::Status Break(absl::Status status, std::span<float* const> embeddings) {
    if (calls_++ % count_ != count_ - 1) return status;
    if (of_last_ == Fault::kSwapsItems && embeddings.size() > 1)
      std::swap_ranges(embeddings[0], embeddings[0] + 12, embeddings[1]);
    if (of_last_ == Fault::kNan || (of_last_ == Fault::kNanInBatchesOf3 && embeddings.size() == 3))
      embeddings[0][3] = std::numeric_limits<float>::quiet_NaN();
    return of_last_ == Fault::kFails ? absl::InternalError("the device is lost") : status;
  }

  const std::unique_ptr<Engine> engine_;
  const int count_;
  const Fault of_last_;
  int calls_ = 0;
};

// Activations of order 1, so that embeddings of different items differ.
float Weight(const std::string& name, std::int64_t i) { return RandomWeight(name, i, 0.3f); }

class DeviceCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = WriteTinyCheckpoint("siglip_device_check_test");
    WriteText(
        folder + "/model.safetensors",
        SerializeSafetensors(RequiredTensors(*ParseSiglipConfig(kTinyConfigJson, "")), Weight));
    auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
    reference_ = OpenCpu(*checkpoint_, Precision::kFp32);
  }

  absl::StatusOr<std::string> Check(int count, Devices::Fault of_last) {
    Devices devices(OpenCpu(*checkpoint_, Precision::kInt16), count, of_last);
    return CheckDevice(*checkpoint_, Precision::kBf16, {}, devices, count, 4, *reference_);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Engine> reference_;
};

TEST_F(DeviceCheckTest, AnotherRoundingPasses) {
  const auto measured = Check(3, Devices::Fault::kNone);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_THAT(*measured, HasSubstr("limit 0.005"));
}

TEST_F(DeviceCheckTest, WrongNumbersOfAnyDeviceFail) {
  for (const int count : {1, 2, 3}) {
    const auto measured = Check(count, Devices::Fault::kSwapsItems);
    EXPECT_THAT(std::string(measured.status().message()), HasSubstr("self-check failed: 1-cos"))
        << count;
  }
}

TEST_F(DeviceCheckTest, WhatIsNotANumberFails) {
  const auto measured = Check(2, Devices::Fault::kNan);
  EXPECT_THAT(std::string(measured.status().message()), HasSubstr("not all finite"));
}

TEST_F(DeviceCheckTest, EverySizeOfBatchIsTried) {
  const auto measured = Check(2, Devices::Fault::kNanInBatchesOf3);
  EXPECT_THAT(std::string(measured.status().message()), HasSubstr("not all finite"));
}

TEST_F(DeviceCheckTest, TextsHaveTheLengthOfTheExample) {
  const std::int64_t longest = checkpoint_->config().text.max_position_embeddings;
  for (const std::int64_t tokens : {std::int64_t{0}, longest - 1, longest}) {
    Devices devices(OpenCpu(*checkpoint_, Precision::kInt16), 1, Devices::Fault::kNone);
    const std::vector<std::int64_t> example(static_cast<std::size_t>(tokens), 1);
    const auto measured =
        CheckDevice(*checkpoint_, Precision::kBf16, example, devices, 1, 2, *reference_);
    ASSERT_TRUE(measured.ok()) << measured.status();
    EXPECT_EQ(devices.lengths, std::set<std::int64_t>{tokens == 0 ? longest : tokens});
  }
}

TEST_F(DeviceCheckTest, ADevicesOwnErrorIsReturned) {
  const auto measured = Check(2, Devices::Fault::kFails);
  EXPECT_EQ(measured.status(), absl::InternalError("the device is lost"));
}

}  // namespace
}  // namespace siglip
