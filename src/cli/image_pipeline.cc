#include "cli/image_pipeline.h"

#include <algorithm>
#include <limits>
#include <thread>

#include "base/aligned_buffer.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"

namespace siglip::cli {
namespace {

// Two batches are being prepared while the engine runs a third.
constexpr std::size_t kWindowBatches = 3;

absl::Status PreprocessFile(const Model& model, const std::string& path, float* pixels) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string bytes,
                          ReadFile(path, std::numeric_limits<std::int64_t>::max()));
  return model.Preprocess(bytes, pixels);
}

// A ring of pixel buffers. Slot i % size belongs to file i.
class Window {
 public:
  Window(std::size_t num_slots, std::size_t pixels_per_slot)
      : pixels_per_slot_(pixels_per_slot),
        pixels_(num_slots * pixels_per_slot),
        slots_(num_slots) {}

  std::size_t num_slots() const { return slots_.size(); }
  float* pixels(std::size_t index) {
    return pixels_.data() + index % slots_.size() * pixels_per_slot_;
  }
  void Finish(std::size_t index, absl::Status status) {
    MutexLock lock(mu_);
    slots_[index % slots_.size()] = {true, std::move(status)};
    finished_.NotifyAll();
  }
  // Waits until file `index` is preprocessed, then frees its state (not its pixels).
  absl::Status Take(std::size_t index) {
    MutexLock lock(mu_);
    Slot& slot = slots_[index % slots_.size()];
    while (!slot.done) finished_.Wait(mu_);
    slot.done = false;
    return std::move(slot.status);
  }

 private:
  struct Slot {
    bool done = false;
    absl::Status status;
  };
  const std::size_t pixels_per_slot_;
  AlignedBuffer<float> pixels_;
  Mutex mu_;
  CondVar finished_;
  std::vector<Slot> slots_ SIGLIP_GUARDED_BY(mu_);
};

std::size_t ThreadCount(int requested) {
  if (requested > 0) return static_cast<std::size_t>(requested);
  return std::max(1u, std::thread::hardware_concurrency());
}

// Reports items [begin, end): `statuses` of all, embeddings of the good ones, encoded by `encode`.
template <class Encode>
absl::Status EncodeBatch(std::size_t begin, std::span<const absl::Status> statuses,
                         std::span<float> embeddings, std::size_t width, const Encode& encode,
                         const OnEmbedding& on_embedding) {
  std::vector<std::size_t> good;
  std::vector<float*> rows;
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    if (!statuses[i].ok()) continue;
    rows.push_back(embeddings.data() + i * width);
    good.push_back(begin + i);
  }
  if (!good.empty()) SIGLIP_RETURN_IF_ERROR(encode(good, rows));
  for (std::size_t i = 0; i < statuses.size(); ++i) {
    on_embedding(
        begin + i, statuses[i],
        statuses[i].ok() ? embeddings.subspan(i * width, width) : std::span<const float>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EmbedImageFiles(Model& model, std::span<const std::string> paths,
                             const PipelineOptions& options, const OnEmbedding& on_embedding) {
  if (paths.empty()) return absl::OkStatus();
  const std::size_t batch = static_cast<std::size_t>(std::max(1, options.batch_size));
  const std::size_t side = static_cast<std::size_t>(model.info().image_size);
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  Window window(std::min(paths.size(), kWindowBatches * batch), 3 * side * side);
  std::vector<float> embeddings(batch * width);
  std::size_t submitted = 0;
  ThreadPool pool(
      static_cast<int>(std::min(ThreadCount(options.preprocess_threads), paths.size())));
  const auto submit_up_to = [&](std::size_t limit) {
    for (; submitted < std::min(limit, paths.size()); ++submitted) {
      pool.Submit([&, index = submitted] {
        window.Finish(index, PreprocessFile(model, paths[index], window.pixels(index)));
      });
    }
  };
  submit_up_to(window.num_slots());
  for (std::size_t begin = 0; begin < paths.size(); begin += batch) {
    const std::size_t count = std::min(batch, paths.size() - begin);
    std::vector<absl::Status> statuses;
    for (std::size_t i = 0; i < count; ++i) statuses.push_back(window.Take(begin + i));
    const auto encode = [&](const std::vector<std::size_t>& good, const std::vector<float*>& rows) {
      std::vector<const float*> images;
      for (const std::size_t index : good) images.push_back(window.pixels(index));
      return model.EncodePixels(images, rows);
    };
    SIGLIP_RETURN_IF_ERROR(EncodeBatch(begin, statuses, embeddings, width, encode, on_embedding));
    submit_up_to(begin + count + window.num_slots());
  }
  return absl::OkStatus();
}

absl::Status EmbedTexts(Model& model, std::span<const std::string> texts, int batch_size,
                        const OnEmbedding& on_embedding) {
  const std::size_t batch = static_cast<std::size_t>(std::max(1, batch_size));
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  std::vector<float> embeddings(batch * width);
  for (std::size_t begin = 0; begin < texts.size(); begin += batch) {
    const std::size_t count = std::min(batch, texts.size() - begin);
    std::vector<absl::Status> statuses(count);
    std::vector<std::vector<std::int64_t>> ids(count);
    for (std::size_t i = 0; i < count; ++i) {
      auto tokens = model.Tokenize(texts[begin + i]);
      statuses[i] = tokens.status();
      if (tokens.ok()) ids[i] = *std::move(tokens);
    }
    const auto encode = [&](const std::vector<std::size_t>& good, const std::vector<float*>& rows) {
      std::vector<const std::int64_t*> pointers;
      for (const std::size_t index : good) pointers.push_back(ids[index - begin].data());
      return model.EncodeTokens(pointers, model.info().text_length, rows);
    };
    SIGLIP_RETURN_IF_ERROR(EncodeBatch(begin, statuses, embeddings, width, encode, on_embedding));
  }
  return absl::OkStatus();
}

}  // namespace siglip::cli
