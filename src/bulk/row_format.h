#pragma once

// How rows of embeddings are written: .npy, .jsonl, and the JSON both name rows with.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "bulk/item_source.h"

namespace siglip::bulk {

enum class DType { kFloat32, kFloat16 };

inline constexpr std::uint64_t kNpyHeaderBytes = 128;

// The head of a .npy file of version 1.0, C order, [rows, columns]: kNpyHeaderBytes long for every
// number of rows.
std::string NpyHeader(DType dtype, std::uint64_t rows, std::uint64_t columns);

// Appends the row's little-endian numbers, rounded to nearest even.
void AppendNpyRow(DType dtype, std::span<const float> row, std::string& out);

// Appends {"image"|"text": name, "embedding": [...]} and a line feed; float16 numbers are rounded
// to such, and written as the float32 that is equal.
void AppendJsonRow(DType dtype, Item::Kind kind, std::string_view name, std::span<const float> row,
                   std::string& out);

// `text` as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);

// {"name": ..., "error": ...} and a line feed: how failed items are listed.
std::string FailureLine(std::string_view name, std::string_view error);

// The shortest decimal that reads back as the same float; "null" if it is not finite.
void AppendJsonFloat(float value, std::string& out);

}  // namespace siglip::bulk
