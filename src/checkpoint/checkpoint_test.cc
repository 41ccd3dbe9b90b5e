#include "checkpoint/checkpoint.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "base/file_map.h"
#include "checkpoint/tiny_checkpoint_for_test.h"

namespace siglip {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string ErrorOf(const std::string& folder) {
  const auto checkpoint = Checkpoint::Open(folder);
  return checkpoint.ok() ? "opened" : std::string(checkpoint.status().message());
}

std::vector<RequiredTensor> TinyTensors() {
  return RequiredTensors(*ParseSiglipConfig(kTinyConfigJson, "config.json"));
}

float Zero(const std::string&, std::int64_t) { return 0; }

TEST(CheckpointTest, ACompleteFolderOpens) {
  const auto checkpoint = Checkpoint::Open(WriteTinyCheckpoint("checkpoint_test_ok"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->config().embedding_size(), 12);
  EXPECT_EQ(checkpoint->config().vision.num_patches(),
            4);  // 9 / 4 = 2: the last column is never read
  EXPECT_FLOAT_EQ(checkpoint->logit_scale(), -0.05f);
  EXPECT_TRUE(checkpoint->extra_tensors().empty());
  std::vector<float> bias(12);
  checkpoint->CopyFloat("vision_model.post_layernorm.bias", bias);
  EXPECT_FLOAT_EQ(bias[11], 0.06f);
}

TEST(CheckpointTest, AMissingTensorIsNamedWithItsShape) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_missing");
  auto tensors = TinyTensors();
  std::erase_if(tensors,
                [](const RequiredTensor& t) { return t.name == "text_model.head.weight"; });
  WriteText(folder + "/model.safetensors", SerializeSafetensors(tensors, Zero));
  EXPECT_THAT(ErrorOf(folder), HasSubstr("\"text_model.head.weight\": expected shape [12,8]"));
}

TEST(CheckpointTest, AWrongShapeIsNamedWithBothShapes) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_shape");
  auto tensors = TinyTensors();
  for (auto& tensor : tensors) {
    if (tensor.name == "text_model.head.weight") tensor.shape = {8, 12};
  }
  WriteText(folder + "/model.safetensors", SerializeSafetensors(tensors, Zero));
  EXPECT_THAT(ErrorOf(folder), HasSubstr("[12,8], found F32 [8,12]"));
}

TEST(CheckpointTest, ManyProblemsAreCounted) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_many");
  WriteText(folder + "/model.safetensors", SerializeSafetensors({{"logit_scale", {1}}}, Zero));
  EXPECT_THAT(ErrorOf(folder), HasSubstr(absl::StrCat("and ", TinyTensors().size() - 6, " more")));
}

// As transformers' base_model_prefix: what a wrapper of the model saved.
TEST(CheckpointTest, NamesMayBeginWithTheModelsOwn) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_prefix");
  const auto with = [&](const std::string& prefix, bool again) {
    auto tensors = TinyTensors();
    for (auto& tensor : tensors) tensor.name = prefix + tensor.name;
    tensors.push_back({prefix + "other", {1}});
    if (again) tensors.push_back({"logit_bias", {1}});
    WriteText(folder + "/model.safetensors", SerializeSafetensors(tensors, Zero));
    return ErrorOf(folder);
  };
  EXPECT_EQ(with("siglip.", false), "opened");
  EXPECT_THAT(Checkpoint::Open(folder)->extra_tensors(), ElementsAre("siglip.other"));
  EXPECT_THAT(with("siglip.", true), HasSubstr("\"logit_bias\": found twice, also as \"siglip."));
  EXPECT_THAT(with("module.", false),
              HasSubstr("\"logit_scale\": expected shape [1], found no such tensor (but "
                        "\"module.logit_scale\")"));
  EXPECT_THAT(with("siglip2.", false), HasSubstr("found no such tensor"));
}

TEST(CheckpointTest, AModelOfOneTowerIsTold) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_tower");
  for (const char* tower : {"text_model.", "vision_model."}) {
    auto tensors = TinyTensors();
    std::erase_if(tensors, [&](const RequiredTensor& t) { return t.name.starts_with(tower); });
    tensors.push_back({"classifier.weight", {2, 12}});
    WriteText(folder + "/model.safetensors", SerializeSafetensors(tensors, Zero));
    EXPECT_THAT(ErrorOf(folder), HasSubstr(absl::StrCat("found no tensor \"", tower, "*\"")));
  }
}

TEST(CheckpointTest, AnExtraTensorIsOnlyNamed) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_extra");
  auto tensors = TinyTensors();
  tensors.push_back({"zzz", {3}});
  WriteText(folder + "/model.safetensors", SerializeSafetensors(tensors, Zero));
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(checkpoint->extra_tensors(), ElementsAre("zzz"));
}

// One dtype that is of no use here, one that the format's reference does not know.
TEST(CheckpointTest, ADtypeThatNoWeightHasCountsOnlyWhereItIsNeeded) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_dtype");
  for (const char* dtype : {"C64", "I4_PACKED"}) {
    auto tensors = TinyTensors();
    tensors.push_back({"zzz", {2}});
    std::string file = SerializeSafetensors(tensors, Zero);
    const std::string entry = "\"zzz\":{\"dtype\":\"F32\",\"shape\":[2]";
    const auto with = [&](const std::string& old, const std::string& changed) {
      std::string header = file.substr(8, file.find("}}") + 2 - 8);
      header.replace(header.find(old), old.size(), changed);
      const std::uint64_t length = header.size();
      WriteText(folder + "/model.safetensors",
                std::string(reinterpret_cast<const char*>(&length), 8) + header +
                    file.substr(file.find("}}") + 2));
    };
    with(entry, absl::StrCat("\"zzz\":{\"dtype\":\"", dtype, "\",\"shape\":[1]"));
    EXPECT_EQ(ErrorOf(folder), "opened");
    // Of 8 bytes too.
    const std::string needed =
        "\"text_model.final_layer_norm.bias\":{\"dtype\":\"F32\",\"shape\":[8]";
    with(needed, absl::StrCat("\"text_model.final_layer_norm.bias\":{\"dtype\":\"", dtype,
                              "\",\"shape\":[4]"));
    EXPECT_THAT(ErrorOf(folder),
                HasSubstr(absl::StrCat("\"text_model.final_layer_norm.bias\": expected F32, F16 or "
                                       "BF16 [8], found ",
                                       dtype, " [4]")));
  }
}

class ShardedTest : public testing::Test {
 protected:
  ShardedTest() : folder_(WriteTinyCheckpoint("checkpoint_test_shards")) {
    std::filesystem::remove(folder_ + "/model.safetensors");
    std::vector<RequiredTensor> parts[2];
    std::string map;
    for (const RequiredTensor& tensor : TinyTensors()) {
      const std::size_t part = parts[0].size() > 20;
      parts[part].push_back(tensor);
      absl::StrAppend(&map, map.empty() ? "" : ",", "\"", tensor.name, "\":\"", part + 1,
                      ".safetensors\"");
    }
    for (int i = 0; i < 2; ++i) {
      WriteText(absl::StrCat(folder_, "/", i + 1, ".safetensors"),
                SerializeSafetensors(parts[i], Zero));
    }
    map_ = map;
    WriteIndex(map_);
  }
  void WriteIndex(const std::string& map) {
    WriteText(folder_ + "/model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  }
  const std::string folder_;
  std::string map_;
};

TEST_F(ShardedTest, ShardsOpenAsOne) {
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->weight_files().size(), 2u);
}

TEST_F(ShardedTest, ATensorThatNoShardHoldsIsNamed) {
  WriteIndex(map_ + ",\"ghost\":\"1.safetensors\"");
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("\"ghost\": expected in 1.safetensors"));
}

// As transformers 5 does.
TEST_F(ShardedTest, OfATensorInTwoShardsTheLastCountsWhateverTheIndexSays) {
  WriteText(folder_ + "/3.safetensors",
            SerializeSafetensors({{"logit_scale", {1}}, {"zzz", {1}}},
                                 [](const std::string&, std::int64_t) { return 2.0f; }));
  WriteIndex(map_ + ",\"zzz\":\"3.safetensors\"");
  const auto checkpoint = Checkpoint::Open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->logit_scale(), 2);
  EXPECT_THAT(checkpoint->extra_tensors(), ElementsAre("zzz"));
}

TEST_F(ShardedTest, AnIndexMayLeaveTensorsOutAndNameAnotherShard) {
  WriteIndex(R"("logit_scale":"2.safetensors","text_model.head.bias":"1.safetensors")");
  EXPECT_EQ(ErrorOf(folder_), "opened");
}

TEST_F(ShardedTest, AShardOutsideTheFolderIsRefused) {
  for (const char* name : {"../1.safetensors", "/etc/passwd", "a/../../1.safetensors", "..", "",
                           "a/", "a//b.safetensors", "./1.safetensors"}) {
    WriteIndex(absl::StrCat("\"x\":\"", name, "\""));
    EXPECT_THAT(ErrorOf(folder_), HasSubstr("a file in this folder or below it")) << name;
  }
}

TEST_F(ShardedTest, AShardMayLieInAFolderBelow) {
  std::filesystem::create_directories(folder_ + "/a/b");
  std::filesystem::rename(folder_ + "/2.safetensors", folder_ + "/a/b/2.safetensors");
  WriteIndex(absl::StrReplaceAll(map_, {{"\"2.safetensors", "\"a/b/2.safetensors"}}));
  EXPECT_EQ(ErrorOf(folder_), "opened");
}

TEST_F(ShardedTest, AMissingShardIsNamed) {
  std::filesystem::remove(folder_ + "/2.safetensors");
  EXPECT_THAT(ErrorOf(folder_), HasSubstr("2.safetensors"));
}

TEST(CheckpointTest, AFolderWithoutWeightsSaysWhatIsExpected) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_none");
  std::filesystem::remove(folder + "/model.safetensors");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("model.safetensors.index.json, found neither"));
  WriteText(folder + "/pytorch_model.bin", "PK");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("found pytorch_model.bin alone, which is not read"));
  std::filesystem::remove(folder + "/pytorch_model.bin");
  WriteText(folder + "/adapter_model.safetensors", "");
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("found adapter_model.safetensors alone, which is an adap"));
}

TEST(CheckpointTest, ImageSizesMustAgree) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_size");
  WriteText(folder + "/preprocessor_config.json", R"({"size": {"height": 8, "width": 8}})");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("size 8 differs from image_size 9"));
}

// As transformers 5's processors write it.
constexpr const char* kProcessorConfig =
    R"({"image_processor": {"image_mean": [0.25, 0.5, 0.5], "size": {"height": 9, "width": 9}},
        "processor_class": "SiglipProcessor"})";

TEST(CheckpointTest, SettingsOfThePreprocessorAreReadFromProcessorConfigToo) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_processor");
  std::filesystem::remove(folder + "/preprocessor_config.json");
  WriteText(folder + "/processor_config.json", kProcessorConfig);
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->preprocessor().image_mean[0], 0.25);
}

TEST(CheckpointTest, ProcessorConfigComesFirstIfItHasAnImageProcessor) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_processor_first");
  WriteText(folder + "/processor_config.json", kProcessorConfig);
  EXPECT_EQ(Checkpoint::Open(folder)->preprocessor().image_mean[0], 0.25);
  for (const char* other : {"{}", R"({"image_processor": null})"}) {
    WriteText(folder + "/processor_config.json", other);
    EXPECT_EQ(Checkpoint::Open(folder)->preprocessor().image_mean[0], 0.5) << other;
  }
}

TEST(CheckpointTest, ErrorsOfThePreprocessorNameTheFileThatTheyAreOf) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_processor_bad");
  WriteText(folder + "/processor_config.json", R"({"image_processor": {"resample": 9}})");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("/processor_config.json: image_processor: \"resample\""));
  WriteText(folder + "/processor_config.json", R"({"image_processor": {"size": [8, 8]}})");
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("/processor_config.json: image_processor: size 8 differs"));
  WriteText(folder + "/processor_config.json", R"({"image_processor": 3})");
  EXPECT_THAT(ErrorOf(folder), HasSubstr("expected a JSON object"));
  std::filesystem::remove(folder + "/processor_config.json");
  std::filesystem::remove(folder + "/preprocessor_config.json");
  EXPECT_THAT(ErrorOf(folder),
              HasSubstr("expected preprocessor_config.json or processor_config.json"
                        " with \"image_processor\", found neither"));
}

TEST(CheckpointTest, SymlinksAreFollowed) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_link");
  std::filesystem::rename(folder + "/model.safetensors", folder + "/blob");
  std::filesystem::create_symlink("blob", folder + "/model.safetensors");
  EXPECT_EQ(ErrorOf(folder), "opened");
}

// As `hf download` fills its cache: every file is a link to a blob.
class HubCacheTest : public testing::Test {
 protected:
  HubCacheTest() {
    const std::string files = WriteTinyCheckpoint("checkpoint_test_cache_files");
    std::filesystem::remove_all(model_);
    std::filesystem::create_directories(snapshot_);
    std::filesystem::create_directories(model_ + "/blobs");
    std::filesystem::create_directories(model_ + "/refs");
    WriteText(model_ + "/refs/main", "0123abcd");
    for (const auto& entry : std::filesystem::directory_iterator(files)) {
      const std::string name = entry.path().filename();
      std::filesystem::rename(entry.path(), model_ + "/blobs/of-" + name);
      std::filesystem::create_symlink("../../blobs/of-" + name, snapshot_ + "/" + name);
    }
  }
  const std::string model_ = std::string(std::filesystem::temp_directory_path()) +
                             "/checkpoint_test_cache/models--owner--siglip";
  const std::string snapshot_ = model_ + "/snapshots/0123abcd";
};

TEST_F(HubCacheTest, ASnapshotOpens) { EXPECT_EQ(ErrorOf(snapshot_), "opened"); }

TEST_F(HubCacheTest, TheFolderAboveNamesItsSnapshot) {
  EXPECT_EQ(ErrorOf(model_), absl::StrCat(model_,
                                          ": a model's folder in the Hugging Face cache; the "
                                          "checkpoint is in ",
                                          snapshot_));
  std::filesystem::remove_all(model_ + "/refs");
  std::filesystem::create_directory(model_ + "/snapshots/89ef");
  EXPECT_THAT(ErrorOf(model_), HasSubstr("/0123abcd or " + model_ + "/snapshots/89ef"));
}

TEST_F(HubCacheTest, ALinkToNothingIsNotTakenForAnAbsentFile) {
  for (const char* name : {"config.json", "preprocessor_config.json", "model.safetensors"}) {
    const std::string blob = absl::StrCat(model_, "/blobs/of-", name);
    std::filesystem::rename(blob, blob + "~");
    EXPECT_THAT(ErrorOf(snapshot_), HasSubstr(absl::StrCat(name, "': it is a link to '../../blobs/",
                                                           "of-", name, "', which is not there")));
    std::filesystem::rename(blob + "~", blob);
  }
}

TEST(CheckpointTest, AGitLfsPointerIsNamedWithWhatToDo) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_lfs");
  for (const char* name : {"model.safetensors", "preprocessor_config.json", "config.json"}) {
    WriteText(folder + "/" + name,
              "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 813000000\n");
    EXPECT_THAT(ErrorOf(folder), HasSubstr(absl::StrCat("/", name, "': a pointer of Git LFS")));
    EXPECT_THAT(ErrorOf(folder), HasSubstr("`git lfs pull`"));
  }
}

TEST(CheckpointTest, WhatIsNoFolderSaysWhatToDo) {
  EXPECT_EQ(ErrorOf("google/siglip-base-patch16-224"),
            "google/siglip-base-patch16-224: no such folder; a model of the Hugging Face hub is "
            "downloaded into one with `hf download google/siglip-base-patch16-224 --local-dir "
            "FOLDER`");
  EXPECT_EQ(ErrorOf("/no/folder"), "/no/folder: no such folder");
  EXPECT_EQ(ErrorOf("./folder"), "./folder: no such folder");
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_file");
  EXPECT_EQ(ErrorOf(folder + "/config.json"),
            folder + "/config.json: expected the folder of a checkpoint, got a file");
}

// Every half and bfloat16 pattern, against the definition of the format.
TEST(CheckpointTest, SixteenBitWeightsConvertExactly) {
  const std::string folder = WriteTinyCheckpoint("checkpoint_test_half");
  auto file = ReadFile(folder + "/model.safetensors", 1 << 24);
  ASSERT_TRUE(file.ok());
  // A [20,8] table as F16 holds 160 patterns; the layout stays valid if the dtype alone changes and
  // the freed half of its bytes becomes an extra tensor.
  const std::string name = "\"text_model.embeddings.token_embedding.weight\":";
  const std::size_t at = file->find(name) + name.size();
  const std::size_t end = file->find("}", at);
  const std::string old = file->substr(at, end - at + 1);
  const std::size_t offsets = old.find('[', old.find("data_offsets")) + 1;
  const std::size_t begin = std::stoull(old.substr(offsets));
  for (const char* dtype : {"F16", "BF16"}) {
    for (std::uint32_t first = 0; first < 0x10000; first += 160) {
      std::string header = file->substr(8, file->find("}}") + 2 - 8);
      const std::string entry = absl::StrCat(
          "{\"dtype\":\"", dtype, "\",\"shape\":[20,8],\"data_offsets\":[", begin, ",", begin + 320,
          "]},\"rest\":{\"dtype\":\"U8\",\"shape\":[320],\"data_offsets\":[", begin + 320, ",",
          begin + 640, "]}");
      header.replace(header.find(old), old.size(), entry);
      std::string data = file->substr(file->find("}}") + 2);
      for (std::uint32_t i = 0; i < 160; ++i) {
        const auto bits = static_cast<std::uint16_t>(first + i);
        std::memcpy(data.data() + begin + 2 * i, &bits, 2);
      }
      const std::uint64_t length = header.size();
      WriteText(folder + "/model.safetensors",
                std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
      const auto checkpoint = Checkpoint::Open(folder);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      std::vector<float> values(160);
      checkpoint->CopyFloat("text_model.embeddings.token_embedding.weight", values);
      for (std::uint32_t i = 0; i < 160 && first + i < 0x10000; ++i) {
        const std::uint32_t bits = first + i;
        const bool half = dtype[0] == 'F';
        const int exponent_bits = half ? 5 : 8, mantissa_bits = half ? 10 : 7;
        const int bias = (1 << (exponent_bits - 1)) - 1;
        const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
        const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
        double expected = std::ldexp(exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits),
                                     std::max(exponent, 1) - bias - mantissa_bits);
        if (exponent == (1 << exponent_bits) - 1) {
          expected = mantissa == 0 ? std::numeric_limits<double>::infinity()
                                   : std::numeric_limits<double>::quiet_NaN();
        }
        if ((bits & 0x8000) != 0) expected = -expected;
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(values[i])) << dtype << " " << bits;
        } else {
          ASSERT_EQ(static_cast<double>(values[i]), expected) << dtype << " " << bits;
          ASSERT_EQ(std::signbit(values[i]), (bits & 0x8000) != 0) << dtype << " " << bits;
        }
      }
    }
  }
}

}  // namespace
}  // namespace siglip
