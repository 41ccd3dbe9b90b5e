#include "text/piece_model_check.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// The library builds its trie with a recursion for each byte of a piece. Trainers make pieces of at
// most 16 characters if not told otherwise; Gemma's longest, spaces, has 93 bytes.
constexpr std::size_t kMaxPieceBytes = 1024;
// NormalizePrefix and PrefixMatch keep so many matches that begin at one place in an array on the
// stack, and read as many as were found. Source: sentencepiece 0.1.97 src/normalizer.cc.
constexpr std::size_t kMaxRuleMatches = 32;
constexpr std::size_t kMaxSymbolMatches = 64;
// nmt_nfkc_cf's map has 0.3 MB.
constexpr std::size_t kMaxCharsMapBytes = 16 << 20;
// Bounds what a byte of a text costs and becomes. NFKC's longest: U+FDFA becomes 33 bytes, and keys
// have four code points at most.
constexpr std::size_t kMaxRuleKeyBytes = 256;
constexpr std::size_t kMaxReplacementBytes = 256;

absl::Status Bad(const std::string& place, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat(place, ": expected ", expected));
}

// A field of a protobuf message.
struct ProtoField {
  std::uint64_t number = 0;
  std::uint64_t value = 0;                // of a varint
  std::optional<std::string_view> bytes;  // of a length and as many bytes
};

// Takes a varint off the front of `text`. Nothing if it is cut short or has more than 64 bits.
std::optional<std::uint64_t> TakeVarint(std::string_view& text) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(text.size(), 10); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (i == 9 && byte > 1) return std::nullopt;
    value |= static_cast<std::uint64_t>(byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      text.remove_prefix(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

// Takes a field off the front. Groups, which no model has, are taken for damage.
std::optional<ProtoField> TakeField(std::string_view& text) {
  const std::optional<std::uint64_t> tag = TakeVarint(text);
  if (!tag || *tag >> 32 != 0 || *tag >> 3 == 0) return std::nullopt;
  ProtoField field;
  field.number = *tag >> 3;
  std::size_t size = 0;
  switch (*tag & 7) {
    case 0: {
      const std::optional<std::uint64_t> value = TakeVarint(text);
      if (!value) return std::nullopt;
      field.value = *value;
      return field;
    }
    case 1:
      size = 8;
      break;
    case 5:
      size = 4;
      break;
    case 2: {
      const std::optional<std::uint64_t> length = TakeVarint(text);
      if (!length || *length > text.size()) return std::nullopt;
      size = *length;
      field.bytes = text.substr(0, size);
      break;
    }
    default:
      return std::nullopt;
  }
  if (size > text.size()) return std::nullopt;
  text.remove_prefix(size);
  return field;
}

// Calls visit(field) for each. The library may read a field that is there twice in either way, so
// each is checked.
template <class Visit>
absl::Status ForEachField(std::string_view message, const std::string& place, const Visit& visit) {
  while (!message.empty()) {
    const std::optional<ProtoField> field = TakeField(message);
    if (!field) return Bad(place, "a protobuf message, got one that is damaged or cut short");
    SIGLIP_RETURN_IF_ERROR(visit(*field));
  }
  return absl::OkStatus();
}

// A trie as Darts-clone stores it: an array of units, little-endian. Unit p has children at base ^
// byte, where base = p ^ offset(p), if the label there is the byte; the value of its own key, if it
// has one, is in the unit at base. Source: darts.h 0.32, commonPrefixSearch.
class RuleTrie {
 public:
  RuleTrie(std::string_view units, std::string_view replacements, std::string place)
      : units_(units), replacements_(replacements), place_(std::move(place)) {}

  // Every unit that can be reached lies in the array, and every value in the replacements; no key
  // comes back to where it has been, is too long, or has too many others as prefixes.
  absl::Status Check() {
    summaries_.resize(units_.size() / kUnitBytes);
    SIGLIP_RETURN_IF_ERROR(Enter(0));
    while (!path_.empty()) SIGLIP_RETURN_IF_ERROR(Step());
    const Summary& root = summaries_[0];
    if (root.longest > kMaxRuleKeyBytes) {
      return Bad(place_, absl::StrCat("keys of at most ", kMaxRuleKeyBytes, " bytes"));
    }
    if (root.matches > kMaxRuleMatches) {
      return Bad(place_, absl::StrCat("at most ", kMaxRuleMatches, " keys that begin alike"));
    }
    return absl::OkStatus();
  }

 private:
  static constexpr std::size_t kUnitBytes = 4;
  static constexpr std::uint32_t kLeaf = 1u << 31;

  enum class State : std::uint8_t { kNew, kOpen, kDone };
  // Of what can be reached from a unit.
  struct Summary {
    State state = State::kNew;
    std::uint32_t longest = 0;  // bytes of the longest key from here
    std::uint32_t matches = 0;  // most keys that end on one way, at this unit too
  };
  struct OnPath {
    std::uint32_t unit;
    std::uint32_t base;
    std::uint32_t next_byte;
  };

  std::uint32_t Unit(std::size_t i) const {
    const std::string_view bytes = units_.substr(i * kUnitBytes, kUnitBytes);
    std::uint32_t unit = 0;
    for (std::size_t k = kUnitBytes; k-- > 0;) {
      unit = unit << 8 | static_cast<unsigned char>(bytes[k]);
    }
    return unit;
  }

  static bool EndsKey(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }

  absl::Status Enter(std::uint32_t i) {
    const std::uint32_t unit = Unit(i);
    const std::uint32_t base = i ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
    // The library looks at base ^ byte for any byte.
    if ((base | 0xffu) >= summaries_.size()) {
      return Bad(place_, absl::StrCat("unit ", i, " to point into the ", summaries_.size(),
                                      " units, got ", base));
    }
    Summary& summary = summaries_[i];
    summary.state = State::kOpen;
    if (EndsKey(unit)) {
      SIGLIP_RETURN_IF_ERROR(CheckValue(Unit(base) & ~kLeaf));
      summary.matches = 1;
    }
    path_.push_back({i, base, 0});
    return absl::OkStatus();
  }

  absl::Status CheckValue(std::size_t value) const {
    const std::string_view replacement =
        replacements_.substr(std::min(value, replacements_.size()), kMaxReplacementBytes + 1);
    if (replacement.find('\0') != std::string_view::npos) return absl::OkStatus();
    return Bad(place_, absl::StrCat("a replacement of at most ", kMaxReplacementBytes,
                                    " bytes and a zero at ", value, " of ", replacements_.size()));
  }

  // One byte further in the unit at the path's end, or back from it.
  absl::Status Step() {
    OnPath& end = path_.back();
    if (end.next_byte < 256) {
      const std::uint32_t byte = end.next_byte++;
      const std::uint32_t child = end.base ^ byte;
      if ((Unit(child) & (kLeaf | 0xffu)) != byte) return absl::OkStatus();
      if (summaries_[child].state == State::kNew) return Enter(child);
      if (summaries_[child].state == State::kOpen) return Bad(place_, "no key without an end");
      AddChild(summaries_[child], end.unit);
      return absl::OkStatus();
    }
    Summary& done = summaries_[end.unit];
    done.state = State::kDone;
    path_.pop_back();
    if (!path_.empty()) AddChild(done, path_.back().unit);
    return absl::OkStatus();
  }

  void AddChild(const Summary& child, std::uint32_t unit) {
    Summary& parent = summaries_[unit];
    parent.longest = std::max(parent.longest, child.longest + 1);
    parent.matches = std::max(parent.matches, child.matches + (EndsKey(Unit(unit)) ? 1u : 0u));
  }

  const std::string_view units_;
  const std::string_view replacements_;
  const std::string place_;
  std::vector<Summary> summaries_;  // of each unit
  std::vector<OnPath> path_;
};

// The size of a trie in four bytes, the trie, and the replacements, each with a zero behind it.
absl::Status CheckCharsMap(std::string_view map, const std::string& place) {
  if (map.empty()) return absl::OkStatus();
  if (map.size() > kMaxCharsMapBytes) {
    return Bad(place, absl::StrCat("at most ", kMaxCharsMapBytes, " bytes, got ", map.size()));
  }
  std::size_t trie_bytes = 0;
  for (std::size_t i = std::min<std::size_t>(map.size(), 4); i-- > 0;) {
    trie_bytes = trie_bytes << 8 | static_cast<unsigned char>(map[i]);
  }
  if (map.size() < 4 || trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > map.size() - 4) {
    return Bad(place, absl::StrCat("a trie of whole units in ", map.size(), " bytes, got ",
                                   trie_bytes, " bytes"));
  }
  return RuleTrie(map.substr(4, trie_bytes), map.substr(4 + trie_bytes), place).Check();
}

absl::Status CheckNormalizerSpec(std::string_view spec, const std::string& place) {
  constexpr std::uint64_t kPrecompiledCharsMap = 2;
  return ForEachField(spec, place, [&](const ProtoField& field) {
    return field.number == kPrecompiledCharsMap && field.bytes
               ? CheckCharsMap(*field.bytes, place + ".precompiled_charsmap")
               : absl::OkStatus();
  });
}

// Of ModelProto and its messages.
constexpr std::uint64_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3, kDenormalizerSpec = 5;
constexpr std::uint64_t kContent = 1, kType = 3;
constexpr std::uint32_t kUserDefined = 4, kByte = 6;
constexpr std::uint64_t kModelType = 3, kByteFallback = 35;
constexpr std::uint32_t kUnigram = 1;

// Adds the piece to `symbols` if it is user-defined.
absl::Status CheckPiece(std::string_view piece, const std::string& place,
                        std::vector<std::string_view>& symbols) {
  std::string_view content;
  bool user_defined = false;
  SIGLIP_RETURN_IF_ERROR(ForEachField(piece, place, [&](const ProtoField& field) {
    // An enum has 32 bits to the library.
    if (field.number == kType && static_cast<std::uint32_t>(field.value) == kUserDefined) {
      user_defined = true;
    }
    if (field.number != kContent || !field.bytes) return absl::OkStatus();
    content = *field.bytes;
    if (content.size() > kMaxPieceBytes) {
      return Bad(place, absl::StrCat("at most ", kMaxPieceBytes, " bytes, got ", content.size()));
    }
    // To the library it would end there, sometimes.
    if (content.find('\0') != std::string_view::npos) return Bad(place, "no U+0000");
    return absl::OkStatus();
  }));
  if (user_defined) symbols.push_back(content);
  return absl::OkStatus();
}

// That at most kMaxSymbolMatches of them begin at one place of a text.
absl::Status CheckSymbols(std::vector<std::string_view> symbols) {
  std::sort(symbols.begin(), symbols.end());
  std::vector<std::string_view> prefixes;  // of the symbol, and itself; each begins with the former
  for (const std::string_view symbol : symbols) {
    while (!prefixes.empty() && symbol.substr(0, prefixes.back().size()) != prefixes.back()) {
      prefixes.pop_back();
    }
    prefixes.push_back(symbol);
    if (prefixes.size() > kMaxSymbolMatches) {
      return Bad("pieces", absl::StrCat("at most ", kMaxSymbolMatches,
                                        " user-defined symbols that begin alike"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPieceModel(std::string_view model) {
  std::size_t num_pieces = 0;
  std::vector<std::string_view> symbols;
  SIGLIP_RETURN_IF_ERROR(ForEachField(model, "model", [&](const ProtoField& field) {
    if (!field.bytes) return absl::OkStatus();
    switch (field.number) {
      case kPieces:
        return CheckPiece(*field.bytes, absl::StrCat("pieces[", num_pieces++, "]"), symbols);
      case kNormalizerSpec:
        return CheckNormalizerSpec(*field.bytes, "normalizer_spec");
      case kDenormalizerSpec:
        return CheckNormalizerSpec(*field.bytes, "denormalizer_spec");
      default:
        return absl::OkStatus();
    }
  }));
  return CheckSymbols(std::move(symbols));
}

PieceModel::Facts FactsOfPieceModel(std::string_view model) {
  PieceModel::Facts facts;
  std::size_t num_pieces = 0;
  // Of an enum that is there twice the last counts.
  const auto read = [](std::string_view message, std::uint64_t number, std::uint32_t& value) {
    ForEachField(message, "", [&](const ProtoField& field) {
      if (field.number == number && !field.bytes) value = static_cast<std::uint32_t>(field.value);
      return absl::OkStatus();
    }).IgnoreError();
  };
  std::uint32_t model_type = kUnigram, byte_fallback = 0;
  ForEachField(model, "", [&](const ProtoField& field) {
    if (!field.bytes) return absl::OkStatus();
    if (field.number == kTrainerSpec) {
      read(*field.bytes, kModelType, model_type);
      read(*field.bytes, kByteFallback, byte_fallback);
    }
    if (field.number == kPieces) {
      std::uint32_t type = 0;
      read(*field.bytes, kType, type);
      if (type == kUserDefined) facts.user_defined_ids.push_back(num_pieces);
      if (type == kByte) facts.has_byte_pieces = true;
      ++num_pieces;
    }
    return absl::OkStatus();
  }).IgnoreError();
  facts.unigram = model_type == kUnigram;
  facts.has_byte_pieces = facts.has_byte_pieces || byte_fallback != 0;
  return facts;
}

}  // namespace siglip
