#pragma once

// What libsentencepiece takes on trust in a model file: it reads and jumps to where the file says,
// and recurses as deep as a piece is long. Checked before the library gets the file.

#include <string_view>

#include "absl/status/status.h"
#include "text/piece_model.h"

namespace siglip {

// InvalidArgument names the place in `model`, the content of a .model file (a ModelProto of
// sentencepiece_model.proto), and what was expected there. OK is no promise that the library takes
// it.
absl::Status CheckPieceModel(std::string_view model);

// REQUIRES: CheckPieceModel(model) is OK.
PieceModel::Facts FactsOfPieceModel(std::string_view model);

}  // namespace siglip
