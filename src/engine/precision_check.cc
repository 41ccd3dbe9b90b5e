#include "engine/precision_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/content_hash.h"
#include "base/file_map.h"
#include "engine/calibration.h"
#include "engine/encoder.h"
#include "engine/workspace.h"

namespace siglip {
namespace {

// The goals of --precision int16, which tests/oracle/precision_oracle.py holds it to as well.
constexpr double kMaxOneMinusCosine = 1e-5;
constexpr double kMaxRatioToBf16 = 0.25;

// What int16 does to a row does not depend on how many there are, and a head that averages over
// fewer of them hides less. So few that loading the blocks takes longer than multiplying by them.
// Texts are whole: one position is pooled, the last, and most of the others hold padding.
constexpr std::int64_t kMaxPatchesPerSide = 4;
constexpr std::int64_t kCheckedPatches = kMaxPatchesPerSide * kMaxPatchesPerSide;
constexpr std::int64_t kInputs = 2;  // of each tower

constexpr std::string_view kPassed = "int16 passed: ";
constexpr std::string_view kFailed = "int16 failed: ";
// A reason has some hundred bytes.
constexpr std::uint64_t kMaxVerdictBytes = 4096;

// To the nearest value of 8 significant bits, ties to even.
void RoundToBf16(std::span<float> values) {
  for (float& value : values) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
    value = std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
  }
}

// The worst input of one tower.
struct TowerReport {
  std::string name;
  bool finite = true;
  double one_minus_cosine = 0;
  double ratio_to_bf16 = 0;

  bool passed() const {
    return finite && one_minus_cosine <= kMaxOneMinusCosine && ratio_to_bf16 <= kMaxRatioToBf16;
  }
};

// run(inputs, embeddings, fp32): a pass of the tower.
template <class Input, class Run>
TowerReport CheckTower(const std::string& name, const Checkpoint& checkpoint, Workspace& workspace,
                       const std::vector<Input>& inputs, const Run& run) {
  const std::size_t width = static_cast<std::size_t>(checkpoint.config().embedding_size());
  std::vector<decltype(inputs[0].data())> places;
  for (const Input& input : inputs) places.push_back(input.data());
  const auto embed = [&](WeightLoader* fp32) {
    std::vector<std::vector<float>> rows(inputs.size(), std::vector<float>(width));
    std::vector<float*> to;
    for (std::vector<float>& row : rows) to.push_back(row.data());
    run(places, to, fp32);
    return rows;
  };
  WeightLoader exact(checkpoint, workspace.team);
  WeightLoader rounded(checkpoint, workspace.team, RoundToBf16);
  const auto int16_rows = embed(nullptr);
  const auto fp32_rows = embed(&exact);
  workspace.after_layer = RoundToBf16;
  const auto bf16_rows = embed(&rounded);
  workspace.after_layer = nullptr;

  TowerReport report;
  report.name = name;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const EmbeddingError int16 = ErrorOf(int16_rows[i], fp32_rows[i]);
    const EmbeddingError bf16 = ErrorOf(bf16_rows[i], fp32_rows[i]);
    report.finite = report.finite && int16.finite && bf16.finite;
    report.one_minus_cosine = std::max(report.one_minus_cosine, int16.one_minus_cosine);
    if (int16.relative_l2 > 0) {
      report.ratio_to_bf16 = std::max(report.ratio_to_bf16, int16.relative_l2 / bf16.relative_l2);
    }
  }
  return report;
}

TowerReport CheckVision(const Checkpoint& checkpoint, const VisionTower& tower,
                        Workspace& workspace) {
  const std::int64_t per_side =
      std::min(kMaxPatchesPerSide, checkpoint.config().vision.patches_per_side());
  return CheckTower(
      "vision", checkpoint, workspace,
      std::vector{CalibrationImage(checkpoint, 100, 1), CalibrationImage(checkpoint, 200, 4)},
      [&](const auto& images, const auto& embeddings, WeightLoader* fp32) {
        tower.RunCorner(workspace, images, per_side, embeddings, fp32);
      });
}

// Pictures of two shapes in one pass.
TowerReport CheckNaflexVision(const Checkpoint& checkpoint, const VisionTower& tower,
                              Workspace& workspace) {
  constexpr std::int64_t kSide = kMaxPatchesPerSide;
  constexpr std::int64_t kLow = kSide / 2;  // of the other picture: half the rows
  return CheckTower(
      "vision", checkpoint, workspace,
      std::vector{CalibrationPatches(checkpoint, 100, 1, kSide, kSide),
                  CalibrationPatches(checkpoint, 200, 4, kLow, kSide)},
      [&](const auto& patches, const auto& embeddings, WeightLoader* fp32) {
        const PatchImage images[] = {{patches[0], kSide, kSide}, {patches[1], kLow, kSide}};
        tower.RunPatches(workspace, images, embeddings, fp32);
      });
}

std::string TowerText(const TowerReport& tower) {
  if (!tower.finite) return absl::StrCat(tower.name, " not finite");
  return absl::StrFormat("%s 1-cos %.2g and %.2g of bfloat16's error", tower.name,
                         tower.one_minus_cosine, tower.ratio_to_bf16);
}

std::string SealedText(const PrecisionVerdict& verdict) {
  const std::string text =
      absl::StrCat(std::string(verdict.int16_passes ? kPassed : kFailed), verdict.reason, "\n");
  const std::uint64_t hash = ContentHash(std::as_bytes(std::span(text)));
  return absl::StrCat(text, absl::Hex(hash, absl::kZeroPad16), "\n");
}

}  // namespace

bool Int16IsFaster(const std::string& isa) {
  return isa == "avx512" || isa == "avx2" || isa == "sse4";
}

PrecisionVerdict CheckInt16(const Checkpoint& checkpoint, const LoadedTowers& towers,
                            std::span<const std::int64_t> example_text, int num_threads) {
  const std::int64_t batch = kInputs;
  // Sized for whole pictures, used and hence backed by memory for less.
  const WorkspaceSizes vision_sizes =
      towers.vision.naflex() ? towers.vision.Sizes(batch, batch * kCheckedPatches, kCheckedPatches)
                             : towers.vision.Sizes(batch);
  Workspace workspace(WorkspaceSizes::Max(vision_sizes, towers.text.Sizes(batch)), num_threads);
  const SiglipConfig& config = checkpoint.config();
  const std::int64_t tokens = config.text.max_position_embeddings;
  const TowerReport vision = towers.vision.naflex()
                                 ? CheckNaflexVision(checkpoint, towers.vision, workspace)
                                 : CheckVision(checkpoint, towers.vision, workspace);
  const TowerReport text =
      CheckTower("text", checkpoint, workspace,
                 std::vector{CalibrationText(config.text, 300, tokens),
                             ExampleText(config.text, 400, tokens, example_text)},
                 [&](const auto& ids, const auto& embeddings, WeightLoader* fp32) {
                   towers.text.Run(workspace, ids, tokens, embeddings, fp32);
                 });
  return {.int16_passes = vision.passed() && text.passed(),
          .reason = absl::StrFormat("%s, %s, on %d calibration inputs; limits %g and %g",
                                    TowerText(vision), TowerText(text), 2 * kInputs,
                                    kMaxOneMinusCosine, kMaxRatioToBf16)};
}

std::optional<PrecisionVerdict> ReadVerdict(const std::string& path) {
  const auto content = ReadFile(path, kMaxVerdictBytes);
  if (!content.ok()) return std::nullopt;
  PrecisionVerdict verdict;
  verdict.int16_passes = content->starts_with(kPassed);
  const std::string_view start = verdict.int16_passes ? kPassed : kFailed;
  if (!content->starts_with(start)) return std::nullopt;
  verdict.reason = content->substr(start.size(), content->find('\n') - start.size());
  if (SealedText(verdict) != *content) return std::nullopt;
  return verdict;
}

absl::Status WriteVerdict(const std::string& path, const PrecisionVerdict& verdict) {
  return WriteFileAtomically(path, SealedText(verdict));
}

}  // namespace siglip
