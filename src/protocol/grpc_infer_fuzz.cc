// A serialised ModelInferRequest.
#include <cstdint>

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/check.h"
#include "protocol/kserve_grpc.h"
#include "protocol/protobuf_log.h"
#include "protocol/wire_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  siglip::QuietProtobuf();
  google::protobuf::io::ArrayInputStream wire(data, static_cast<int>(size));
  const auto cost = siglip::CheckWire(*inference::ModelInferRequest::descriptor(), 8 * size, wire);
  auto message = std::make_shared<inference::ModelInferRequest>();
  if (!message->ParseFromArray(data, static_cast<int>(size))) return 0;
  // What protobuf reads passes, unless it has groups or too much.
  if (cost.ok()) SIGLIP_CHECK(message->SpaceUsedLong() <= 2 * *cost + 4096);
  const auto parsed = siglip::ParseGrpcInfer(*message, message);
  if (!parsed.ok()) return 0;
  std::size_t sum = 0;
  for (const auto& tensor : parsed->request->inputs) {
    for (const std::byte b : tensor.data) sum += static_cast<std::size_t>(b);
    for (const std::string_view element : tensor.elements) sum += element.size();
  }
  return sum == static_cast<std::size_t>(-1) ? 1 : 0;
}
