#include "cli/validation_report.h"

#include <filesystem>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/row_format.h"
#include "eval/templates.h"

namespace siglip::cli {
namespace {

// Worst classes and confused pairs that a person reads.
constexpr std::size_t kShown = 10;

const ImagenetClass& ClassOf(const Validation& validation, int index) {
  return validation.folder.classes[static_cast<std::size_t>(index)];
}

std::string NameOf(const Validation& validation, int index) {
  const ImagenetClass& c = ClassOf(validation, index);
  return absl::StrCat(c.label, " (", c.text, ")");
}

std::string LabelsOf(const Validation& validation, const std::vector<int>& classes) {
  return absl::StrJoin(classes, " ", [&](std::string* out, int c) {
    absl::StrAppend(out, ClassOf(validation, c).label);
  });
}

// A pipe would end the cell.
std::string Cell(const std::string& text) { return absl::StrReplaceAll(text, {{"|", "\\|"}}); }

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

bool Hit(const KnnVotes::Result& prediction, int truth, std::size_t k) {
  for (std::size_t i = 0; i < std::min(k, prediction.top.size()); ++i) {
    if (prediction.top[i] == truth) return true;
  }
  return false;
}

// visit(row, image, prediction) for every prediction.
template <class Visit>
void ForEachPrediction(const Validation& validation, const Visit& visit) {
  for (const ValidationRow& row : validation.rows) {
    for (std::size_t i = 0; i < row.predictions.size(); ++i) {
      visit(row, validation.valid.images[i], row.predictions[i]);
    }
  }
}

nlohmann::json RowJson(const Validation& validation, const ValidationRow& row) {
  nlohmann::json object = {{"name", row.name},
                           {"template", row.text_template},
                           {"training_rows", row.training_rows},
                           {"k", row.k},
                           {"images", row.predictions.size()},
                           {"hits1", row.hits1},
                           {"hits5", row.hits5},
                           {"top1", row.top1()},
                           {"top5", row.top5()}};
  object["worst_classes"] = nlohmann::json::array();
  for (const ClassAccuracy& c : row.confusion.WorstClasses(kShown)) {
    object["worst_classes"].push_back({{"label", ClassOf(validation, c.class_index).label},
                                       {"text", ClassOf(validation, c.class_index).text},
                                       {"images", c.images},
                                       {"hits", c.hits}});
  }
  object["most_confused"] = nlohmann::json::array();
  for (const ConfusedPair& pair : row.confusion.MostConfused(kShown)) {
    object["most_confused"].push_back({{"label", ClassOf(validation, pair.truth).label},
                                       {"predicted", ClassOf(validation, pair.predicted).label},
                                       {"images", pair.images}});
  }
  return object;
}

// .npy, float32 [names, width], and the names beside it, one JSON string a line.
absl::Status SaveRows(const std::string& path, std::span<const float> rows,
                      const std::vector<std::string>& names) {
  const std::size_t width = rows.size() / names.size();
  std::string content = bulk::NpyHeader(bulk::DType::kFloat32, names.size(), width);
  bulk::AppendNpyRow(bulk::DType::kFloat32, rows, content);
  SIGLIP_RETURN_IF_ERROR(WriteOutputFile(path, content));
  std::string lines;
  for (const std::string& name : names) absl::StrAppend(&lines, bulk::JsonString(name), "\n");
  return WriteOutputFile(path + ".names.txt", lines);
}

absl::Status SaveImages(const std::string& path, const EmbeddedImages& images) {
  std::vector<std::string> names;
  for (const LabelledImage& image : images.images) names.push_back(image.path);
  return SaveRows(path, images.rows, names);
}

}  // namespace

std::string MarkdownTable(const Validation& validation) {
  std::string table =
      "| | Top-1 Accuracy | Top-5 Accuracy | Prompt Template |\n"
      "|:---:|:---:|:---:|:---|\n";
  for (const ValidationRow& row : validation.rows) {
    absl::StrAppend(&table, absl::StrFormat("| %s | %.4f | %.4f | %s |\n", row.name, row.top1(),
                                            row.top5(), Cell(row.text_template)));
  }
  return table;
}

const ValidationRow& SummaryRow(const Validation& validation) {
  SIGLIP_CHECK(!validation.rows.empty());
  for (const ValidationRow& row : validation.rows) {
    if (row.name == "Zero-shot") return row;
  }
  return validation.rows[0];
}

std::string SummaryText(const Validation& validation) {
  const ValidationRow& row = SummaryRow(validation);
  std::string text = absl::StrCat(
      validation.valid.images.size(), " images of ", validation.folder.classes.size(), " classes, ",
      validation.train.images.size(), " training images; ", validation.embedder, "\n");
  for (const std::string& remark : validation.remarks)
    absl::StrAppend(&text, "note: ", remark, "\n");
  const auto worst = row.confusion.WorstClasses(kShown);
  if (worst.empty()) return text;
  absl::StrAppend(&text, "\nWorst classes, ", row.name, " \"", row.text_template, "\":\n");
  for (const ClassAccuracy& c : worst) {
    absl::StrAppend(&text, absl::StrFormat("  %.2f  %d of %d  %s\n", c.accuracy(), c.hits, c.images,
                                           NameOf(validation, c.class_index)));
  }
  absl::StrAppend(&text, "Most confused:\n");
  for (const ConfusedPair& pair : row.confusion.MostConfused(kShown)) {
    absl::StrAppend(
        &text, absl::StrFormat("  %d x  %s taken for %s\n", pair.images,
                               NameOf(validation, pair.truth), NameOf(validation, pair.predicted)));
  }
  return text;
}

std::string ValidationJson(const Validation& validation) {
  nlohmann::json object = {{"embedder", validation.embedder},
                           {"data", validation.folder.directory},
                           {"classes", validation.folder.classes.size()},
                           {"train_images", validation.train.images.size()},
                           {"valid_images", validation.valid.images.size()},
                           {"remarks", validation.remarks}};
  object["rows"] = nlohmann::json::array();
  for (const ValidationRow& row : validation.rows) {
    object["rows"].push_back(RowJson(validation, row));
  }
  object["failures"] = nlohmann::json::array();
  for (const FailedItem& item : validation.failures) {
    object["failures"].push_back({{"name", item.name}, {"error", item.error}});
  }
  return object.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string PredictionsCsv(const Validation& validation) {
  std::string csv = "row,template,path,label,predicted,top5,hit1,hit5,margin\n";
  ForEachPrediction(validation, [&](const ValidationRow& row, const LabelledImage& image,
                                    const KnnVotes::Result& prediction) {
    absl::StrAppend(&csv, CsvField(row.name), ",", CsvField(row.text_template), ",",
                    CsvField(image.path), ",",
                    CsvField(ClassOf(validation, image.class_index).label), ",",
                    CsvField(ClassOf(validation, prediction.predicted).label), ",",
                    CsvField(LabelsOf(validation, prediction.top)), ",",
                    Hit(prediction, image.class_index, 1) ? 1 : 0, ",",
                    Hit(prediction, image.class_index, 5) ? 1 : 0, ",",
                    absl::StrFormat("%.17g\n", prediction.margin));
  });
  return csv;
}

std::string PredictionsJsonl(const Validation& validation) {
  std::string lines;
  ForEachPrediction(validation, [&](const ValidationRow& row, const LabelledImage& image,
                                    const KnnVotes::Result& prediction) {
    nlohmann::json top = nlohmann::json::array();
    for (const int c : prediction.top) top.push_back(ClassOf(validation, c).label);
    const nlohmann::json line = {{"row", row.name},
                                 {"template", row.text_template},
                                 {"path", image.path},
                                 {"label", ClassOf(validation, image.class_index).label},
                                 {"predicted", ClassOf(validation, prediction.predicted).label},
                                 {"top5", std::move(top)},
                                 {"probabilities", prediction.probabilities},
                                 {"hit1", Hit(prediction, image.class_index, 1)},
                                 {"hit5", Hit(prediction, image.class_index, 5)},
                                 {"margin", prediction.margin}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  });
  return lines;
}

std::vector<std::string> EmbeddingFiles(const ValidationOptions& options,
                                        const std::string& directory) {
  std::vector<std::string> rows = {"train.npy", "valid.npy", "text_unpadded.npy"};
  for (std::size_t t = 0; t < options.templates.size(); ++t) {
    rows.push_back(absl::StrCat("text_", t, ".npy"));
  }
  std::vector<std::string> files = {directory + "/classes.txt"};
  for (const std::string& name : rows) {
    files.push_back(absl::StrCat(directory, "/", name));
    files.push_back(files.back() + ".names.txt");
  }
  return files;
}

absl::Status SaveEmbeddings(const Validation& validation, const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(directory, ": ", error.message()));
  SIGLIP_RETURN_IF_ERROR(SaveImages(directory + "/train.npy", validation.train));
  SIGLIP_RETURN_IF_ERROR(SaveImages(directory + "/valid.npy", validation.valid));
  const auto save_texts = [&](const std::string& name, const std::string& text_template,
                              const std::vector<float>& rows) {
    std::vector<std::string> texts;
    for (const ImagenetClass& c : validation.folder.classes) {
      texts.push_back(FillClassTemplate(text_template, c));
    }
    return SaveRows(directory + "/" + name, rows, texts);
  };
  for (std::size_t t = 0; t < validation.templates.size(); ++t) {
    SIGLIP_RETURN_IF_ERROR(save_texts(absl::StrCat("text_", t, ".npy"), validation.templates[t],
                                      validation.text_rows[t]));
  }
  if (!validation.unpadded_text_rows.empty()) {
    SIGLIP_RETURN_IF_ERROR(
        save_texts("text_unpadded.npy", validation.templates[0], validation.unpadded_text_rows));
  }
  std::string labels;
  for (const ImagenetClass& c : validation.folder.classes) absl::StrAppend(&labels, c.label, "\n");
  return WriteOutputFile(directory + "/classes.txt", labels);
}

}  // namespace siglip::cli
