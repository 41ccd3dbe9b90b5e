#pragma once

// The SentencePiece library behind plain types: its header declares a namespace `absl` of its own,
// so it cannot be included together with Abseil's.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace siglip {

// Thread-safe once loaded.
class PieceModel {
 public:
  virtual ~PieceModel() = default;

  // What the library does not tell of a model.
  struct Facts {
    bool unigram = true;                        // else BPE, words or characters
    bool has_byte_pieces = false;               // what is unknown becomes these
    std::vector<std::size_t> user_defined_ids;  // in order
  };

  struct Piece {
    std::string text;
    bool unknown = false;  // all that is unknown together
  };

  // `bytes` is the content of a .model file that CheckPieceModel has passed and told the facts of.
  // Null with `error` set if it is none.
  static std::unique_ptr<PieceModel> Load(std::string_view bytes, const Facts& facts,
                                          std::string& error);

  // In time proportional to the text. False with `error` set if the library refuses: 0.1.97 does a
  // text that has a control symbol of a BPE, word or character model.
  virtual bool Encode(std::string_view text, std::vector<Piece>& pieces,
                      std::string& error) const = 0;
  // The id of <unk> if there is no such piece.
  virtual int PieceToId(std::string_view piece) const = 0;
  virtual std::string IdToPiece(int id) const = 0;
  virtual int num_pieces() const = 0;
};

}  // namespace siglip
