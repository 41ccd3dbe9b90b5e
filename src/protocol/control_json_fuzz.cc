// Bytes: which of HTTP's smaller bodies it is, then the body: OpenAI's embeddings, generate, load,
// unload, region, trace and log settings.
#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "protocol/control.h"
#include "protocol/generate.h"
#include "protocol/kserve_http.h"
#include "protocol/openai.h"
#include "protocol/padded_body.h"

namespace siglip {
namespace {

void ReadEmbeddings(std::string_view body) {
  static const std::array<EmbeddingModel, 3> kModels = {{{"embed_text", EmbeddingInput::kText},
                                                         {"embed_image", EmbeddingInput::kImage},
                                                         {"both", EmbeddingInput::kBoth}}};
  const auto parsed = ParseEmbeddings(std::make_shared<PaddedBody>(body), kModels);
  if (!parsed.ok()) {
    static_cast<void>(OpenAiErrorBody(parsed.status()));
    return;
  }
  // Every view must be readable.
  std::size_t sum = 0;
  for (const EmbeddingItem& item : parsed->items) {
    for (const char c : item.bytes) sum += static_cast<unsigned char>(c);
  }
  SIGLIP_CHECK(sum <= 255 * body.size());
}

// As in the server: wrong types of values are found by the parser of inference requests.
void ReadGenerate(std::string_view body) {
  ModelConfig config;
  config.name = "m";
  config.max_batch_size = 8;
  config.inputs = {{.name = "INPUT_TEXT", .datatype = DataType::kBytes, .dims = {1}},
                   {.name = "X", .datatype = DataType::kFp32, .dims = {-1}},
                   {.name = "I", .datatype = DataType::kInt64, .dims = {2}}};
  const auto infer = GenerateToInfer(body, config);
  if (!infer.ok()) return;
  HttpInferInput input;
  input.model_name = "m";
  input.body = std::make_shared<PaddedBody>(infer->infer);
  static_cast<void>(ParseHttpInfer(input));
}

void ReadLoad(std::string_view body) {
  const auto request = ParseLoadBody(body);
  if (request.ok()) static_cast<void>(ToLoadRequest(*request));
}

void ReadUnload(std::string_view body) {
  const auto request = ParseUnloadBody(body);
  if (request.ok()) static_cast<void>(UnloadsDependents(*request));
}

void ReadRegion(std::string_view body) {
  for (const SharedMemoryKind kind : {SharedMemoryKind::kSystem, SharedMemoryKind::kCuda}) {
    const auto region = ParseRegionBody(kind, body);
    if (region.ok()) static_cast<void>(RegionsJson({*region}));
  }
}

void ReadTrace(std::string_view body) {
  const auto settings = ParseTraceBody(body);
  if (settings.ok()) static_cast<void>(TraceSettingsJson(*settings));
}

void ReadLog(std::string_view body) {
  const auto request = ParseLogBody(body);
  if (!request.ok()) return;
  const auto settings = ChangedLogSettings(LogSettings(), *request);
  if (settings.ok()) static_cast<void>(LogSettingsJson(*settings));
}

}  // namespace
}  // namespace siglip

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::array kReaders = {siglip::ReadEmbeddings, siglip::ReadGenerate, siglip::ReadLoad,
                                   siglip::ReadUnload,     siglip::ReadRegion,   siglip::ReadTrace,
                                   siglip::ReadLog};
  if (size == 0) return 0;
  kReaders[data[0] % kReaders.size()]({reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
