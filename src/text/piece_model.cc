#include "text/piece_model.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <limits>
#include <optional>
#include <utility>

#include <sentencepiece_processor.h>

#include "text/unigram_segmenter.h"

namespace siglip {
namespace {

constexpr int kBytes = 256;
constexpr std::size_t kBytePieceSize = 6;  // "<0x00>"

std::string BytePiece(int byte) {
  std::array<char, kBytePieceSize + 1> piece{};
  std::snprintf(piece.data(), piece.size(), "<0x%02X>", static_cast<unsigned>(byte));
  return {piece.data(), kBytePieceSize};
}

// `model`, with a piece for each byte behind its own. The library puts what is unknown together in
// time that is quadratic in its length; as bytes it takes as long as other text.
// Fields of sentencepiece_model.proto that come again are added, or take the place of the first.
std::string WithBytePieces(std::string_view model) {
  std::string longer(model);
  for (int byte = 0; byte < kBytes; ++byte) {
    // pieces: {piece: "<0x00>", type: BYTE}
    longer += "\x0a\x0a\x0a\x06" + BytePiece(byte) + "\x18\x06";
  }
  longer += std::string_view("\x12\x03\x98\x02\x01", 5);  // trainer_spec: {byte_fallback: true}
  return longer;
}

class SentencePieceModel final : public PieceModel {
 public:
  bool Open(std::string_view bytes, const Facts& facts, std::string& error) {
    has_byte_pieces_ = facts.has_byte_pieces;
    const auto status =
        processor_.LoadFromSerializedProto(has_byte_pieces_ ? bytes : WithBytePieces(bytes));
    if (!status.ok()) {
      error = status.ToString();
      return false;
    }
    num_pieces_ = processor_.GetPieceSize() - (has_byte_pieces_ ? 0 : kBytes);
    byte_of_id_.resize(static_cast<std::size_t>(processor_.GetPieceSize()), -1);
    for (int byte = 0; byte < kBytes; ++byte) {
      const int id = processor_.PieceToId(BytePiece(byte));
      if (processor_.IsByte(id)) byte_of_id_[static_cast<std::size_t>(id)] = byte;
    }
    if (facts.unigram) MakeSegmenter(facts);
    return true;
  }

  bool Encode(std::string_view text, std::vector<Piece>& pieces,
              std::string& error) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    if (!status.ok()) {
      error = status.ToString();
      return false;
    }
    pieces = segmenter_ ? Segmented(Normalized(ids)) : Grouped(ids);
    return true;
  }
  int PieceToId(std::string_view piece) const override {
    const int id = processor_.PieceToId(piece);
    return id < num_pieces_ ? id : processor_.unk_id();
  }
  std::string IdToPiece(int id) const override { return processor_.IdToPiece(id); }
  int num_pieces() const override { return num_pieces_; }

 private:
  int ByteOfId(int id) const { return byte_of_id_[static_cast<std::size_t>(id)]; }

  void MakeSegmenter(const Facts& facts) {
    std::vector<UnigramSegmenter::Piece> pieces;
    float worst = std::numeric_limits<float>::max();
    for (int id = 0; id < num_pieces_; ++id) {
      if (processor_.IsUnknown(id) || processor_.IsControl(id) || processor_.IsByte(id)) continue;
      if (processor_.IsUnused(id)) continue;
      const bool user_defined =
          std::binary_search(facts.user_defined_ids.begin(), facts.user_defined_ids.end(),
                             static_cast<std::size_t>(id));
      const float score = processor_.GetScore(id);
      if (!user_defined) worst = std::min(worst, score);
      pieces.push_back({IdToPiece(id), id, score, user_defined});
    }
    segmenter_.emplace(std::move(pieces), worst);
  }

  // The library normalizes, and tells it by pieces alone.
  std::string Normalized(const std::vector<int>& ids) const {
    std::string text;
    for (const int id : ids) {
      const int byte = ByteOfId(id);
      if (byte >= 0) {
        text += static_cast<char>(byte);
      } else {
        text += processor_.IdToPiece(id);
      }
    }
    return text;
  }

  // All that is unknown together is a piece, or, if the model has them, a piece for each byte.
  void AddUnknown(std::string_view text, std::vector<Piece>& pieces) const {
    if (has_byte_pieces_) {
      for (const char c : text) pieces.push_back({BytePiece(static_cast<unsigned char>(c)), false});
    } else if (!pieces.empty() && pieces.back().unknown) {
      pieces.back().text += text;
    } else {
      pieces.push_back({std::string(text), true});
    }
  }

  std::vector<Piece> Segmented(const std::string& normalized) const {
    std::vector<Piece> pieces;
    for (const UnigramSegmenter::Segment& segment : segmenter_->Encode(normalized)) {
      if (segment.id == UnigramSegmenter::kUnknown) {
        AddUnknown(segment.text, pieces);
      } else {
        pieces.push_back({std::string(segment.text), false});
      }
    }
    return pieces;
  }

  std::vector<Piece> Grouped(const std::vector<int>& ids) const {
    std::vector<Piece> pieces;
    for (const int id : ids) {
      const int byte = ByteOfId(id);
      if (byte >= 0) {
        const char c = static_cast<char>(byte);
        AddUnknown({&c, 1}, pieces);
      } else {
        pieces.push_back({processor_.IdToPiece(id), false});
      }
    }
    return pieces;
  }

  sentencepiece::SentencePieceProcessor processor_;
  int num_pieces_ = 0;                         // the model's own
  bool has_byte_pieces_ = false;               // of its own
  std::vector<int> byte_of_id_;                // -1: not of a byte
  std::optional<UnigramSegmenter> segmenter_;  // of a unigram model
};

}  // namespace

std::unique_ptr<PieceModel> PieceModel::Load(std::string_view bytes, const Facts& facts,
                                             std::string& error) {
  auto model = std::make_unique<SentencePieceModel>();
  try {
    if (model->Open(bytes, facts, error)) return model;
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  return nullptr;
}

}  // namespace siglip
