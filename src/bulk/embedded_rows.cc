#include "bulk/embedded_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "bulk/half.h"

namespace siglip::bulk {
namespace {

namespace fs = std::filesystem;

// A few hundred bytes; this only bounds a wrong file.
constexpr std::uint64_t kMaxMetaBytes = 1 << 20;
// A hundred million names; likewise.
constexpr std::uint64_t kMaxNamesBytes = std::uint64_t{1} << 34;

// What OUTPUT.meta.json says of its rows.
struct Meta {
  DType dtype = DType::kFloat32;
  std::int64_t width = 0;
  std::int64_t images = 0;
  std::int64_t texts = 0;
  std::string checkpoint;
  std::string names_sha256;  // of the file of names; "": not told by earlier versions
  PixelSettings pixels;
};

// What lies beside `npy`, or else beside the file behind it.
std::string Beside(const std::string& npy, const char* end) {
  std::error_code error;
  if (!fs::is_symlink(npy, error) || fs::exists(npy + end, error)) return npy + end;
  return ReplaceablePath(npy).value_or(npy) + end;
}

absl::StatusOr<Meta> ReadMeta(const std::string& npy) {
  const std::string path = Beside(npy, ".meta.json");
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxMetaBytes));
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto wrong = [&path] {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": expected what siglip embed writes: dtype, embedding_size, images, texts and "
        "checkpoint_sha256"));
  };
  if (!json.is_object()) return wrong();
  Meta meta;
  const auto number = [&json](const char* name, std::int64_t max) -> std::int64_t {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_unsigned()) return -1;
    const auto value = found->get<std::uint64_t>();
    return value > static_cast<std::uint64_t>(max) ? -1 : static_cast<std::int64_t>(value);
  };
  meta.width = number("embedding_size", 1 << 20);
  // Rows times width times four stay far below 2^63.
  meta.images = number("images", std::int64_t{1} << 38);
  meta.texts = number("texts", std::int64_t{1} << 38);
  const auto text_of = [&json](const char* name) -> const std::string* {
    const auto found = json.find(name);
    return found == json.end() ? nullptr : found->get_ptr<const std::string*>();
  };
  const std::string* const dtype = text_of("dtype");
  const std::string* const checkpoint = text_of("checkpoint_sha256");
  if (meta.width < 1 || meta.images < 0 || meta.texts < 0) return wrong();
  if (dtype == nullptr || checkpoint == nullptr) return wrong();
  if (*dtype != "float32" && *dtype != "float16") return wrong();
  meta.dtype = *dtype == "float32" ? DType::kFloat32 : DType::kFloat16;
  meta.checkpoint = *checkpoint;
  if (const auto names = json.find("names_sha256"); names != json.end()) {
    if (!names->is_string()) return wrong();
    meta.names_sha256 = names->get<std::string>();
  }
  meta.pixels = {.pillow = std::max<std::int64_t>(number("pillow", 1000), 0),
                 .max_patches = std::max<std::int64_t>(number("max_patches", 1 << 20), 0)};
  return meta;
}

// Appends the names of the pictures, the first of those beside `npy`.
absl::Status ReadNames(const std::string& npy, const Meta& meta, NameList& names) {
  const std::int64_t count = meta.images, total = meta.images + meta.texts;
  const std::string path = Beside(npy, ".names.txt");
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxNamesBytes));
  std::int64_t line = 0;
  for (std::size_t begin = 0; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    if (line < count) {
      const auto name =
          nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      if (!name.is_string()) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": line ", line + 1, ": expected a JSON string"));
      }
      names.Add(name.get_ref<const std::string&>());
    }
    begin = end + 1;
  }
  if (line != total) {
    return absl::DataLossError(
        absl::StrCat(path, ": expected ", total, " names, as many as rows, got ", line));
  }
  if (meta.names_sha256.empty() || Sha256Hex(text) == meta.names_sha256) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(path, ": expected the names that siglip embed wrote with these rows (SHA-256 ",
                   meta.names_sha256, ", as the .meta.json says), got others"));
}

std::int64_t BytesOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Little-endian numbers at any address -> out [count].
void CopyNumbers(DType dtype, const std::byte* data, std::int64_t count, float* out) {
  if (dtype == DType::kFloat32) {
    std::memcpy(out, data, static_cast<std::size_t>(count * BytesOf(dtype)));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, data + i * BytesOf(dtype), sizeof(half));
    out[i] = FloatOfHalf(half);
  }
}

// What a .npy says that it holds: "{'descr': '<f4', ...}".
std::string TextOfHead(std::span<const std::byte> npy) {
  const std::string_view head(reinterpret_cast<const char*>(npy.data()),
                              std::min(npy.size(), std::size_t{kNpyHeaderBytes}));
  const std::size_t begin = head.find('{'), end = head.find('}');
  if (!head.starts_with("\x93NUMPY") || begin > end || end == head.npos) return "no head of .npy";
  return std::string(head.substr(begin, end + 1 - begin));
}

absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (fs::directory_iterator it(path, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->path().extension() == ".npy") files.push_back(it->path().string());
  }
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  if (files.empty()) {
    return absl::NotFoundError(
        absl::StrCat(path, ": expected .npy files that siglip embed wrote, got none"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EmbeddedRows>> EmbeddedRows::Open(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> files, FilesOf(path));
  auto rows = std::make_unique<EmbeddedRows>();
  for (const std::string& file : files) SIGLIP_RETURN_IF_ERROR(rows->Add(file));
  if (rows->rows_ == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected pictures, got none"));
  }
  return rows;
}

absl::Status EmbeddedRows::Add(const std::string& path) {
  if (fs::path(path).extension() != ".npy") {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a .npy file of siglip embed, or a folder of them"));
  }
  SIGLIP_ASSIGN_OR_RETURN(FileMap map, FileMap::Open(path));
  const auto same = [&map](const Part& part) {
    return part.map.identity().device == map.identity().device &&
           part.map.identity().inode == map.identity().inode;
  };
  if (std::any_of(parts_.begin(), parts_.end(), same)) return absl::OkStatus();
  SIGLIP_ASSIGN_OR_RETURN(Meta meta, ReadMeta(path));
  const std::int64_t total = meta.images + meta.texts;
  const std::string header = NpyHeader(meta.dtype, static_cast<std::uint64_t>(total),
                                       static_cast<std::uint64_t>(meta.width));
  const auto expected =
      static_cast<std::size_t>(total * meta.width * BytesOf(meta.dtype)) + kNpyHeaderBytes;
  if (map.bytes().size() != expected ||
      std::memcmp(map.bytes().data(), header.data(), header.size()) != 0) {
    return absl::DataLossError(
        absl::StrCat(path, ": expected ", TextOfHead(std::as_bytes(std::span(header))), " in ",
                     expected, " bytes, as its .meta.json says, got ", TextOfHead(map.bytes()),
                     " in ", map.bytes().size(), " bytes"));
  }
  if (!parts_.empty() && (meta.width != width_ || meta.checkpoint != checkpoint_)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": expected rows of the same checkpoint as the files before it (", width_,
        " numbers, ", checkpoint_, "), got ", meta.width, " numbers, ", meta.checkpoint));
  }
  SIGLIP_RETURN_IF_ERROR(ReadNames(path, meta, names_));
  width_ = meta.width;
  checkpoint_ = std::move(meta.checkpoint);
  if (std::find(pixels_.begin(), pixels_.end(), meta.pixels) == pixels_.end()) {
    pixels_.push_back(meta.pixels);
  }
  rows_ += meta.images;
  parts_.push_back({std::move(map), meta.dtype, rows_});
  return absl::OkStatus();
}

std::vector<EmbeddedRows::Stored> EmbeddedRows::stored() const {
  std::vector<Stored> stored;
  std::int64_t begin = 0;
  for (const Part& part : parts_) {
    const auto bytes = static_cast<std::size_t>((part.end - begin) * width_ * BytesOf(part.dtype));
    stored.push_back({part.map.bytes().subspan(kNpyHeaderBytes, bytes), part.dtype});
    begin = part.end;
  }
  return stored;
}

void EmbeddedRows::Read(std::int64_t first, std::int64_t count, float* out) const {
  std::int64_t begin = 0;  // of the part
  for (const Part& part : parts_) {
    const std::int64_t from = std::max(first, begin);
    const std::int64_t numbers = (std::min(first + count, part.end) - from) * width_;
    if (numbers > 0) {
      const std::byte* const data =
          part.map.bytes().data() + kNpyHeaderBytes + (from - begin) * width_ * BytesOf(part.dtype);
      CopyNumbers(part.dtype, data, numbers, out);
      out += numbers;
    }
    begin = part.end;
  }
}

const float* EmbeddedRows::Floats(std::int64_t first, std::int64_t count) const {
  return reinterpret_cast<const float*>(Mapped(DType::kFloat32, first, count));
}

const std::uint16_t* EmbeddedRows::Halves(std::int64_t first, std::int64_t count) const {
  return reinterpret_cast<const std::uint16_t*>(Mapped(DType::kFloat16, first, count));
}

const std::byte* EmbeddedRows::Mapped(DType dtype, std::int64_t first, std::int64_t count) const {
  std::int64_t begin = 0;  // of the part
  for (const Part& part : parts_) {
    if (first < part.end) {
      if (part.dtype != dtype || first + count > part.end) return nullptr;
      static_assert(kNpyHeaderBytes % sizeof(float) == 0 &&
                    std::endian::native == std::endian::little);
      return part.map.bytes().data() + kNpyHeaderBytes + (first - begin) * width_ * BytesOf(dtype);
    }
    begin = part.end;
  }
  return nullptr;
}

}  // namespace siglip::bulk
