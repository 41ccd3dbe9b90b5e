#include "cli/validation.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "cli/progress.h"
#include "eval/nearest.h"
#include "eval/templates.h"

namespace siglip::cli {
namespace {

constexpr int kTopClasses = 5;

// Embeds items, or takes them from the cache.
class CachedEmbedding {
 public:
  using Embed = std::function<absl::Status(std::span<const std::string> items, const OnEmbedding&)>;

  CachedEmbedding(EmbeddingCache* cache, std::int64_t width, bool show_progress)
      : cache_(cache), width_(static_cast<std::size_t>(width)), show_progress_(show_progress) {}

  struct Result {
    std::vector<float> rows;             // [items,D]; of failed items: zero
    std::vector<absl::Status> statuses;  // per item
  };

  // `keys` names each item in the cache; an empty key is not cached.
  absl::StatusOr<Result> Run(std::span<const std::string> items, std::span<const std::string> keys,
                             const char* what, const Embed& embed) {
    Result result;
    result.rows.resize(items.size() * width_);
    result.statuses.resize(items.size());
    std::vector<std::size_t> wanted;
    std::vector<std::string> missing;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (cache_ != nullptr && cache_->Find(keys[i], Row(result, i))) continue;
      wanted.push_back(i);
      missing.push_back(items[i]);
    }
    Progress progress({.what = what,
                       .total = items.size(),
                       .done = items.size() - missing.size(),
                       .quiet = !show_progress_});
    const auto take = [&](std::size_t j, const absl::Status& status, std::span<const float> row) {
      progress.Advance();
      const std::size_t i = wanted[j];
      result.statuses[i] = status;
      if (!status.ok()) return;
      std::copy(row.begin(), row.end(), Row(result, i).begin());
      Keep(keys[i], row);
    };
    if (!missing.empty()) SIGLIP_RETURN_IF_ERROR(embed(missing, take));
    return result;
  }

 private:
  // A full disk costs what later runs would have found, not this one.
  void Keep(const std::string& key, std::span<const float> row) {
    if (cache_ == nullptr || key.empty() || !writable_) return;
    const absl::Status status = cache_->Add(key, row);
    if (status.ok()) return;
    writable_ = false;
    SIGLIP_LOG_WARN("embeddings are not kept any more: {}", LogSafe(StdView(status.message())));
  }

  std::span<float> Row(Result& result, std::size_t i) const {
    return std::span(result.rows).subspan(i * width_, width_);
  }

  EmbeddingCache* const cache_;
  bool writable_ = true;
  const std::size_t width_;
  const bool show_progress_;
};

class Run {
 public:
  Run(Embedder& embedder, EmbeddingCache* cache, ImagenetFolder folder,
      const ValidationOptions& options)
      : embedder_(embedder),
        options_(options),
        cached_(cache, embedder.embedding_size(), options.show_progress),
        team_(options.threads > 0
                  ? options.threads
                  : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {
    result_.folder = std::move(folder);
    result_.remarks = result_.folder.remarks;
    result_.embedder = embedder.Describe();
    result_.templates = options.templates;
  }

  absl::StatusOr<Validation> Go() {
    SIGLIP_RETURN_IF_ERROR(EmbedTexts());
    SIGLIP_ASSIGN_OR_RETURN(result_.train, EmbedImages(result_.folder.train, "train images"));
    SIGLIP_ASSIGN_OR_RETURN(result_.valid, EmbedImages(result_.folder.valid, "valid images"));
    SIGLIP_RETURN_IF_ERROR(FewShot());
    std::vector<int> every_class;
    for (std::size_t c = 0; c < result_.folder.classes.size(); ++c) {
      every_class.push_back(static_cast<int>(c));
    }
    for (std::size_t t = 0; t < options_.templates.size(); ++t) {
      SIGLIP_RETURN_IF_ERROR(
          Knn("Zero-shot", options_.templates[t], result_.text_rows[t], every_class));
    }
    if (!result_.unpadded_text_rows.empty()) {
      SIGLIP_RETURN_IF_ERROR(Knn("Zero-shot, no padding", options_.templates[0],
                                 result_.unpadded_text_rows, every_class));
    }
    SIGLIP_RETURN_IF_ERROR(Sigmoid());
    return std::move(result_);
  }

 private:
  std::size_t Width() const { return static_cast<std::size_t>(embedder_.embedding_size()); }

  absl::StatusOr<EmbeddedImages> EmbedImages(const std::vector<LabelledImage>& images,
                                             const char* what) {
    std::vector<std::string> paths, keys;
    for (const LabelledImage& image : images) {
      paths.push_back(image.path);
      keys.push_back(FileKey(image.path));
    }
    SIGLIP_ASSIGN_OR_RETURN(
        const CachedEmbedding::Result embedded,
        cached_.Run(paths, keys, what,
                    [&](std::span<const std::string> items, const OnEmbedding& on_embedding) {
                      return embedder_.EmbedImages(items, on_embedding);
                    }));
    EmbeddedImages good;
    for (std::size_t i = 0; i < images.size(); ++i) {
      if (!embedded.statuses[i].ok()) {
        result_.failures.push_back({paths[i], std::string(embedded.statuses[i].message())});
        continue;
      }
      good.images.push_back(images[i]);
      const auto row = embedded.rows.begin() + static_cast<std::ptrdiff_t>(i * Width());
      good.rows.insert(good.rows.end(), row, row + static_cast<std::ptrdiff_t>(Width()));
    }
    if (good.images.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          what, ": all ", images.size(), " failed; the first: ", result_.failures.back().error));
    }
    return good;
  }

  absl::StatusOr<std::vector<float>> EmbedTemplate(const std::string& text_template, bool padded) {
    std::vector<std::string> texts, keys;
    for (const ImagenetClass& c : result_.folder.classes) {
      texts.push_back(FillClassTemplate(text_template, c));
      keys.push_back(absl::StrCat(padded ? "text\n" : "unpadded text\n", texts.back()));
      if (keys.back().size() > EmbeddingCache::kMaxKeyBytes) keys.back().clear();
    }
    SIGLIP_ASSIGN_OR_RETURN(
        CachedEmbedding::Result embedded,
        cached_.Run(texts, keys, "texts",
                    [&](std::span<const std::string> items, const OnEmbedding& on_embedding) {
                      return padded ? embedder_.EmbedTexts(items, on_embedding)
                                    : embedder_.EmbedTextsUnpadded(items, on_embedding);
                    }));
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (!embedded.statuses[i].ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("class ", result_.folder.classes[i].label, ", text \"", texts[i],
                         "\": ", std::string(embedded.statuses[i].message())));
      }
    }
    return std::move(embedded.rows);
  }

  absl::Status EmbedTexts() {
    for (const std::string& text_template : options_.templates) {
      SIGLIP_ASSIGN_OR_RETURN(std::vector<float> rows, EmbedTemplate(text_template, true));
      result_.text_rows.push_back(std::move(rows));
    }
    if (options_.unpadded && !options_.templates.empty()) {
      SIGLIP_ASSIGN_OR_RETURN(result_.unpadded_text_rows,
                              EmbedTemplate(options_.templates[0], false));
    }
    return absl::OkStatus();
  }

  absl::Status FewShot() {
    std::vector<int> class_of_row;
    std::vector<std::int64_t> shots(result_.folder.classes.size());
    for (const LabelledImage& image : result_.train.images) {
      class_of_row.push_back(image.class_index);
      ++shots[static_cast<std::size_t>(image.class_index)];
    }
    const auto [least, most] = std::minmax_element(shots.begin(), shots.end());
    if (*least != *most) {
      result_.remarks.push_back(absl::StrCat("train: classes have ", *least, " to ", *most,
                                             " images each, not equally many"));
    }
    return Knn(absl::StrCat(*most, "-shot"), "", result_.train.rows, std::move(class_of_row));
  }

  absl::StatusOr<NearestRows> Nearest(std::span<const float> training, std::int64_t k) {
    NearestOptions options;
    options.k = k;
    return NearestByCosine(team_, MemoryRows(training, embedder_.embedding_size()),
                           result_.valid.rows, options);
  }

  absl::Status Knn(const std::string& name, const std::string& text_template,
                   std::span<const float> training, std::vector<int> class_of_row) {
    ValidationRow row;
    row.name = name;
    row.text_template = text_template;
    row.training_rows = static_cast<std::int64_t>(class_of_row.size());
    SIGLIP_ASSIGN_OR_RETURN(const NearestRows nearest, Nearest(training, options_.k));
    row.k = nearest.k;
    if (nearest.k < options_.k) {
      result_.remarks.push_back(absl::StrCat(name, ": only ", nearest.k, " training rows, so ",
                                             nearest.k, " neighbours vote and not ", options_.k));
    }
    const KnnVotes votes(std::move(class_of_row));
    if (votes.classes().size() < result_.folder.classes.size()) {
      result_.remarks.push_back(
          absl::StrCat(name, ": ", result_.folder.classes.size() - votes.classes().size(),
                       " classes have nothing to learn from; their images count as misses"));
    }
    for (std::size_t i = 0; i < result_.valid.images.size(); ++i) {
      row.predictions.push_back(
          votes.Classify(nearest.Of(static_cast<std::int64_t>(i)), kTopClasses));
    }
    AddRow(std::move(row));
    return absl::OkStatus();
  }

  // The paper's way: a class is the mean of its normalised prompts, the score the sigmoid of its
  // logit. The sigmoid is monotonic, so the order is that of the cosine.
  absl::Status Sigmoid() {
    if (options_.templates.empty()) return absl::OkStatus();
    const std::vector<float> classes = MeanOfTemplates();
    SIGLIP_ASSIGN_OR_RETURN(const NearestRows nearest, Nearest(classes, kTopClasses));
    const std::optional<LogitConstants> logit = embedder_.logit_constants();
    ValidationRow row;
    row.name = "Zero-shot, sigmoid";
    row.text_template = options_.templates.size() == 1
                            ? options_.templates[0]
                            : absl::StrCat("mean of ", options_.templates.size(), " templates");
    row.training_rows = static_cast<std::int64_t>(result_.folder.classes.size());
    row.k = 1;
    for (std::size_t i = 0; i < result_.valid.images.size(); ++i) {
      KnnVotes::Result prediction;
      for (const Neighbor& neighbor : nearest.Of(static_cast<std::int64_t>(i))) {
        const double cosine = 1 - neighbor.distance;
        prediction.top.push_back(static_cast<int>(neighbor.row));
        prediction.probabilities.push_back(
            logit ? 1 / (1 + std::exp(-(cosine * logit->scale + logit->bias))) : cosine);
      }
      prediction.predicted = prediction.top[0];
      if (prediction.top.size() > 1) {
        const auto pair = nearest.Of(static_cast<std::int64_t>(i));
        prediction.margin = pair[1].distance - pair[0].distance;
      }
      row.predictions.push_back(std::move(prediction));
    }
    AddRow(std::move(row));
    return absl::OkStatus();
  }

  std::vector<float> MeanOfTemplates() const {
    std::vector<float> classes(result_.text_rows[0].size());
    for (std::size_t first = 0; first < classes.size(); first += Width()) {
      std::vector<double> sum(Width());
      for (const std::vector<float>& rows : result_.text_rows) {
        double squares = 0;
        for (std::size_t d = 0; d < Width(); ++d) squares += std::pow(rows[first + d], 2);
        const double norm = squares == 0 ? 1 : std::sqrt(squares);
        for (std::size_t d = 0; d < Width(); ++d) sum[d] += rows[first + d] / norm;
      }
      for (std::size_t d = 0; d < Width(); ++d) classes[first + d] = static_cast<float>(sum[d]);
    }
    return classes;
  }

  void AddRow(ValidationRow row) {
    for (std::size_t i = 0; i < row.predictions.size(); ++i) {
      const int truth = result_.valid.images[i].class_index;
      const std::vector<int>& top = row.predictions[i].top;
      row.hits1 += top[0] == truth ? 1 : 0;
      row.hits5 += std::find(top.begin(), top.end(), truth) != top.end() ? 1 : 0;
      row.confusion.Add(truth, top[0]);
    }
    result_.rows.push_back(std::move(row));
  }

  Embedder& embedder_;
  const ValidationOptions& options_;
  CachedEmbedding cached_;
  ThreadTeam team_;
  Validation result_;
};

}  // namespace

absl::StatusOr<Validation> Validate(Embedder& embedder, EmbeddingCache* cache,
                                    ImagenetFolder folder, const ValidationOptions& options) {
  return Run(embedder, cache, std::move(folder), options).Go();
}

}  // namespace siglip::cli
