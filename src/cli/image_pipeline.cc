#include "cli/image_pipeline.h"

#include <algorithm>
#include <limits>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"

namespace siglip::cli {
namespace {

using bulk::Item;

// Two batches are being prepared while the engine runs a third.
constexpr std::size_t kWindowBatches = 3;

// One item on its way. Owned by the feeder, then a pool thread, then the caller of EmbedItems.
struct Slot {
  Item item;
  absl::Status status;
  AlignedBuffer<float> pixels;    // of images
  PatchGrid grid;                 // of the pixels
  std::vector<std::int64_t> ids;  // of texts
  bool prepared = false;          // guarded by Window::mu_
};

// A ring of slots. Item i lives in slot i % size, from Begin to Free.
class Window {
 public:
  explicit Window(std::size_t num_slots) : slots_(num_slots) {}

  std::size_t num_slots() const { return slots_.size(); }
  Slot& slot(std::size_t index) { return slots_[index % slots_.size()]; }

  // Waits until item `index` has room. False: nobody wants it any more.
  bool Begin(std::size_t index) {
    MutexLock lock(mu_);
    while (!stopped_ && index >= first_ + slots_.size()) changed_.Wait(mu_);
    return !stopped_;
  }
  void Prepared(std::size_t index) {
    MutexLock lock(mu_);
    slot(index).prepared = true;
    changed_.NotifyAll();
  }
  // There are `count` items in all.
  void End(std::size_t count) {
    MutexLock lock(mu_);
    count_ = count;
    changed_.NotifyAll();
  }
  // Waits until item `index` is prepared. False: there is none.
  bool Await(std::size_t index) {
    MutexLock lock(mu_);
    while (index < count_ && !slot(index).prepared) changed_.Wait(mu_);
    return index < count_;
  }
  // Items before `index` are done with.
  void Free(std::size_t index) {
    MutexLock lock(mu_);
    for (; first_ < index; ++first_) slot(first_).prepared = false;
    changed_.NotifyAll();
  }
  void Stop() {
    MutexLock lock(mu_);
    stopped_ = true;
    changed_.NotifyAll();
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<Slot> slots_;  // see Slot for who may touch one
  std::size_t first_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::size_t count_ SIGLIP_GUARDED_BY(mu_) = std::numeric_limits<std::size_t>::max();
  bool stopped_ SIGLIP_GUARDED_BY(mu_) = false;
};

absl::Status PrepareImage(const Model& model, Slot& slot) {
  if (slot.pixels.empty()) slot.pixels = AlignedBuffer<float>(model.info().pixel_values());
  std::optional<std::string> bytes = std::exchange(slot.item.bytes, std::nullopt);
  if (!bytes) {
    SIGLIP_ASSIGN_OR_RETURN(bytes, ReadFile(slot.item.name, kMaxImageBytes));
  }
  SIGLIP_ASSIGN_OR_RETURN(slot.grid, model.Preprocess(*bytes, slot.pixels.data()));
  return absl::OkStatus();
}

absl::Status Prepare(const Model& model, Slot& slot) {
  SIGLIP_RETURN_IF_ERROR(slot.item.status);
  try {
    if (slot.item.kind == Item::Kind::kImage) return PrepareImage(model, slot);
    SIGLIP_ASSIGN_OR_RETURN(slot.ids, model.Tokenize(slot.item.name));
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("not enough memory for this item");
  }
}

// Lists items and hands them to a pool, on a thread of its own, until the end or Window::Stop.
class Feeder {
 public:
  Feeder(const Model& model, bulk::ItemSource& source, Window& window, int num_threads)
      : window_(window), pool_(num_threads), thread_([this, &model, &source] {
          std::size_t index = 0;
          for (; window_.Begin(index); ++index) {
            if (!source.Next(window_.slot(index).item)) break;
            pool_.Submit([this, &model, index] {
              Slot& slot = window_.slot(index);
              slot.status = Prepare(model, slot);
              window_.Prepared(index);
            });
          }
          window_.End(index);
        }) {}
  ~Feeder() {
    window_.Stop();
    thread_.join();
  }
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

 private:
  Window& window_;
  ThreadPool pool_;
  std::thread thread_;
};

// Encodes the good ones of items [begin, end), which are all of `kind`, and reports all.
absl::Status EncodeAndReport(Model& model, Window& window, std::size_t begin, std::size_t end,
                             Item::Kind kind, std::vector<float>& embeddings,
                             const OnItem& on_item) {
  const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
  std::vector<ImagePixels> images;
  std::vector<const std::int64_t*> texts;
  std::vector<float*> rows;
  for (std::size_t i = begin; i < end; ++i) {
    const Slot& slot = window.slot(i);
    if (!slot.status.ok()) continue;
    if (kind == Item::Kind::kImage) images.push_back({slot.pixels.data(), slot.grid});
    if (kind == Item::Kind::kText) texts.push_back(slot.ids.data());
    rows.push_back(embeddings.data() + rows.size() * width);
  }
  if (!images.empty()) SIGLIP_RETURN_IF_ERROR(model.EncodePixels(images, rows));
  if (!texts.empty()) {
    SIGLIP_RETURN_IF_ERROR(model.EncodeTokens(texts, model.info().text_length, rows));
  }
  std::size_t good = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const Slot& slot = window.slot(i);
    const std::span<const float> row =
        slot.status.ok() ? std::span<const float>(rows[good++], width) : std::span<const float>();
    SIGLIP_RETURN_IF_ERROR(on_item(slot.item, slot.status, row));
  }
  return absl::OkStatus();
}

int ThreadCount(int requested) {
  if (requested > 0) return requested;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

class TextSource final : public bulk::ItemSource {
 public:
  explicit TextSource(std::span<const std::string> texts) : texts_(texts) {}
  bool Next(Item& item) override {
    if (next_ >= texts_.size()) return false;
    const std::string& text = texts_[next_++];
    item = {Item::Kind::kText, text, std::nullopt, absl::OkStatus(), {next_, 0}};
    return true;
  }

 private:
  const std::span<const std::string> texts_;
  std::size_t next_ = 0;
};

// Numbers the items for a callback that knows no items.
OnItem Numbered(const OnEmbedding& on_embedding) {
  return [&on_embedding, index = std::size_t{0}](const Item&, const absl::Status& status,
                                                 std::span<const float> embedding) mutable {
    on_embedding(index++, status, embedding);
    return absl::OkStatus();
  };
}

}  // namespace

absl::Status EmbedItems(Model& model, bulk::ItemSource& source, const PipelineOptions& options,
                        const OnItem& on_item) {
  const std::size_t batch = static_cast<std::size_t>(std::max(1, options.batch_size));
  std::vector<float> embeddings(batch * static_cast<std::size_t>(model.info().embedding_size));
  Window window(kWindowBatches * batch);
  const Feeder feeder(model, source, window, ThreadCount(options.preprocess_threads));
  std::size_t begin = 0;  // of the batch that is being collected
  std::size_t end = 0;
  std::size_t good = 0;  // items in it that can be encoded
  Item::Kind kind = Item::Kind::kImage;
  const auto flush = [&] {
    SIGLIP_RETURN_IF_ERROR(EncodeAndReport(model, window, begin, end, kind, embeddings, on_item));
    begin = end;
    good = 0;
    window.Free(end);
    return absl::OkStatus();
  };
  while (window.Await(end)) {
    const Slot& slot = window.slot(end);
    if (slot.status.ok()) {
      if (good > 0 && slot.item.kind != kind) SIGLIP_RETURN_IF_ERROR(flush());
      kind = slot.item.kind;
      ++good;
    }
    ++end;
    // Bad items may delay a batch, but not keep the window full.
    if (good == batch || end - begin == window.num_slots() - batch) {
      SIGLIP_RETURN_IF_ERROR(flush());
    }
  }
  return flush();
}

absl::Status EmbedImageFiles(Model& model, std::span<const std::string> paths,
                             const PipelineOptions& options, const OnEmbedding& on_embedding) {
  return EmbedItems(model, *bulk::OpenFiles(paths), options, Numbered(on_embedding));
}

absl::Status EmbedTexts(Model& model, std::span<const std::string> texts, int batch_size,
                        const OnEmbedding& on_embedding) {
  TextSource source(texts);
  return EmbedItems(model, source, {.preprocess_threads = 1, .batch_size = batch_size},
                    Numbered(on_embedding));
}

}  // namespace siglip::cli
