#pragma once

// The text rules that SiglipTokenizer applies before SentencePiece, with Python's own tables.

#include <string>
#include <string_view>

namespace siglip {

// Python's str.lower(): full Unicode, the final-sigma rule, U+0130 becoming two code points.
std::u32string LowerCase(std::u32string_view text);

// Each code point on its own, by the newer Unicode of the tokenizers library: no final sigma.
// U+0130 becomes two code points.
std::u32string LowerCaseByCodePoint(std::u32string_view text);

// What Python's str.isspace and \s call white space.
bool IsWhiteSpace(char32_t c);

// Lower case if asked, the 32 ASCII punctuation signs deleted, white space runs to one space, both
// ends stripped. Source: transformers 5.23.0 models/siglip/tokenization_siglip.py,
// canonicalize_text.
std::u32string Canonicalize(std::u32string_view text, bool lower_case);

}  // namespace siglip
