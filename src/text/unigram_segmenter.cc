#include "text/unigram_segmenter.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace siglip {
namespace {

// Source: sentencepiece 0.2.3 src/unigram_model.cc: kUnkPenalty, GetUserDefinedScore,
// kScoreResetThreshold.
constexpr float kUnknownPenalty = 10.0f;
constexpr float kScoreResetThreshold = 100000.0f;
float UserDefinedScore(std::size_t length) {
  return static_cast<float>(0.1 * (static_cast<double>(length) - 1));
}

// Of a character in UTF-8, by its first byte. Source: sentencepiece src/util.h, OneCharLen.
std::size_t CharacterBytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  if (byte < 0xc0) return 1;
  if (byte < 0xe0) return 2;
  return byte < 0xf0 ? 3 : 4;
}

unsigned char ByteAt(const std::string& text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// The best way to the end of some bytes, by its last piece.
struct Best {
  float score = 0;
  int id = UnigramSegmenter::kUnknown;
  std::ptrdiff_t begin = -1;  // of the piece; negative: no way is known
};

void Offer(Best& best, float score, int id, std::size_t begin) {
  if (best.begin >= 0 && !(score > best.score)) return;
  best = {score, id, static_cast<std::ptrdiff_t>(begin)};
}

}  // namespace

UnigramSegmenter::UnigramSegmenter(std::vector<Piece> pieces, float worst_score)
    : pieces_(std::move(pieces)), unknown_score_(worst_score - kUnknownPenalty) {
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.text < b.text; });
}

// Those of `range`, which agree in their first `depth` bytes, that go on with `byte`. A piece of
// `depth` bytes is the first.
UnigramSegmenter::Range UnigramSegmenter::Narrow(Range range, std::size_t depth, char byte) const {
  if (range.begin < range.end && pieces_[range.begin].text.size() == depth) ++range.begin;
  const auto wanted = static_cast<unsigned char>(byte);
  const auto first = pieces_.begin() + static_cast<std::ptrdiff_t>(range.begin);
  const auto last = pieces_.begin() + static_cast<std::ptrdiff_t>(range.end);
  const auto begin = std::partition_point(
      first, last, [&](const Piece& piece) { return ByteAt(piece.text, depth) < wanted; });
  const auto end = std::partition_point(
      begin, last, [&](const Piece& piece) { return ByteAt(piece.text, depth) == wanted; });
  return {static_cast<std::size_t>(begin - pieces_.begin()),
          static_cast<std::size_t>(end - pieces_.begin())};
}

// Source: sentencepiece 0.2.3 src/unigram_model.cc, Model::EncodeOptimized: sums in float32 from
// the left, of equal ones the first that is found (the longest last piece), and sums that grow
// large begin anew.
std::vector<UnigramSegmenter::Segment> UnigramSegmenter::Encode(std::string_view normalized) const {
  const std::size_t size = normalized.size();
  std::vector<Best> best(size + 1);  // by the end of a way
  std::size_t frontier = 0;          // the farthest end
  for (std::size_t begin = 0; begin < size;) {
    const float so_far = best[begin].score;
    if (so_far < -kScoreResetThreshold || so_far > kScoreResetThreshold) {
      for (std::size_t i = begin; i <= frontier; ++i) {
        if (i == begin || best[i].begin >= 0) best[i].score -= so_far;
      }
    }
    const float base = best[begin].score;
    const std::size_t character = std::min(CharacterBytes(normalized[begin]), size - begin);
    bool covered = false;  // by a piece of this character alone
    Range range{0, pieces_.size()};
    for (std::size_t end = begin; end < size;) {
      range = Narrow(range, end - begin, normalized[end]);
      ++end;
      if (range.begin == range.end) break;
      const Piece& piece = pieces_[range.begin];
      if (piece.text.size() != end - begin) continue;
      const float score = piece.user_defined ? UserDefinedScore(end - begin) : piece.score;
      Offer(best[end], score + base, piece.id, begin);
      frontier = std::max(frontier, end);
      covered = covered || end - begin == character;
    }
    if (!covered) {
      Offer(best[begin + character], unknown_score_ + base, kUnknown, begin);
      frontier = std::max(frontier, begin + character);
    }
    begin += character;
  }
  std::vector<Segment> segments;
  for (std::size_t end = size; end > 0;) {
    const auto begin = static_cast<std::size_t>(best[end].begin);
    segments.push_back({normalized.substr(begin, end - begin), best[end].id});
    end = begin;
  }
  std::reverse(segments.begin(), segments.end());
  return segments;
}

}  // namespace siglip
