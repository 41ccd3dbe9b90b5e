#include "cli/embedding_writer.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace siglip::cli {
namespace {

// Longest shape that the fixed-size head has room for: two 20-digit numbers.
constexpr std::size_t kNpyHeaderBytes = 128;
constexpr std::string_view kPartialSuffix = ".partial";

absl::Status Renamed(const std::string& path) {
  std::error_code error;
  std::filesystem::rename(path + std::string(kPartialSuffix), path, error);
  if (error) return absl::InternalError(absl::StrCat(path, ": ", error.message()));
  return absl::OkStatus();
}

absl::StatusOr<std::ofstream> OpenPartial(const std::string& path) {
  std::ofstream file(path + std::string(kPartialSuffix), std::ios::binary | std::ios::trunc);
  if (!file) return absl::PermissionDeniedError(absl::StrCat(path, ": cannot be written"));
  return file;
}

absl::Status Checked(const std::ostream& file, const std::string& path) {
  if (file) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(path, ": writing failed (disk full?)"));
}

class NpyWriter final : public EmbeddingWriter {
 public:
  static absl::StatusOr<std::unique_ptr<EmbeddingWriter>> Create(const std::string& path,
                                                                 std::int64_t embedding_size) {
    auto writer = std::make_unique<NpyWriter>(path, embedding_size);
    SIGLIP_ASSIGN_OR_RETURN(writer->rows_file_, OpenPartial(path));
    SIGLIP_ASSIGN_OR_RETURN(writer->names_file_, OpenPartial(writer->names_path_));
    writer->rows_file_ << NpyHeader(0, static_cast<std::uint64_t>(embedding_size));
    return writer;
  }

  NpyWriter(std::string path, std::int64_t embedding_size)
      : path_(std::move(path)),
        names_path_(path_ + ".names.txt"),
        embedding_size_(embedding_size) {}

  absl::Status Write(const RowName& name, std::span<const float> embedding) override {
    rows_file_.write(reinterpret_cast<const char*>(embedding.data()),
                     static_cast<std::streamsize>(embedding.size_bytes()));
    // JSON's escapes keep one line per row whatever bytes the name has.
    names_file_ << JsonString(name.name) << '\n';
    ++num_rows_;
    return Checked(rows_file_, path_);
  }

  absl::Status Finish() override {
    rows_file_.seekp(0);
    rows_file_ << NpyHeader(num_rows_, static_cast<std::uint64_t>(embedding_size_));
    rows_file_.close();
    names_file_.close();
    SIGLIP_RETURN_IF_ERROR(Checked(rows_file_, path_));
    SIGLIP_RETURN_IF_ERROR(Checked(names_file_, names_path_));
    SIGLIP_RETURN_IF_ERROR(Renamed(names_path_));
    return Renamed(path_);
  }

 private:
  const std::string path_;
  const std::string names_path_;
  const std::int64_t embedding_size_;
  std::ofstream rows_file_;
  std::ofstream names_file_;
  std::uint64_t num_rows_ = 0;
};

class JsonlWriter final : public EmbeddingWriter {
 public:
  static absl::StatusOr<std::unique_ptr<EmbeddingWriter>> Create(const std::string& path) {
    auto writer = std::make_unique<JsonlWriter>(path);
    if (!path.empty()) {
      SIGLIP_ASSIGN_OR_RETURN(writer->file_, OpenPartial(path));
    }
    return writer;
  }

  explicit JsonlWriter(std::string path) : path_(std::move(path)) {}

  absl::Status Write(const RowName& name, std::span<const float> embedding) override {
    line_ = absl::StrCat("{", name.kind == RowName::Kind::kImage ? "\"image\":" : "\"text\":",
                         JsonString(name.name), ",\"embedding\":[");
    for (std::size_t i = 0; i < embedding.size(); ++i) {
      if (i > 0) line_ += ',';
      AppendJsonFloat(embedding[i], line_);
    }
    line_ += "]}\n";
    std::ostream& out = path_.empty() ? std::cout : file_;
    out << line_;
    return Checked(out, path_.empty() ? "stdout" : path_);
  }

  absl::Status Finish() override {
    if (path_.empty()) return Checked(std::cout.flush(), "stdout");
    file_.close();
    SIGLIP_RETURN_IF_ERROR(Checked(file_, path_));
    return Renamed(path_);
  }

 private:
  const std::string path_;
  std::ofstream file_;
  std::string line_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EmbeddingWriter>> EmbeddingWriter::Create(
    const std::string& path, std::int64_t embedding_size) {
  if (path.empty() || path == "-") return JsonlWriter::Create("");
  if (absl::EndsWith(path, ".npy")) return NpyWriter::Create(path, embedding_size);
  if (absl::EndsWith(path, ".jsonl")) return JsonlWriter::Create(path);
  return absl::InvalidArgumentError(
      absl::StrCat("output ", path, ": expected a name that ends in .npy or .jsonl"));
}

std::string NpyHeader(std::uint64_t rows, std::uint64_t columns) {
  // Source: numpy/lib/format.py, version 1.0: magic, version, little-endian uint16 length of the
  // rest.
  std::string header("\x93NUMPY\x01\x00", 8);
  constexpr std::size_t kRest = kNpyHeaderBytes - 10;
  header += static_cast<char>(kRest & 0xff);
  header += static_cast<char>(kRest >> 8);
  header += absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", columns,
                         "), }");
  header.resize(kNpyHeaderBytes - 1, ' ');
  return header + '\n';
}

std::string JsonString(std::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void AppendJsonFloat(float value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  std::array<char, 32> digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out.append(digits.data(), end);
}

}  // namespace siglip::cli
