#pragma once

// The best segmentation of a normalized text by a unigram model, as SentencePiece 0.2.3 chooses it.
// Debian's 0.1.97 adds scores up in another order and precision, so that of two segmentations that
// are equally good but for rounding ("ffff" as "f" "fff" or "fff" "f") it may take the other.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace siglip {

// Thread-safe.
class UnigramSegmenter {
 public:
  static constexpr int kUnknown = -1;

  struct Piece {
    std::string text;
    int id = 0;
    float score = 0;
    bool user_defined = false;  // wins over all others, whatever its score
  };

  struct Segment {
    std::string_view text;
    int id = kUnknown;
  };

  // `pieces`: those that a text can have, each text once and none empty. `worst_score`: of the
  // model's normal pieces; what no piece covers costs more.
  UnigramSegmenter(std::vector<Piece> pieces, float worst_score);

  // All of `normalized`, in order; views into it. A character that no piece covers is a segment of
  // its own.
  std::vector<Segment> Encode(std::string_view normalized) const;

 private:
  // Pieces [begin, end) begin with the bytes that were looked at.
  struct Range {
    std::size_t begin, end;
  };
  Range Narrow(Range range, std::size_t depth, char byte) const;

  std::vector<Piece> pieces_;  // in byte order
  float unknown_score_;
};

}  // namespace siglip
