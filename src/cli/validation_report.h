#pragma once

// A validation as text: pure functions.

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "cli/validation.h"

namespace siglip::cli {

// The table of the reference page, in Markdown.
std::string MarkdownTable(const Validation& validation);

// The row that summaries are about: the first zero-shot row, or the first. REQUIRES: there is one.
const ValidationRow& SummaryRow(const Validation& validation);

// Remarks, the worst classes and the most confused pairs of SummaryRow, for people.
std::string SummaryText(const Validation& validation);

// One object: rows with accuracies, worst classes and confused pairs; failures; remarks.
std::string ValidationJson(const Validation& validation);

// A line per row of the table and image: row, template, path, label, predicted (scikit-learn's
// predict()), top-5 labels, hits, margin.
std::string PredictionsCsv(const Validation& validation);
std::string PredictionsJsonl(const Validation& validation);

// One self-contained page: no script, no other file. Reads the sample pictures.
std::string ValidationHtml(const Validation& validation);

// train.npy, valid.npy, text_N.npy per template, text_unpadded.npy (float32, rows named beside them
// in *.names.txt) and classes.txt, whose lines are the labels of the text rows.
absl::Status SaveEmbeddings(const Validation& validation, const std::string& directory);
// What it writes, by its path.
std::vector<std::string> EmbeddingFiles(const ValidationOptions& options,
                                        const std::string& directory);

}  // namespace siglip::cli
