#include "text/piece_model.h"

#include <exception>

#include <sentencepiece_processor.h>

namespace siglip {
namespace {

class SentencePieceModel final : public PieceModel {
 public:
  sentencepiece::SentencePieceProcessor& processor() { return processor_; }

  bool EncodeAsPieces(std::string_view text, std::vector<std::string>& pieces,
                      std::string& error) const override {
    const auto status = processor_.Encode(text, &pieces);
    if (!status.ok()) error = status.ToString();
    return status.ok();
  }
  int PieceToId(std::string_view piece) const override { return processor_.PieceToId(piece); }
  std::string IdToPiece(int id) const override { return processor_.IdToPiece(id); }
  int num_pieces() const override { return processor_.GetPieceSize(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<PieceModel> PieceModel::Load(std::string_view bytes, std::string& error) {
  auto model = std::make_unique<SentencePieceModel>();
  try {
    const auto status = model->processor().LoadFromSerializedProto(bytes);
    if (status.ok()) return model;
    error = status.ToString();
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  return nullptr;
}

}  // namespace siglip
