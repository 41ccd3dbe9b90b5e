#pragma once

// What one warp does in fused attention, for the GPU and for its emulation in the test: nothing
// here knows which. Scores and their softmax stay in registers (an online softmax in float32 over
// tiles of keys); products are mma.m16n8k16 and, for the last 8 columns of a head of 72, m16n8k8:
// no column is computed in vain. Of the last tile of keys, groups of 16 past the end are skipped,
// and warps whose queries are past the end do nothing: 729 tokens cost 736 x 736.
//
// Source of the idea: FlashAttention-2 (Dao 2023), section 3; of the fragments: PTX ISA, "Matrix
// fragments for mma.m16n8k16".
//
// The machine, `Warp`:
//   Lane type, ForEachLane(f(lane, Lane&)), LdMatrix4/LdMatrix2<trans>(address(lane) -> element
//   offset in shared memory, to(Lane&) -> registers), Mma16/Mma8(c(Lane&), a(Lane&), b(Lane&)),
//   QuadMax/QuadSum(value(Lane&) -> float&), Pack(lo, hi), Exp2(x), Store(offset, pair).

#include <cmath>
#include <cstdint>

#include "kernels/cuda/device_code.h"

namespace siglip::cuda {

// kHeadDim: columns of a head in shared memory, a multiple of 8; narrower heads are padded with
// zeros. kRowTiles: 16-row tiles of queries per warp.
template <int kHeadDimValue, int kRowTilesValue>
struct AttentionShape {
  static_assert(kHeadDimValue % 8 == 0);
  static constexpr int kHeadDim = kHeadDimValue;
  static constexpr int kRowTiles = kRowTilesValue;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpQueries = 16 * kRowTiles;
  static constexpr int kQueries = kWarps * kWarpQueries;  // of a thread block
  static constexpr int kKeys = 64;                        // of a tile
  static constexpr int kVectors = kHeadDim / 8;           // 16 bytes each, of a row
  // Rows an odd number of 16-byte vectors apart: the 8 rows of an 8x8 matrix lie in 8 different
  // groups of 4 banks.
  static constexpr int kStride = (kVectors | 1) * 8;
  // Elements of shared memory: queries (later the output), two stages of keys and values.
  static constexpr int kQueryElements = kQueries * kStride;
  static constexpr int kTileElements = kKeys * kStride;
  static constexpr int kSharedElements = kQueryElements + 4 * kTileElements;

  static SIGLIP_HOST_DEVICE constexpr int KeyOffset(int stage) {
    return kQueryElements + 2 * stage * kTileElements;
  }
  static SIGLIP_HOST_DEVICE constexpr int ValueOffset(int stage) {
    return KeyOffset(stage) + kTileElements;
  }
};

// The i-th 16-byte vector of a tile, for copying.
struct TileVector {
  int row;
  int column;  // first element
};
template <class Shape>
SIGLIP_HOST_DEVICE constexpr TileVector VectorOfTile(int i) {
  return {i / Shape::kVectors, i % Shape::kVectors * 8};
}

// Where C fragments lie: element e of a lane, in a 16x8 tile.
SIGLIP_HOST_DEVICE constexpr int FragmentRow(int lane, int e) { return lane / 4 + e / 2 * 8; }
SIGLIP_HOST_DEVICE constexpr int FragmentColumn(int lane, int e) { return lane % 4 * 2 + e % 2; }

template <class Shape>
struct AttentionLane {
  static constexpr int kSteps16 = Shape::kHeadDim / 16;
  static constexpr int kSteps8 = Shape::kHeadDim % 16 / 8;
  std::uint32_t q[Shape::kRowTiles][4 * kSteps16 + 2 * kSteps8];
  std::uint32_t b[4];                    // of keys or values
  std::uint32_t p[Shape::kRowTiles][4];  // a group of 16 keys' weights
  float s[Shape::kRowTiles][Shape::kKeys / 8][4];
  float o[Shape::kRowTiles][Shape::kHeadDim / 8][4];
  float max[Shape::kRowTiles][2];  // of a row so far; each lane of a quad holds the same
  float sum[Shape::kRowTiles][2];  // of this lane's columns
  float tile_max[Shape::kRowTiles][2];
};

template <class Shape, class Warp>
struct AttentionTile {
  using Lane = AttentionLane<Shape>;
  static constexpr int kStride = Shape::kStride;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kSteps16 = Lane::kSteps16;
  static constexpr int kSteps8 = Lane::kSteps8;
  static constexpr int kOutTiles = Shape::kHeadDim / 8;
  static constexpr int kKeyGroups = Shape::kKeys / 16;

  // first_row: of this warp, in the queries' tile.
  static SIGLIP_DEVICE void Start(Warp& warp, int first_row) {
    warp.ForEachLane([&](int, Lane& lane) {
      SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
        SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
          lane.max[m][h] = -INFINITY;
          lane.sum[m][h] = 0;
        }
        SIGLIP_UNROLL for (int t = 0; t < kOutTiles; ++t) {
          SIGLIP_UNROLL for (int e = 0; e < 4; ++e) lane.o[m][t][e] = 0;
        }
      }
    });
    SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
      // Matrices of rows 0-7 and 8-15, then the same of the next 8 columns.
      SIGLIP_UNROLL for (int k = 0; k < kSteps16; ++k) {
        warp.template LdMatrix4<false>(
            [&](int lane) {
              return (first_row + 16 * m + lane % 16) * kStride + 16 * k + lane / 16 * 8;
            },
            [&](Lane& lane) { return lane.q[m] + 4 * k; });
      }
      if constexpr (kSteps8 > 0) {
        warp.template LdMatrix2<false>(
            [&](int lane) { return (first_row + 16 * m + lane % 16) * kStride + 16 * kSteps16; },
            [&](Lane& lane) { return lane.q[m] + 4 * kSteps16; });
      }
    }
  }

  // keys, values: offsets of a tile of which `valid` >= 1 rows count; those up to the next multiple
  // of 16 are zero. scale: 1 / sqrt(head_dim) / ln 2.
  static SIGLIP_DEVICE void Step(Warp& warp, int keys, int values, int valid, float scale) {
    Scores(warp, keys, valid);
    Softmax(warp, valid, scale);
    Weigh(warp, values, valid);
  }

  // Divides by the sums and writes the rows over the queries, where Start read them.
  static SIGLIP_DEVICE void Finish(Warp& warp, int first_row) {
    SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
      SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
        warp.QuadSum([&](Lane& lane) -> float& { return lane.sum[m][h]; });
      }
    }
    warp.ForEachLane([&](int id, Lane& lane) {
      SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
        SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
          const float factor = 1 / lane.sum[m][h];
          const int row = first_row + 16 * m + FragmentRow(id, 2 * h);
          SIGLIP_UNROLL for (int t = 0; t < kOutTiles; ++t) {
            warp.Store(row * kStride + 8 * t + FragmentColumn(id, 0),
                       Warp::Pack(lane.o[m][t][2 * h] * factor, lane.o[m][t][2 * h + 1] * factor));
          }
        }
      }
    });
  }

 private:
  static SIGLIP_DEVICE void Scores(Warp& warp, int keys, int valid) {
    warp.ForEachLane([&](int, Lane& lane) {
      SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
        SIGLIP_UNROLL for (int t = 0; t < 2 * kKeyGroups; ++t) {
          SIGLIP_UNROLL for (int e = 0; e < 4; ++e) lane.s[m][t][e] = 0;
        }
      }
    });
    SIGLIP_UNROLL for (int g = 0; g < kKeyGroups; ++g) {
      if (16 * g >= valid) continue;
      SIGLIP_UNROLL for (int k = 0; k < kSteps16; ++k) {
        // Keys 0-7: columns 0-7, 8-15; keys 8-15 likewise.
        warp.template LdMatrix4<false>(
            [&](int lane) {
              const int key = 16 * g + lane % 8 + lane / 16 * 8;
              return keys + key * kStride + 16 * k + lane / 8 % 2 * 8;
            },
            [](Lane& lane) { return lane.b; });
        SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
          SIGLIP_UNROLL for (int half = 0; half < 2; ++half) {
            warp.Mma16([&](Lane& lane) { return lane.s[m][2 * g + half]; },
                       [&](Lane& lane) { return lane.q[m] + 4 * k; },
                       [&](Lane& lane) { return lane.b + 2 * half; });
          }
        }
      }
      if constexpr (kSteps8 > 0) {
        warp.template LdMatrix2<false>(
            [&](int lane) { return keys + (16 * g + lane % 16) * kStride + 16 * kSteps16; },
            [](Lane& lane) { return lane.b; });
        SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
          SIGLIP_UNROLL for (int half = 0; half < 2; ++half) {
            warp.Mma8([&](Lane& lane) { return lane.s[m][2 * g + half]; },
                      [&](Lane& lane) { return lane.q[m] + 4 * kSteps16; },
                      [&](Lane& lane) { return lane.b + half; });
          }
        }
      }
    }
  }

  static SIGLIP_DEVICE void Softmax(Warp& warp, int valid, float scale) {
    warp.ForEachLane([&](int id, Lane& lane) {
      if (valid < Shape::kKeys) Mask(id, lane, valid);
      SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
        SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
          float max = lane.max[m][h];
          SIGLIP_UNROLL for (int t = 0; t < 2 * kKeyGroups; ++t) {
            max = fmaxf(max, fmaxf(lane.s[m][t][2 * h], lane.s[m][t][2 * h + 1]));
          }
          lane.tile_max[m][h] = max;
        }
      }
    });
    SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
      SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
        warp.QuadMax([&](Lane& lane) -> float& { return lane.tile_max[m][h]; });
      }
    }
    warp.ForEachLane([&](int, Lane& lane) {
      SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
        SIGLIP_UNROLL for (int h = 0; h < 2; ++h) {
          const float max = lane.tile_max[m][h];
          const float correction = Warp::Exp2((lane.max[m][h] - max) * scale);
          lane.max[m][h] = max;
          float sum = 0;
          SIGLIP_UNROLL for (int t = 0; t < 2 * kKeyGroups; ++t) {
            SIGLIP_UNROLL for (int e = 2 * h; e < 2 * h + 2; ++e) {
              lane.s[m][t][e] = Warp::Exp2(fmaf(lane.s[m][t][e], scale, -max * scale));
              sum += lane.s[m][t][e];
            }
          }
          lane.sum[m][h] = fmaf(lane.sum[m][h], correction, sum);
          SIGLIP_UNROLL for (int t = 0; t < kOutTiles; ++t) {
            lane.o[m][t][2 * h] *= correction;
            lane.o[m][t][2 * h + 1] *= correction;
          }
        }
      }
    });
  }

  static SIGLIP_DEVICE void Mask(int id, Lane& lane, int valid) {
    SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
      SIGLIP_UNROLL for (int t = 0; t < 2 * kKeyGroups; ++t) {
        SIGLIP_UNROLL for (int e = 0; e < 4; ++e) {
          if (8 * t + FragmentColumn(id, e) >= valid) lane.s[m][t][e] = -INFINITY;
        }
      }
    }
  }

  static SIGLIP_DEVICE void Weigh(Warp& warp, int values, int valid) {
    SIGLIP_UNROLL for (int g = 0; g < kKeyGroups; ++g) {
      if (16 * g >= valid) continue;
      // Keys 0-7 and 8-15 of 8 columns, then the same of the next 8.
      const auto address = [&](int lane, int tile) {
        return values + (16 * g + lane % 16) * kStride + 8 * tile;
      };
      warp.ForEachLane([&](int, Lane& lane) {
        // The C fragments of two tiles of scores are an A fragment.
        SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
          SIGLIP_UNROLL for (int r = 0; r < 4; ++r) {
            const float* s = lane.s[m][2 * g + r / 2] + r % 2 * 2;
            lane.p[m][r] = Warp::Pack(s[0], s[1]);
          }
        }
      });
      SIGLIP_UNROLL for (int t = 0; t + 1 < kOutTiles; t += 2) {
        warp.template LdMatrix4<true>([&](int lane) { return address(lane, t + lane / 16); },
                                      [](Lane& lane) { return lane.b; });
        SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
          SIGLIP_UNROLL for (int half = 0; half < 2; ++half) {
            warp.Mma16([&](Lane& lane) { return lane.o[m][t + half]; },
                       [&](Lane& lane) { return lane.p[m]; },
                       [&](Lane& lane) { return lane.b + 2 * half; });
          }
        }
      }
      if constexpr (kOutTiles % 2 != 0) {
        warp.template LdMatrix2<true>([&](int lane) { return address(lane, kOutTiles - 1); },
                                      [](Lane& lane) { return lane.b; });
        SIGLIP_UNROLL for (int m = 0; m < kRowTiles; ++m) {
          warp.Mma16([&](Lane& lane) { return lane.o[m][kOutTiles - 1]; },
                     [&](Lane& lane) { return lane.p[m]; }, [](Lane& lane) { return lane.b; });
        }
      }
    }
  }
};

}  // namespace siglip::cuda
