#include "server/grpc_answer.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include <google/protobuf/io/coded_stream.h>

namespace siglip {
namespace {

// Copied into the bytes around it: cheaper than a slice of its own.
constexpr std::size_t kSmallOutputBytes = 16 * 1024;

// Field 6 of ModelInferResponse, raw_output_contents, and 2 of ModelStreamInferResponse,
// infer_response; of the wire type that has a length.
constexpr char kRawOutputTag = (6 << 3) | 2;
constexpr char kInferResponseTag = (2 << 3) | 2;

std::size_t VarintSize(std::size_t value) {
  return google::protobuf::io::CodedOutputStream::VarintSize64(value);
}

void AppendVarint(std::size_t value, std::string& text) {
  std::uint8_t bytes[10];
  const std::uint8_t* end =
      google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(value, bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(end - bytes));
}

// A piece of an output, as long as gRPC has it.
struct Piece {
  std::shared_ptr<const void> storage;
  std::shared_ptr<SentBytes> sent;
  std::size_t bytes;

  static void Done(void* pointer) {
    const std::unique_ptr<Piece> piece(static_cast<Piece*>(pointer));
    piece->sent->fetch_add(piece->bytes, std::memory_order_relaxed);
  }
};

void AddPieces(const OutputTensor& output, const std::shared_ptr<SentBytes>& sent,
               std::vector<grpc::Slice>& slices) {
  std::span<const std::byte> left = output.data;
  while (!left.empty()) {
    const std::span<const std::byte> next = left.first(std::min(left.size(), kAnswerPieceBytes));
    left = left.subspan(next.size());
    auto piece = std::make_unique<Piece>(Piece{output.storage, sent, next.size()});
    // gRPC does not write to it.
    slices.emplace_back(const_cast<std::byte*>(next.data()), next.size(), &Piece::Done,
                        piece.release());
  }
}

}  // namespace

grpc::Status WriteInferAnswer(InferCall call, const inference::ModelInferResponse& head,
                              const std::vector<OutputTensor>& outputs,
                              const std::shared_ptr<SentBytes>& sent, grpc::ByteBuffer& bytes) {
  std::size_t size = head.ByteSizeLong();
  for (const OutputTensor& output : outputs) {
    size += 1 + VarintSize(output.data.size()) + output.data.size();
  }
  // With the few bytes that wrap it in a stream.
  if (size > std::numeric_limits<std::int32_t>::max() - 16) {
    return {grpc::StatusCode::INTERNAL, "Failed to serialize message"};
  }
  std::vector<grpc::Slice> slices;
  std::string text;
  if (call == InferCall::kStream) {
    text += kInferResponseTag;
    AppendVarint(size, text);
  }
  head.AppendToString(&text);
  for (const OutputTensor& output : outputs) {
    text += kRawOutputTag;
    AppendVarint(output.data.size(), text);
    if (output.data.size() <= kSmallOutputBytes) {
      text.append(reinterpret_cast<const char*>(output.data.data()), output.data.size());
      continue;
    }
    slices.emplace_back(text);
    text.clear();
    AddPieces(output, sent, slices);
  }
  if (!text.empty() || slices.empty()) slices.emplace_back(text);
  grpc::ByteBuffer(slices.data(), slices.size()).Swap(&bytes);
  return grpc::Status::OK;
}

}  // namespace siglip
