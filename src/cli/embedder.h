#pragma once

// Where validation's embeddings come from: a model in this process, or a running server.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/image_pipeline.h"
#include "siglip/siglip.h"

namespace siglip::cli {

struct LogitConstants {
  double scale = 1;  // exp(logit_scale)
  double bias = 0;
};

// Used by one thread. Items may be reported in any order, one at a time, each once; a bad item
// fails alone. The returned status is a failure after which nothing more is reported.
class Embedder {
 public:
  virtual ~Embedder() = default;

  // One line for people: what embeds, and how.
  virtual std::string Describe() const = 0;
  // How pictures become pixels, as far as it is told: another recipe, another text.
  virtual absl::StatusOr<std::string> Recipe() = 0;
  virtual std::int64_t embedding_size() const = 0;
  // Unknown over the network.
  virtual std::optional<LogitConstants> logit_constants() const = 0;

  virtual absl::Status EmbedImages(std::span<const std::string> paths,
                                   const OnEmbedding& on_embedding) = 0;
  virtual absl::Status EmbedTexts(std::span<const std::string> texts,
                                  const OnEmbedding& on_embedding) = 0;
  // Without padding; Unimplemented over the network, whose door always pads.
  virtual absl::Status EmbedTextsUnpadded(std::span<const std::string> texts,
                                          const OnEmbedding& on_embedding) = 0;
};

// `model` must outlive it.
std::unique_ptr<Embedder> MakeModelEmbedder(Model& model, const PipelineOptions& options);

struct ServerTarget {
  std::string url;  // HOST:PORT
  std::string protocol = "grpc";
  int concurrency = 60;  // clients, each with its own thread and connection
};

// Sends to `embed_image` and `embed_text`. Unavailable names the address.
absl::StatusOr<std::unique_ptr<Embedder>> ConnectEmbedder(const ServerTarget& target);

// A name for what `embedder` computes: hexadecimal digits made from its recipe and its embeddings
// of fixed pictures and a fixed text, so that other weights, another precision or another resize
// have another name.
absl::StatusOr<std::string> Fingerprint(Embedder& embedder);

}  // namespace siglip::cli
