#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
  TensorDtype dtype;
  const char* name;
  std::size_t size_bytes;
};

constexpr std::array<DtypeInfo, 15> kDtypes = {{{TensorDtype::kBool, "BOOL", 1},
                                                {TensorDtype::kU8, "U8", 1},
                                                {TensorDtype::kI8, "I8", 1},
                                                {TensorDtype::kI16, "I16", 2},
                                                {TensorDtype::kU16, "U16", 2},
                                                {TensorDtype::kF16, "F16", 2},
                                                {TensorDtype::kBF16, "BF16", 2},
                                                {TensorDtype::kI32, "I32", 4},
                                                {TensorDtype::kU32, "U32", 4},
                                                {TensorDtype::kF32, "F32", 4},
                                                {TensorDtype::kF64, "F64", 8},
                                                {TensorDtype::kI64, "I64", 8},
                                                {TensorDtype::kU64, "U64", 8},
                                                {TensorDtype::kF8E4M3, "F8_E4M3", 1},
                                                {TensorDtype::kF8E5M2, "F8_E5M2", 1}}};

const DtypeInfo& InfoOf(TensorDtype dtype) {
  return *std::find_if(kDtypes.begin(), kDtypes.end(),
                       [&](const DtypeInfo& info) { return info.dtype == dtype; });
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
  const auto* info = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeInfo& known) {
    return dtype->get_ref<const std::string&>() == known.name;
  });
  if (info == kDtypes.end()) {
    return bad(absl::StrCat("unknown dtype ", dtype->get_ref<const std::string&>()));
  }
  Entry entry{.name = name, .tensor = {.dtype = info->dtype, .shape = {}, .bytes = {}}};
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
    return bad(
        absl::StrCat("data_offsets ", offsets->dump(), ": expected begin <= end <= ", data_bytes));
  }
  const auto count = ElementCount(entry.tensor.shape);
  const auto bytes =
      count ? CheckedMul<std::uint64_t>(static_cast<std::uint64_t>(*count), info->size_bytes)
            : std::nullopt;
  if (!bytes || *bytes != *end - *begin) {
    return bad(absl::StrCat("shape [", absl::StrJoin(entry.tensor.shape, ","), "] of ", info->name,
                            " needs ", bytes ? absl::StrCat(*bytes) : std::string("too many"),
                            " bytes, data_offsets give ", *end - *begin));
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

const char* DtypeName(TensorDtype dtype) { return InfoOf(dtype).name; }
std::size_t DtypeSizeBytes(TensorDtype dtype) { return InfoOf(dtype).size_bytes; }

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
                                  " are read"));
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
