#include "bulk/output.h"

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "bulk/append_file.h"
#include "bulk/parquet.h"

namespace siglip::bulk {
namespace {

using Json = nlohmann::ordered_json;

// Raised when older manifests cannot be read any more.
constexpr int kManifestVersion = 2;
constexpr std::uint64_t kMaxManifestBytes = 1 << 20;
constexpr std::uint64_t kMaxFailuresBytes = std::uint64_t{4} << 30;
// A manifest nests 2 deep. What differs is printed, which recurses.
constexpr int kMaxDepth = 16;

enum class Format { kNpy, kJsonl, kParquet };

absl::StatusOr<Format> FormatOf(const std::string& path) {
  if (absl::EndsWith(path, ".npy")) return Format::kNpy;
  if (absl::EndsWith(path, ".jsonl")) return Format::kJsonl;
  if (!absl::EndsWith(path, ".parquet")) {
    return absl::InvalidArgumentError(
        absl::StrCat("output ", path, ": expected a name that ends in .npy, .jsonl or .parquet"));
  }
  SIGLIP_RETURN_IF_ERROR(ParquetIsBuiltIn());
  return Format::kParquet;
}

// Names that are not UTF-8 are written too, with U+FFFD.
std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + '\n';
}

absl::StatusOr<Json> ReadJson(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxManifestBytes));
  bool is_deep = false;
  const auto descend = [&is_deep](int depth, Json::parse_event_t, const Json&) {
    is_deep = is_deep || depth > kMaxDepth;
    return !is_deep;
  };
  Json json = Json::parse(text, descend, false);
  if (is_deep || !json.is_object()) {
    return absl::DataLossError(absl::StrCat(
        path, ": expected a JSON object, got something else: --overwrite begins anew"));
  }
  return json;
}

absl::StatusOr<std::string> FileSha256(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path));
  return Sha256Hex({reinterpret_cast<const char*>(map.bytes().data()), map.bytes().size()});
}

// "dtype was "float32", is now "float16"", for every member of `job` that `old` has otherwise.
std::string Differences(const Json& old, const Json& job) {
  std::vector<std::string> differences;
  for (const auto& [key, value] : job.items()) {
    const auto before = old.find(key);
    if (before != old.end() && *before == value) continue;
    differences.push_back(absl::StrCat(
        key, " was ", before == old.end() ? "unknown" : before->dump(), ", is now ", value.dump()));
  }
  return absl::StrJoin(differences, "; ");
}

bool IsStdout(const std::string& path) { return path.empty() || path == "-"; }
std::string NamesPath(const std::string& path) { return path + ".names.txt"; }
std::string MetaPath(const std::string& path) { return path + ".meta.json"; }
// The file behind symlinks is OUTPUT: all else lies beside it.
OutputOptions BehindSymlinks(OutputOptions options) {
  std::error_code error;
  if (std::filesystem::is_symlink(options.path, error)) {
    options.path = ReplaceablePath(options.path).value_or(options.path);
  }
  return options;
}
std::string UnnamedFailuresPath(const std::string& path) { return path + ".failures.jsonl"; }
std::string FailuresPath(const OutputOptions& options) {
  return options.failures_path.empty() ? UnnamedFailuresPath(options.path) : options.failures_path;
}

class StdoutOutput final : public Output {
 public:
  explicit StdoutOutput(const OutputOptions& options)
      : dtype_(options.dtype), failures_path_(options.failures_path) {}

  bool finished() const override { return false; }
  Position start() const override { return {}; }
  const OutputCounts& counts() const override { return counts_; }
  const std::string& failures_path() const override { return failures_path_; }

  absl::Status AddRow(Item::Kind kind, std::string_view name, std::span<const float> row) override {
    line_.clear();
    AppendJsonRow(dtype_, kind, name, row, line_);
    ++(kind == Item::Kind::kImage ? counts_.image_rows : counts_.text_rows);
    std::cout << line_;
    return Checked();
  }
  absl::Status AddFailure(std::string_view name, std::string_view error) override {
    ++counts_.failures;
    if (!failures_path_.empty()) failures_ += FailureLine(name, error);
    return absl::OkStatus();
  }
  // A reader at the other end of a pipe sees rows as they come.
  absl::Status Commit(const Position&) override {
    std::cout.flush();
    return Checked();
  }
  absl::Status Finish() override {
    std::cout.flush();
    SIGLIP_RETURN_IF_ERROR(Checked());
    if (failures_path_.empty()) return absl::OkStatus();
    return WriteOutputFile(failures_path_, failures_);
  }

 private:
  static absl::Status Checked() {
    if (std::cout) return absl::OkStatus();
    return absl::ResourceExhaustedError("stdout: writing failed (disk full, or reader gone?)");
  }

  const DType dtype_;
  const std::string failures_path_;
  std::string failures_;
  std::string line_;
  OutputCounts counts_;
};

class FileOutput final : public Output {
 public:
  FileOutput(const OutputOptions& options, Format format, const Json& job, const Json& about)
      : path_(options.path),
        folder_(options.path + ".parts"),
        failures_named_(!options.failures_path.empty()),
        failures_path_(FailuresPath(options)),
        format_(format),
        dtype_(options.dtype),
        width_(options.width),
        job_(job),
        about_(about) {}

  absl::Status Open(bool overwrite, bool keep_finished) {
    if (keep_finished) {
      SIGLIP_ASSIGN_OR_RETURN(const bool begun, IsThere(Part("manifest.json")));
      SIGLIP_ASSIGN_OR_RETURN(const bool finished, IsThere(path_));
      if (finished && !begun) return OpenFinished();
    }
    if (failures_named_) SIGLIP_RETURN_IF_ERROR(CheckOutputFile(failures_path_));
    std::error_code error;
    std::filesystem::create_directory(folder_, error);
    if (error) {
      return absl::PermissionDeniedError(
          absl::StrCat("cannot make folder '", folder_, "': ", error.message()));
    }
    SIGLIP_ASSIGN_OR_RETURN(lock_, FileLock::Take(Part("lock")));
    std::optional<Json> manifest;
    if (overwrite) {
      std::filesystem::remove(Part("manifest.json"), error);
    } else {
      SIGLIP_ASSIGN_OR_RETURN(const bool there, IsThere(Part("manifest.json")));
      if (there) {
        SIGLIP_ASSIGN_OR_RETURN(manifest, ReadJson(Part("manifest.json")));
        SIGLIP_RETURN_IF_ERROR(Restore(*manifest));
      }
    }
    if (complete_) return Publish();  // the earlier run was stopped while it moved files
    SIGLIP_RETURN_IF_ERROR(OpenParts());
    return manifest.has_value() ? absl::OkStatus() : Commit({});
  }

  bool finished() const override { return complete_; }
  Position start() const override { return next_; }
  const OutputCounts& counts() const override { return counts_; }
  const std::string& failures_path() const override { return failures_path_; }

  absl::Status AddRow(Item::Kind kind, std::string_view name, std::span<const float> row) override {
    row_.clear();
    if (format_ == Format::kJsonl) {
      AppendJsonRow(dtype_, kind, name, row, row_);
    } else {
      AppendNpyRow(dtype_, row, row_);
      // JSON's escapes keep one line per row whatever bytes the name has.
      SIGLIP_RETURN_IF_ERROR(names_->Append(JsonString(name) + '\n'));
    }
    ++(kind == Item::Kind::kImage ? counts_.image_rows : counts_.text_rows);
    return rows_->Append(row_);
  }

  absl::Status AddFailure(std::string_view name, std::string_view error) override {
    ++counts_.failures;
    return failures_->Append(FailureLine(name, error));
  }

  absl::Status Commit(const Position& next) override {
    for (AppendFile* file : {&*rows_, &*names_, &*failures_}) SIGLIP_RETURN_IF_ERROR(file->Flush());
    next_ = next;
    return WriteManifest();
  }

  absl::Status Finish() override {
    if (format_ == Format::kNpy) {
      SIGLIP_RETURN_IF_ERROR(
          rows_->Overwrite(NpyHeader(dtype_, NumRows(), static_cast<std::uint64_t>(width_))));
    }
    // Nothing comes after the last item.
    SIGLIP_RETURN_IF_ERROR(Commit({std::numeric_limits<std::uint64_t>::max(), 0}));
    if (format_ == Format::kParquet) {
      SIGLIP_RETURN_IF_ERROR(WriteParquet(Table(), Part("table.parquet")));
    }
    Json meta = Meta();
    if (format_ == Format::kNpy) {
      SIGLIP_ASSIGN_OR_RETURN(meta["names_sha256"], FileSha256(names_->path()));
    }
    SIGLIP_RETURN_IF_ERROR(WriteFileAtomically(Part("meta.json"), Dump(meta, 2)));
    complete_ = true;
    SIGLIP_RETURN_IF_ERROR(WriteManifest());
    return Publish();
  }

 private:
  std::string Part(std::string_view name) const {
    return absl::StrCat(folder_, "/", absl::string_view(name.data(), name.size()));
  }
  std::uint64_t NumRows() const { return counts_.image_rows + counts_.text_rows; }

  // There is an output and no job begun.
  absl::Status OpenFinished() {
    const absl::StatusOr<Json> meta = ReadJson(MetaPath(path_));
    if (!meta.ok()) {
      return absl::AlreadyExistsError(
          absl::StrCat(path_, " exists and does not say of which job it is: name another output"));
    }
    const std::string differences = Differences(*meta, job_);
    if (!differences.empty()) {
      return absl::AlreadyExistsError(
          absl::StrCat(path_, " exists and is of another job (", differences,
                       "): name another output, or leave out --keep-finished"));
    }
    counts_ = {meta->value("images", std::uint64_t{0}), meta->value("texts", std::uint64_t{0}),
               meta->value("failed", std::uint64_t{0})};
    complete_ = true;
    SIGLIP_RETURN_IF_ERROR(CheckIsThere(format_ == Format::kNpy ? NamesPath(path_) : path_));
    if (counts_.failures == 0) {
      return failures_named_ ? WriteOutputFile(failures_path_, "") : absl::OkStatus();
    }
    // A job with a named list leaves no other.
    const std::string unnamed = UnnamedFailuresPath(path_);
    SIGLIP_ASSIGN_OR_RETURN(const bool listed_there, IsThere(unnamed));
    if (!failures_named_ || !listed_there) return CheckIsThere(failures_path_);
    SIGLIP_ASSIGN_OR_RETURN(const std::string failures, ReadInputFile(unnamed, kMaxFailuresBytes));
    return WriteOutputFile(failures_path_, failures);
  }

  absl::Status CheckIsThere(const std::string& file) const {
    SIGLIP_ASSIGN_OR_RETURN(const bool there, IsThere(file));
    if (there) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is finished, but ", file, " is gone: leave out --keep-finished"));
  }

  // Takes over what the manifest of an earlier run says.
  absl::Status Restore(const Json& manifest) {
    const std::string path = Part("manifest.json");
    try {
      if (manifest.at("manifest").get<int>() != kManifestVersion) {
        return absl::FailedPreconditionError(
            absl::StrCat(path, ": expected version ", kManifestVersion, ", got ",
                         manifest.at("manifest").get<int>(), ": --overwrite begins anew"));
      }
      const std::string differences = Differences(manifest.at("job"), job_);
      if (!differences.empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat(folder_, " holds a job that was begun otherwise: ", differences,
                         ". Run it with the old options to go on, or --overwrite to begin anew"));
      }
      manifest.at("complete").get_to(complete_);
      manifest.at("next_input").get_to(next_.input);
      manifest.at("next_member").get_to(next_.member);
      manifest.at("images").get_to(counts_.image_rows);
      manifest.at("texts").get_to(counts_.text_rows);
      manifest.at("failed").get_to(counts_.failures);
      manifest.at("rows_bytes").get_to(rows_bytes_);
      manifest.at("names_bytes").get_to(names_bytes_);
      manifest.at("failures_bytes").get_to(failures_bytes_);
      return absl::OkStatus();
    } catch (const Json::exception& error) {
      return absl::DataLossError(
          absl::StrCat(path, ": ", error.what(), ": --overwrite begins anew"));
    }
  }

  absl::Status OpenParts() {
    SIGLIP_ASSIGN_OR_RETURN(rows_, AppendFile::Open(Part("rows"), rows_bytes_));
    SIGLIP_ASSIGN_OR_RETURN(names_, AppendFile::Open(Part("names.txt"), names_bytes_));
    SIGLIP_ASSIGN_OR_RETURN(failures_, AppendFile::Open(Part("failures.jsonl"), failures_bytes_));
    if (rows_bytes_ > 0 || format_ == Format::kJsonl) return absl::OkStatus();
    // Parquet's rows wait as .npy too.
    return rows_->Append(NpyHeader(dtype_, 0, static_cast<std::uint64_t>(width_)));
  }

  absl::Status WriteManifest() {
    const Json manifest = {{"manifest", kManifestVersion},
                           {"complete", complete_},
                           {"next_input", next_.input},
                           {"next_member", next_.member},
                           {"images", counts_.image_rows},
                           {"texts", counts_.text_rows},
                           {"failed", counts_.failures},
                           {"rows_bytes", rows_->size()},
                           {"names_bytes", names_->size()},
                           {"failures_bytes", failures_->size()},
                           {"job", job_}};
    return WriteFileAtomically(Part("manifest.json"), Dump(manifest, 1));
  }

  Json Meta() const {
    Json meta = about_;
    meta.update(job_);
    meta["images"] = counts_.image_rows;
    meta["texts"] = counts_.text_rows;
    meta["failed"] = counts_.failures;
    return meta;
  }

  ParquetTable Table() const {
    ParquetTable table{.rows_path = rows_->path(),
                       .rows_offset = kNpyHeaderBytes,
                       .names_path = names_->path(),
                       .num_rows = NumRows(),
                       .num_image_rows = counts_.image_rows,
                       .width = width_,
                       .half = dtype_ == DType::kFloat16,
                       .metadata = {}};
    const Json meta = Meta();
    for (const auto& [key, value] : meta.items()) {
      table.metadata.emplace_back("siglip." + key,
                                  value.is_string() ? value.get<std::string>() : value.dump());
    }
    return table;
  }

  // Moves the parts to their places. May be stopped and repeated: the output itself comes last, and
  // the folder goes after it. Failures come first: theirs is the only place that may be on another
  // file system, and if they cannot be moved the old output is still whole.
  absl::Status Publish() {
    std::error_code error;
    if (failures_named_) {
      SIGLIP_RETURN_IF_ERROR(MoveToOutput(Part("failures.jsonl"), failures_path_));
      // Of an older job, unless it is the named one.
      const std::string unnamed = UnnamedFailuresPath(path_);
      if (!std::filesystem::equivalent(unnamed, failures_path_, error)) {
        std::filesystem::remove(unnamed, error);
      }
    } else if (counts_.failures > 0) {
      SIGLIP_RETURN_IF_ERROR(MoveIfThere(Part("failures.jsonl"), failures_path_));
    } else {
      std::filesystem::remove(failures_path_, error);  // of an older job
    }
    if (format_ == Format::kNpy) {
      SIGLIP_RETURN_IF_ERROR(RemoveOldRows());
      SIGLIP_RETURN_IF_ERROR(MoveIfThere(Part("names.txt"), NamesPath(path_)));
    }
    SIGLIP_RETURN_IF_ERROR(MoveIfThere(Part("meta.json"), MetaPath(path_)));
    const bool table = format_ == Format::kParquet;
    SIGLIP_RETURN_IF_ERROR(MoveIfThere(Part(table ? "table.parquet" : "rows"), path_));
    SIGLIP_RETURN_IF_ERROR(FlushFolderOf(path_));
    RemoveFolder();
    return absl::OkStatus();
  }

  // So that no reader finds an older job's rows beside this one's names: rather none for a moment.
  absl::Status RemoveOldRows() {
    SIGLIP_ASSIGN_OR_RETURN(const bool to_come, IsThere(Part("rows")));
    if (!to_come) return absl::OkStatus();
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (!error) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("cannot remove the old '", path_, "': ", error.message()));
  }

  // What is open would stay on NFS under another name, and the folder with it. The lock goes last:
  // until then no other process begins a job in this folder.
  void RemoveFolder() {
    rows_.reset();
    names_.reset();
    failures_.reset();
    std::error_code error, ignored;
    for (std::filesystem::directory_iterator it(folder_, error);
         !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      if (it->path().filename() != "lock") std::filesystem::remove_all(it->path(), ignored);
    }
    lock_.reset();
    std::filesystem::remove(Part("lock"), ignored);
    std::filesystem::remove(folder_, ignored);
  }

  const std::string path_;
  const std::string folder_;
  const bool failures_named_;
  const std::string failures_path_;
  const Format format_;
  const DType dtype_;
  const std::int64_t width_;
  const Json job_;
  const Json about_;
  std::unique_ptr<FileLock> lock_;
  std::optional<AppendFile> rows_, names_, failures_;
  std::uint64_t rows_bytes_ = 0, names_bytes_ = 0, failures_bytes_ = 0;  // of the earlier run
  OutputCounts counts_;
  Position next_;
  bool complete_ = false;
  std::string row_;
};

}  // namespace

std::vector<std::string> OutputFiles(const OutputOptions& options) {
  if (IsStdout(options.path)) return {options.failures_path};
  const OutputOptions behind = BehindSymlinks(options);
  return {behind.path, NamesPath(behind.path), MetaPath(behind.path), FailuresPath(behind)};
}

absl::Status CheckOutputName(const std::string& path) {
  if (IsStdout(path)) return absl::OkStatus();
  return FormatOf(path).status();
}

absl::StatusOr<std::unique_ptr<Output>> Output::Open(const OutputOptions& options, const Json& job,
                                                     const Json& about) {
  if (IsStdout(options.path)) {
    if (!options.failures_path.empty()) {
      SIGLIP_RETURN_IF_ERROR(CheckOutputFile(options.failures_path));
    }
    return std::make_unique<StdoutOutput>(options);
  }
  SIGLIP_ASSIGN_OR_RETURN(const Format format, FormatOf(options.path));
  auto output = std::make_unique<FileOutput>(BehindSymlinks(options), format, job, about);
  SIGLIP_RETURN_IF_ERROR(output->Open(options.overwrite, options.keep_finished));
  return output;
}

}  // namespace siglip::bulk
