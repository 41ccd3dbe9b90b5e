// The Parquet module: Parquet through Apache Arrow, which throws as well as it returns. Everything
// is caught here.

#include <algorithm>
#include <exception>
#include <fstream>
#include <functional>
#include <optional>

#include <fcntl.h>
#include <unistd.h>

#include <arrow/api.h>
#include <arrow/config.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>
#include <parquet/file_reader.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/archive.h"
#include "bulk/parquet.h"
#include "bulk/parquet_module.h"

namespace siglip::bulk {
namespace {

// Rows decoded at once: images are large, and all of a batch are in memory.
constexpr std::int64_t kReadRows = 16;
// Bytes of embeddings in a row group: what a reader gets at once, and what is held while writing.
constexpr std::uint64_t kRowGroupBytes = 64u << 20;
// The leaf of a list column. Source: the Parquet specification, nested types, LIST.
constexpr char kEmbeddingLeaf[] = "embedding.list.element";

absl::Status FromArrow(const std::string& path, const arrow::Status& status) {
  if (status.ok()) return absl::OkStatus();
  std::string message = absl::StrCat(path, ": ", status.message());
  // What the system said.
  if (status.detail() != nullptr) absl::StrAppend(&message, ": ", status.detail()->ToString());
  if (status.IsOutOfMemory()) return absl::ResourceExhaustedError(message);
  return status.IsIOError() ? absl::UnavailableError(message) : absl::DataLossError(message);
}

// Runs `body`, which returns absl::Status, and turns what it throws into one too.
template <class Body>
absl::Status Caught(const std::string& path, const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": not enough memory"));
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat(path, ": ", error.what()));
  }
}

#define SIGLIP_RETURN_IF_ARROW_ERROR(path, expr) SIGLIP_RETURN_IF_ERROR(FromArrow(path, (expr)))

bool IsBytes(const arrow::DataType& type) {
  if (type.id() == arrow::Type::DICTIONARY) {
    return IsBytes(*static_cast<const arrow::DictionaryType&>(type).value_type());
  }
  return type.id() == arrow::Type::BINARY || type.id() == arrow::Type::LARGE_BINARY ||
         type.id() == arrow::Type::BINARY_VIEW;
}

bool IsImage(const arrow::DataType& type) {
  if (type.id() != arrow::Type::STRUCT) return IsBytes(type);
  const auto bytes = static_cast<const arrow::StructType&>(type).GetFieldByName("bytes");
  return bytes != nullptr && IsBytes(*bytes->type());
}

std::string ColumnsText(const arrow::Schema& schema) {
  return absl::StrJoin(schema.fields(), ", ",
                       [](std::string* out, const std::shared_ptr<arrow::Field>& field) {
                         absl::StrAppend(out, field->name(), " ", field->type()->ToString());
                       });
}

// The column to read images from: the named one, else the only one that can hold them.
absl::StatusOr<std::string> FindImageColumn(const std::string& path, const arrow::Schema& schema,
                                            const std::string& wanted) {
  std::vector<std::string> found;
  for (const auto& field : schema.fields()) {
    const bool named = wanted.empty() || field->name() == wanted;
    if (named && IsImage(*field->type())) found.push_back(field->name());
  }
  if (found.size() == 1) return found[0];
  if (!wanted.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected an image column \"", wanted,
                                                   "\" (binary, or struct with bytes), got ",
                                                   ColumnsText(schema)));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": expected one column of binary or struct with bytes, or --image-column "
                   "to name it, got ",
                   ColumnsText(schema)));
}

// Columns are looked up by name.
absl::Status CheckNamedOnce(const std::string& path, const arrow::Schema& schema,
                            const std::string& name) {
  const std::size_t count = schema.GetAllFieldIndices(name).size();
  if (count == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": expected one column \"", name, "\", got ",
                                                 count, " in ", ColumnsText(schema)));
}

std::optional<std::string> BytesAt(const arrow::Array& array, std::int64_t row) {
  if (array.IsNull(row)) return std::nullopt;
  if (array.type_id() == arrow::Type::LARGE_BINARY ||
      array.type_id() == arrow::Type::LARGE_STRING) {
    return std::string(static_cast<const arrow::LargeBinaryArray&>(array).GetView(row));
  }
  if (array.type_id() == arrow::Type::BINARY || array.type_id() == arrow::Type::STRING) {
    return std::string(static_cast<const arrow::BinaryArray&>(array).GetView(row));
  }
  if (array.type_id() == arrow::Type::BINARY_VIEW || array.type_id() == arrow::Type::STRING_VIEW) {
    return std::string(static_cast<const arrow::BinaryViewArray&>(array).GetView(row));
  }
  if (array.type_id() == arrow::Type::DICTIONARY) {
    const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
    return BytesAt(*coded.dictionary(), coded.GetValueIndex(row));
  }
  const auto scalar = array.GetScalar(row);
  if (!scalar.ok()) return std::nullopt;
  return (*scalar)->ToString();
}

class ParquetImages final : public Archive {
 public:
  ParquetImages(std::string path, ParquetColumns columns)
      : path_(std::move(path)), columns_(std::move(columns)) {}

  absl::Status Open() {
    return Caught(path_, [&]() -> absl::Status {
      parquet::ReaderProperties properties;
      properties.enable_buffered_stream();  // a row group's images need not fit in memory
      parquet::ArrowReaderProperties arrow_properties;
      arrow_properties.set_batch_size(kReadRows);
      arrow_properties.set_pre_buffer(false);
      parquet::arrow::FileReaderBuilder builder;
      SIGLIP_RETURN_IF_ARROW_ERROR(path_, builder.OpenFile(path_, false, properties));
      builder.properties(arrow_properties);
      SIGLIP_RETURN_IF_ARROW_ERROR(path_, builder.Build(&reader_));
      std::shared_ptr<arrow::Schema> schema;
      SIGLIP_RETURN_IF_ARROW_ERROR(path_, reader_->GetSchema(&schema));
      SIGLIP_ASSIGN_OR_RETURN(columns_.image, FindImageColumn(path_, *schema, columns_.image));
      SIGLIP_RETURN_IF_ERROR(CheckNamedOnce(path_, *schema, columns_.image));
      if (!columns_.id.empty()) {
        SIGLIP_RETURN_IF_ERROR(CheckNamedOnce(path_, *schema, columns_.id));
      }
      std::vector<int> row_groups(static_cast<std::size_t>(reader_->num_row_groups()));
      for (std::size_t i = 0; i < row_groups.size(); ++i) row_groups[i] = static_cast<int>(i);
      auto batches = reader_->GetRecordBatchReader(row_groups, LeavesToRead());
      SIGLIP_RETURN_IF_ARROW_ERROR(path_, batches.status());
      batches_ = *std::move(batches);
      return absl::OkStatus();
    });
  }

  absl::StatusOr<bool> Next() override {
    bool found = false;
    const absl::Status status = Caught(path_, [&]() -> absl::Status {
      ++row_;
      while (batch_ == nullptr || row_ >= batch_->num_rows()) {
        SIGLIP_RETURN_IF_ARROW_ERROR(path_, batches_->ReadNext(&batch_));
        row_ = 0;
        if (batch_ == nullptr) return absl::OkStatus();
      }
      found = true;
      name_ = Name();
      ++num_rows_;
      return absl::OkStatus();
    });
    SIGLIP_RETURN_IF_ERROR(status);
    return found;
  }

  const std::string& name() const override { return name_; }

  absl::StatusOr<std::string> Read() override {
    std::optional<std::string> bytes;
    const absl::Status status = Caught(path_, [&] {
      const auto column = batch_->GetColumnByName(columns_.image);
      bytes = BytesAt(column->IsNull(row_) ? *column : *Child(*column, "bytes", column), row_);
      return absl::OkStatus();
    });
    SIGLIP_RETURN_IF_ERROR(status);
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError("expected an image's bytes, got null");
    }
    if (bytes->size() > kMaxImageBytes) {
      return absl::ResourceExhaustedError(absl::StrCat("expected at most ", kMaxImageBytes,
                                                       " bytes in a row, got ", bytes->size()));
    }
    return *std::move(bytes);
  }

 private:
  // Numbers of the leaf columns below the two that are needed.
  std::vector<int> LeavesToRead() const {
    std::vector<int> leaves;
    const parquet::SchemaDescriptor& schema = *reader_->parquet_reader()->metadata()->schema();
    for (int i = 0; i < schema.num_columns(); ++i) {
      const std::string top = schema.Column(i)->path()->ToDotVector().front();
      if (top == columns_.image || top == columns_.id) leaves.push_back(i);
    }
    return leaves;
  }

  // Field `name` of a struct column; `otherwise` if it has none.
  static std::shared_ptr<arrow::Array> Child(const arrow::Array& column, const std::string& name,
                                             std::shared_ptr<arrow::Array> otherwise) {
    if (column.type_id() != arrow::Type::STRUCT) return otherwise;
    auto child = static_cast<const arrow::StructArray&>(column).GetFieldByName(name);
    return child == nullptr ? otherwise : child;
  }

  std::string Name() const {
    std::optional<std::string> name;
    if (!columns_.id.empty()) {
      name = BytesAt(*batch_->GetColumnByName(columns_.id), row_);
    } else {
      const auto column = batch_->GetColumnByName(columns_.image);
      const auto path = Child(*column, "path", nullptr);
      if (path != nullptr && !column->IsNull(row_)) name = BytesAt(*path, row_);
    }
    return name.has_value() && !name->empty() ? *name : absl::StrCat(num_rows_);
  }

  const std::string path_;
  ParquetColumns columns_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::unique_ptr<arrow::RecordBatchReader> batches_;
  std::shared_ptr<arrow::RecordBatch> batch_;
  std::int64_t row_ = -1;  // in batch_
  std::uint64_t num_rows_ = 0;
  std::string name_;
};

std::shared_ptr<arrow::Schema> TableSchema(const ParquetTable& table) {
  const auto number = table.half ? arrow::float16() : arrow::float32();
  const auto embedding = arrow::fixed_size_list(arrow::field("element", number, false),
                                                static_cast<std::int32_t>(table.width));
  std::vector<std::string> keys, values;
  for (const auto& [key, value] : table.metadata) {
    keys.push_back(key);
    values.push_back(value);
  }
  return arrow::schema(
      {arrow::field("name", arrow::utf8(), false), arrow::field("kind", arrow::utf8(), false),
       arrow::field("embedding", embedding, false)},
      arrow::key_value_metadata(keys, values));
}

// Rows [begin, begin + count) of the two files, which are read on.
absl::StatusOr<std::shared_ptr<arrow::RecordBatch>> ReadRows(
    const ParquetTable& table, const std::shared_ptr<arrow::Schema>& schema, std::uint64_t begin,
    std::int64_t count, std::ifstream& rows, std::ifstream& names) {
  arrow::StringBuilder name_column, kind_column;
  std::string line;
  for (std::int64_t i = 0; i < count; ++i) {
    std::getline(names, line);
    const bool image = begin + static_cast<std::uint64_t>(i) < table.num_image_rows;
    const std::string name = nlohmann::json::parse(line).get<std::string>();
    SIGLIP_RETURN_IF_ARROW_ERROR(table.names_path, name_column.Append(name));
    SIGLIP_RETURN_IF_ARROW_ERROR(table.names_path, kind_column.Append(image ? "image" : "text"));
  }
  const std::int64_t bytes = count * table.width * (table.half ? 2 : 4);
  auto buffer = arrow::AllocateBuffer(bytes);
  SIGLIP_RETURN_IF_ARROW_ERROR(table.rows_path, buffer.status());
  rows.read(reinterpret_cast<char*>((*buffer)->mutable_data()), bytes);
  if (!rows || !names) {
    return absl::DataLossError(absl::StrCat(table.rows_path, ": expected ", table.num_rows,
                                            " rows, got less: was it changed meanwhile?"));
  }
  const auto type = schema->field(2)->type();
  const auto numbers = arrow::MakeArray(
      arrow::ArrayData::Make(table.half ? arrow::float16() : arrow::float32(), count * table.width,
                             {nullptr, std::shared_ptr<arrow::Buffer>(*std::move(buffer))}, 0));
  const auto embeddings = std::make_shared<arrow::FixedSizeListArray>(type, count, numbers);
  auto name_array = name_column.Finish();
  auto kind_array = kind_column.Finish();
  SIGLIP_RETURN_IF_ARROW_ERROR(table.names_path, name_array.status());
  SIGLIP_RETURN_IF_ARROW_ERROR(table.names_path, kind_array.status());
  return arrow::RecordBatch::Make(schema, count, {*name_array, *kind_array, embeddings});
}

absl::Status Flush(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool flushed = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  return flushed ? absl::OkStatus()
                 : absl::ErrnoToStatus(error, absl::StrCat("cannot flush '", path, "'"));
}

std::string Version() { return absl::StrCat("Arrow ", arrow::GetBuildInfo().version_string); }

absl::StatusOr<std::unique_ptr<Archive>> OpenImages(const std::string& path,
                                                    const ParquetColumns& columns) {
  auto images = std::make_unique<ParquetImages>(path, columns);
  SIGLIP_RETURN_IF_ERROR(images->Open());
  return images;
}

absl::Status WriteTable(const ParquetTable& table, const std::string& path) {
  const absl::Status status = Caught(path, [&]() -> absl::Status {
    std::ifstream rows(table.rows_path, std::ios::binary), names(table.names_path);
    rows.seekg(static_cast<std::streamoff>(table.rows_offset));
    auto sink = arrow::io::FileOutputStream::Open(path);
    SIGLIP_RETURN_IF_ARROW_ERROR(path, sink.status());
    const auto schema = TableSchema(table);
    // Embeddings neither compress nor repeat.
    const auto properties = parquet::WriterProperties::Builder()
                                .compression(parquet::Compression::ZSTD)
                                ->compression(kEmbeddingLeaf, parquet::Compression::UNCOMPRESSED)
                                ->disable_dictionary(kEmbeddingLeaf)
                                ->disable_statistics(kEmbeddingLeaf)
                                ->build();
    const auto arrow_properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
    auto writer = parquet::arrow::FileWriter::Open(*schema, arrow::default_memory_pool(), *sink,
                                                   properties, arrow_properties);
    SIGLIP_RETURN_IF_ARROW_ERROR(path, writer.status());
    const std::uint64_t row_bytes = static_cast<std::uint64_t>(table.width) * (table.half ? 2 : 4);
    const std::uint64_t group = std::max<std::uint64_t>(1, kRowGroupBytes / row_bytes);
    for (std::uint64_t begin = 0; begin < table.num_rows; begin += group) {
      const auto count = static_cast<std::int64_t>(std::min(group, table.num_rows - begin));
      SIGLIP_ASSIGN_OR_RETURN(const auto batch, ReadRows(table, schema, begin, count, rows, names));
      SIGLIP_RETURN_IF_ARROW_ERROR(path, (*writer)->NewBufferedRowGroup());
      SIGLIP_RETURN_IF_ARROW_ERROR(path, (*writer)->WriteRecordBatch(*batch));
    }
    SIGLIP_RETURN_IF_ARROW_ERROR(path, (*writer)->Close());
    return FromArrow(path, (*sink)->Close());
  });
  SIGLIP_RETURN_IF_ERROR(status);
  return Flush(path);
}

constexpr ParquetFunctions kFunctions = {Version, OpenImages, WriteTable};

}  // namespace
}  // namespace siglip::bulk

extern "C" const siglip::bulk::ParquetFunctions* siglip_parquet_functions() {
  return &siglip::bulk::kFunctions;
}
