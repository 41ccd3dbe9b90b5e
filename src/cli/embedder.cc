#include "cli/embedder.h"

#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file_map.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "cli/fnv.h"
#include "cli/load_client.h"

namespace siglip::cli {
namespace {

// A connection that breaks is made anew so often for one item.
constexpr int kAttempts = 3;

class ModelEmbedder final : public Embedder {
 public:
  ModelEmbedder(Model& model, const PipelineOptions& options) : model_(model), options_(options) {}

  std::string Describe() const override {
    return absl::StrCat(model_.info().directory, ", ", model_.info().engine);
  }
  absl::StatusOr<std::string> Recipe() override {
    return absl::StrCat(model_.info().pixels.pillow, " ", model_.info().max_patches);
  }
  std::int64_t embedding_size() const override { return model_.info().embedding_size; }
  std::optional<LogitConstants> logit_constants() const override {
    return LogitConstants{std::exp(static_cast<double>(model_.info().logit_scale)),
                          static_cast<double>(model_.info().logit_bias)};
  }

  absl::Status EmbedImages(std::span<const std::string> paths,
                           const OnEmbedding& on_embedding) override {
    return EmbedImageFiles(model_, paths, options_, on_embedding);
  }
  absl::Status EmbedTexts(std::span<const std::string> texts,
                          const OnEmbedding& on_embedding) override {
    return siglip::cli::EmbedTexts(model_, texts, options_.batch_size, on_embedding);
  }
  absl::Status EmbedTextsUnpadded(std::span<const std::string> texts,
                                  const OnEmbedding& on_embedding) override {
    std::vector<float> embedding(static_cast<std::size_t>(embedding_size()));
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto ids = model_.TokenizeUnpadded(texts[i]);
      if (!ids.ok()) {
        on_embedding(i, ids.status(), {});
        continue;
      }
      const std::int64_t* const rows[] = {ids->data()};
      float* const out[] = {embedding.data()};
      SIGLIP_RETURN_IF_ERROR(
          model_.EncodeTokens(rows, static_cast<std::int64_t>(ids->size()), out));
      on_embedding(i, absl::OkStatus(), embedding);
    }
    return absl::OkStatus();
  }

 private:
  Model& model_;
  const PipelineOptions options_;
};

absl::StatusOr<std::unique_ptr<LoadClient>> Connect(const ServerTarget& server, bool images) {
  SIGLIP_ASSIGN_OR_RETURN(HostPort address, ParseHostPort(server.url));
  const LoadTarget target{std::move(address), images ? "embed_image" : "embed_text",
                          images ? "INPUT_IMAGE" : "INPUT_TEXT"};
  return (server.protocol == "http" ? ConnectHttp : ConnectGrpc)(target);
}

// Many clients over one list of items.
class ServerRun {
 public:
  ServerRun(const ServerTarget& server, std::span<const std::string> items, bool images,
            std::int64_t embedding_size, const OnEmbedding& on_embedding)
      : server_(server),
        items_(items),
        images_(images),
        embedding_size_(static_cast<std::size_t>(embedding_size)),
        on_embedding_(on_embedding) {}

  absl::Status Run() {
    const std::size_t count =
        std::min(items_.size(), static_cast<std::size_t>(server_.concurrency));
    std::vector<std::thread> threads;
    const absl::Status started =
        AddThreads(threads, static_cast<int>(count), [this](int) { Drive(); });
    if (!started.ok()) stopped_ = true;
    for (std::thread& thread : threads) thread.join();
    SIGLIP_RETURN_IF_ERROR(started);
    MutexLock lock(mu_);
    return broken_;
  }

 private:
  void Drive() {
    auto client = Connect(server_, images_);
    std::vector<float> embedding;
    while (client.ok() && !stopped_.load()) {
      const std::size_t i = next_++;
      if (i >= items_.size()) return;
      const absl::Status status = InferItem(items_[i], client, embedding);
      if (!client.ok()) break;
      MutexLock lock(mu_);
      on_embedding_(i, status, status.ok() ? embedding : std::span<const float>());
    }
    if (client.ok()) return;
    // Without a server the other items would only fail alike.
    MutexLock lock(mu_);
    if (broken_.ok()) broken_ = client.status();
    stopped_ = true;
  }

  // A lost connection is replaced in `client`, which holds the error if that fails.
  absl::Status InferItem(const std::string& item,
                         absl::StatusOr<std::unique_ptr<LoadClient>>& client,
                         std::vector<float>& embedding) {
    std::string content = item;
    if (images_) {
      SIGLIP_ASSIGN_OR_RETURN(content, ReadFile(item, std::numeric_limits<std::uint32_t>::max()));
    }
    absl::Status status;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      status = (*client)->Infer(content, &embedding);
      if (!absl::IsUnavailable(status)) break;
      client = Connect(server_, images_);
      if (!client.ok()) return client.status();
    }
    if (status.ok() && embedding_size_ != 0 && embedding.size() != embedding_size_) {
      return absl::InternalError(
          absl::StrCat("answer: expected ", embedding_size_, " floats, got ", embedding.size()));
    }
    return status;
  }

  const ServerTarget& server_;
  const std::span<const std::string> items_;
  const bool images_;
  const std::size_t embedding_size_;
  const OnEmbedding& on_embedding_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stopped_{false};  // read by all clients before each item
  Mutex mu_;                          // also held while an item is reported
  absl::Status broken_ SIGLIP_GUARDED_BY(mu_);
};

class ServerEmbedder final : public Embedder {
 public:
  ServerEmbedder(ServerTarget server, std::int64_t embedding_size)
      : server_(std::move(server)), embedding_size_(embedding_size) {}

  std::string Describe() const override {
    return absl::StrCat("server ", server_.url, ", ", server_.protocol, ", ", server_.concurrency,
                        " clients");
  }
  absl::StatusOr<std::string> Recipe() override {
    SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<LoadClient> client, Connect(server_, true));
    SIGLIP_ASSIGN_OR_RETURN(const std::string pillow, client->Parameter("pillow"));
    SIGLIP_ASSIGN_OR_RETURN(const std::string max_patches, client->Parameter("max_num_patches"));
    return absl::StrCat(pillow, " ", max_patches);
  }
  std::int64_t embedding_size() const override { return embedding_size_; }
  std::optional<LogitConstants> logit_constants() const override { return std::nullopt; }

  absl::Status EmbedImages(std::span<const std::string> paths,
                           const OnEmbedding& on_embedding) override {
    return ServerRun(server_, paths, true, embedding_size_, on_embedding).Run();
  }
  absl::Status EmbedTexts(std::span<const std::string> texts,
                          const OnEmbedding& on_embedding) override {
    return ServerRun(server_, texts, false, embedding_size_, on_embedding).Run();
  }
  absl::Status EmbedTextsUnpadded(std::span<const std::string>, const OnEmbedding&) override {
    return absl::UnimplementedError("texts without padding: a server always pads");
  }

 private:
  const ServerTarget server_;
  const std::int64_t embedding_size_;
};

// Noise, in Netpbm's format for so many channels: 1 or 3.
std::string NoisePicture(std::uint32_t width, std::uint32_t height, std::uint32_t channels) {
  const std::uint32_t row_bytes = channels * width;
  std::string picture =
      absl::StrCat(channels == 1 ? "P5" : "P6", "\n", width, " ", height, "\n255\n");
  for (std::uint32_t i = 0; i < row_bytes * height; ++i) {
    picture += static_cast<char>((i * 7919 + i / row_bytes * 131) >> 3 & 0xff);
  }
  return picture;
}

// Tall, so that the two orders of the resize passes (Pillow 12 and 13) give different pixels. That
// takes a picture which loses rows: NaFlex enlarges the first, and makes the second smaller for up
// to 3,900 patches of 16 x 16. It has less than the 1 MB that proxies commonly let through.
std::vector<std::string> ProbePictures() {
  return {NoisePicture(8, 1200, 3), NoisePicture(250, 3996, 1)};
}

}  // namespace

std::unique_ptr<Embedder> MakeModelEmbedder(Model& model, const PipelineOptions& options) {
  return std::make_unique<ModelEmbedder>(model, options);
}

absl::StatusOr<std::unique_ptr<Embedder>> ConnectEmbedder(const ServerTarget& target) {
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<LoadClient> client, Connect(target, false));
  std::vector<float> embedding;
  const absl::Status status = client->Infer("a", &embedding);
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("server ", target.url, ": ", std::string(status.message())));
  }
  return std::make_unique<ServerEmbedder>(target, static_cast<std::int64_t>(embedding.size()));
}

absl::StatusOr<std::string> Fingerprint(Embedder& embedder) {
  SIGLIP_ASSIGN_OR_RETURN(std::string computed, embedder.Recipe());
  std::error_code error;
  std::vector<std::string> paths;
  absl::Status ran;
  for (const std::string& picture : ProbePictures()) {
    paths.push_back(absl::StrCat(std::filesystem::temp_directory_path(error).string(),
                                 "/siglip-probe-", ::getpid(), "-", paths.size(), ".pnm"));
    if (ran.ok()) ran = WriteFileAtomically(paths.back(), picture);
  }
  const std::vector<std::string> text = {"a photo of a probe"};
  std::vector<std::string> rows(paths.size() + text.size());
  std::size_t first = 0;
  absl::Status failed;
  const auto add = [&](std::size_t i, const absl::Status& status, std::span<const float> row) {
    if (!status.ok()) failed = status;
    rows[first + i].assign(reinterpret_cast<const char*>(row.data()), row.size_bytes());
  };
  if (ran.ok()) ran = embedder.EmbedImages(paths, add);
  first = paths.size();
  if (ran.ok()) ran = embedder.EmbedTexts(text, add);
  for (const std::string& path : paths) std::filesystem::remove(path, error);
  SIGLIP_RETURN_IF_ERROR(ran);
  SIGLIP_RETURN_IF_ERROR(failed);
  for (const std::string& row : rows) computed += row;
  return absl::StrFormat("%016x-%d", Fnv(computed), embedder.embedding_size());
}

}  // namespace siglip::cli
