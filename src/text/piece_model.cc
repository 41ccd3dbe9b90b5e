#include "text/piece_model.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <limits>
#include <optional>

#include <sentencepiece_processor.h>

#include "text/unigram_segmenter.h"

namespace siglip {
namespace {

class SentencePieceModel final : public PieceModel {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }

  bool EncodeAsPieces(std::string_view text, std::vector<std::string>& pieces,
                      std::string& error) const override {
    const auto status = processor_.Encode(text, &pieces);
    if (!status.ok()) error = status.ToString();
    if (status.ok() && segmenter_) pieces = Segmented(Normalized(pieces));
    return status.ok();
  }
  int PieceToId(std::string_view piece) const override { return processor_.PieceToId(piece); }
  std::string IdToPiece(int id) const override { return processor_.IdToPiece(id); }
  int num_pieces() const override { return processor_.GetPieceSize(); }

  void MakeSegmenter(const Facts& facts) {
    std::vector<UnigramSegmenter::Piece> pieces;
    float worst = std::numeric_limits<float>::max();
    for (int id = 0; id < num_pieces(); ++id) {
      if (processor_.IsUnknown(id) || processor_.IsControl(id) || processor_.IsByte(id)) continue;
      if (processor_.IsUnused(id)) continue;
      const bool user_defined =
          std::binary_search(facts.user_defined_ids.begin(), facts.user_defined_ids.end(),
                             static_cast<std::size_t>(id));
      const float score = processor_.GetScore(id);
      if (!user_defined) worst = std::min(worst, score);
      pieces.push_back({IdToPiece(id), id, score, user_defined});
    }
    has_bytes_ = processor_.IsByte(processor_.PieceToId("<0x00>"));
    segmenter_.emplace(std::move(pieces), worst);
  }

 private:
  // The library normalizes, and tells it by pieces alone. Those of bytes stand for one each.
  std::string Normalized(const std::vector<std::string>& pieces) const {
    std::string text;
    for (const std::string& piece : pieces) {
      unsigned byte = 0;
      if (has_bytes_ && processor_.IsByte(processor_.PieceToId(piece)) &&
          std::sscanf(piece.c_str(), "<0x%02X>", &byte) == 1) {
        text += static_cast<char>(byte);
      } else {
        text += piece;
      }
    }
    return text;
  }

  // What no piece covers becomes bytes, if the model has them, else a piece for all that is
  // together.
  std::vector<std::string> Segmented(const std::string& normalized) const {
    std::vector<std::string> pieces;
    bool after_unknown = false;
    for (const UnigramSegmenter::Segment& segment : segmenter_->Encode(normalized)) {
      const bool unknown = segment.id == UnigramSegmenter::kUnknown;
      if (unknown && has_bytes_) {
        for (const char c : segment.text) {
          char piece[sizeof "<0x00>"];
          std::snprintf(piece, sizeof piece, "<0x%02X>", static_cast<unsigned char>(c));
          pieces.emplace_back(piece);
        }
      } else if (unknown && after_unknown) {
        pieces.back() += segment.text;
      } else {
        pieces.emplace_back(segment.text);
      }
      after_unknown = unknown;
    }
    return pieces;
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::optional<UnigramSegmenter> segmenter_;  // of a unigram model
  bool has_bytes_ = false;
};

}  // namespace

std::unique_ptr<PieceModel> PieceModel::Load(std::string_view bytes, const Facts& facts,
                                             std::string& error) {
  auto model = std::make_unique<SentencePieceModel>();
  try {
    const auto status = model->processor().LoadFromSerializedProto(bytes);
    if (status.ok()) {
      if (facts.unigram) model->MakeSegmenter(facts);
      return model;
    }
    error = status.ToString();
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  return nullptr;
}

}  // namespace siglip
