#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "checkpoint/json.h"

namespace siglip {
namespace {

using nlohmann::json;

// The reference implementation allows 100 MB. The header of the largest SigLIP has about 900
// tensors and 100 kB; 16 MiB bounds the time that a hostile one takes.
constexpr std::uint64_t kMaxHeaderBytes = 16 << 20;
constexpr std::size_t kLengthBytes = 8;

struct DtypeInfo {
  const char* name;
  std::uint64_t bits;
  TensorDtype dtype = TensorDtype::kOther;
};

// All that the reference implementation knows (0.8, its own order). A later one's are read too, as
// far as no weight of ours has them; how long their data must be cannot be checked then.
constexpr DtypeInfo kDtypes[] = {{"BOOL", 8},
                                 {"F4", 4},
                                 {"F6_E2M3", 6},
                                 {"F6_E3M2", 6},
                                 {"U8", 8},
                                 {"I8", 8},
                                 {"F8_E5M2", 8},
                                 {"F8_E4M3", 8},
                                 {"F8_E8M0", 8},
                                 {"F8_E4M3FNUZ", 8},
                                 {"F8_E5M2FNUZ", 8},
                                 {"I16", 16},
                                 {"U16", 16},
                                 {"F16", 16, TensorDtype::kF16},
                                 {"BF16", 16, TensorDtype::kBF16},
                                 {"I32", 32},
                                 {"U32", 32},
                                 {"F32", 32, TensorDtype::kF32},
                                 {"C64", 64},
                                 {"F64", 64},
                                 {"I64", 64},
                                 {"U64", 64}};

// Null: unknown.
const DtypeInfo* FindDtype(const std::string& name) {
  const auto* const found =
      std::find_if(std::begin(kDtypes), std::end(kDtypes),
                   [&](const DtypeInfo& known) { return name == known.name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

absl::Status Bad(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::string(what)));
}

// A non-negative integer; floats and negative numbers are not.
std::optional<std::uint64_t> AsUnsigned(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  return value.get<std::uint64_t>();
}

struct Entry {
  std::string name;
  StoredTensor tensor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// `bad` makes the error of what it is told.
template <class Bad>
absl::Status CheckLength(const std::vector<std::int64_t>& shape, const DtypeInfo& info,
                         std::uint64_t bytes, const Bad& bad) {
  const auto count = ElementCount(shape);
  const auto bits = count ? CheckedMul<std::uint64_t>(static_cast<std::uint64_t>(*count), info.bits)
                          : std::nullopt;
  if (bits && *bits % 8 == 0 && *bits / 8 == bytes) return absl::OkStatus();
  const std::string needed = !bits            ? "too many"
                             : *bits % 8 == 0 ? absl::StrCat(*bits / 8)
                                              : absl::StrCat(static_cast<double>(*bits) / 8);
  return bad(absl::StrCat("shape [", absl::StrJoin(shape, ","), "] of ", info.name, " needs ",
                          needed, " bytes, data_offsets give ", bytes));
}

absl::StatusOr<Entry> ParseEntry(const std::string& path, const std::string& name,
                                 const json& value, std::uint64_t data_bytes) {
  const auto bad = [&](std::string_view what) {
    return Bad(path, absl::StrCat("tensor \"", name, "\": ", std::string(what)));
  };
  if (!value.is_object()) return bad("expected an object");
  for (const auto& [key, unused] : value.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return bad(absl::StrCat("unknown key \"", key, "\""));
    }
  }
  const auto dtype = value.find("dtype");
  if (dtype == value.end() || !dtype->is_string()) return bad("expected a \"dtype\" string");
  Entry entry{.name = name,
              .tensor = {.dtype = TensorDtype::kOther,
                         .dtype_name = dtype->get<std::string>(),
                         .shape = {},
                         .bytes = {}}};
  const DtypeInfo* const info = FindDtype(entry.tensor.dtype_name);
  if (info != nullptr) entry.tensor.dtype = info->dtype;
  const auto shape = value.find("shape");
  if (shape == value.end() || !shape->is_array()) return bad("expected a \"shape\" array");
  for (const json& dim : *shape) {
    const auto size = AsUnsigned(dim);
    if (!size || *size > INT64_MAX) return bad("shape: expected non-negative integers");
    entry.tensor.shape.push_back(static_cast<std::int64_t>(*size));
  }
  const auto offsets = value.find("data_offsets");
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2) {
    return bad("expected \"data_offsets\" of two integers");
  }
  const auto begin = AsUnsigned((*offsets)[0]), end = AsUnsigned((*offsets)[1]);
  if (!begin || !end || *begin > *end || *end > data_bytes) {
    return bad(absl::StrCat("data_offsets ", offsets->dump(), ": expected begin <= end <= ",
                            data_bytes, end && *end > data_bytes ? " (truncated?)" : ""));
  }
  if (info != nullptr) {
    SIGLIP_RETURN_IF_ERROR(CheckLength(entry.tensor.shape, *info, *end - *begin, bad));
  }
  entry.begin = *begin;
  entry.end = *end;
  return entry;
}

absl::StatusOr<std::map<std::string, std::string>> ParseMetadata(const std::string& path,
                                                                 const json& value) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) return Bad(path, "__metadata__: expected an object of strings");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      return Bad(path, absl::StrCat("__metadata__.", key, ": expected a string"));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// The data must be covered from 0 to its end, without holes or overlaps.
absl::Status CheckCoverage(const std::string& path, std::vector<Entry>& entries,
                           std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::uint64_t expected = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != expected) {
      return Bad(path, absl::StrCat("tensor \"", entry.name, "\": data begins at ", entry.begin,
                                    ", expected ", expected, " (a hole or an overlap)"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    return Bad(path,
               absl::StrCat("holds ", data_bytes, " bytes of data, the tensors cover ", expected));
  }
  return absl::OkStatus();
}

}  // namespace

std::size_t DtypeSizeBytes(TensorDtype dtype) {
  SIGLIP_CHECK(dtype != TensorDtype::kOther);
  return dtype == TensorDtype::kF32 ? 4 : 2;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile result;
  SIGLIP_ASSIGN_OR_RETURN(result.file_, FileMap::Open(path));
  const std::span<const std::byte> bytes = result.file_.bytes();
  if (bytes.size() < kLengthBytes) {
    return Bad(path,
               absl::StrCat("expected at least ", kLengthBytes, " bytes, got ", bytes.size()));
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return Bad(path, absl::StrCat("header of ", header_bytes, " bytes: at most ", kMaxHeaderBytes,
                                  " are read (no safetensors file?)"));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return Bad(path, absl::StrCat("header of ", header_bytes, " bytes in a file of ", bytes.size(),
                                  " (truncated?)"));
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes,
                              header_bytes);
  if (!text.starts_with('{')) return Bad(path, "header: expected a JSON object");
  SIGLIP_ASSIGN_OR_RETURN(const json header, ParseStrictJson(text, absl::StrCat(path, ": header")));
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + header_bytes);

  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      SIGLIP_ASSIGN_OR_RETURN(result.metadata_, ParseMetadata(path, value));
      continue;
    }
    SIGLIP_ASSIGN_OR_RETURN(Entry entry, ParseEntry(path, name, value, data.size()));
    entries.push_back(std::move(entry));
  }
  SIGLIP_RETURN_IF_ERROR(CheckCoverage(path, entries, data.size()));
  for (Entry& entry : entries) {
    entry.tensor.bytes = data.subspan(entry.begin, entry.end - entry.begin);
    result.tensors_.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  return result;
}

}  // namespace siglip
