#include "protocol/wire_check.h"

#include <string>

#include <gmock/gmock.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include "grpc_service.pb.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

// Read in pieces of 7 bytes, so that every kind of field is cut somewhere.
absl::StatusOr<std::size_t> CheckBytes(const std::string& bytes,
                                       std::size_t max_number_bytes = 1000) {
  google::protobuf::io::ArrayInputStream wire(bytes.data(), static_cast<int>(bytes.size()), 7);
  return CheckWire(*inference::ModelInferRequest::descriptor(), max_number_bytes, wire);
}

std::string Repeated(std::string_view bytes, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += bytes;
  return text;
}

std::string Block(char tag, std::string_view bytes) {
  std::string text{tag};
  std::size_t size = bytes.size();
  for (; size >= 128; size >>= 7) text += static_cast<char>((size & 127) | 128);
  return text + static_cast<char>(size) + std::string(bytes);
}

TEST(CheckWire, AWholeRequestCostsAboutWhatItHolds) {
  inference::ModelInferRequest request;
  request.set_model_name("m");
  auto& input = *request.add_inputs();
  input.set_name("X");
  input.set_datatype("INT64");
  for (int i = 0; i < 20; ++i) {
    input.add_shape(1 << i);
    input.mutable_contents()->add_int64_contents(-i);
    input.mutable_contents()->add_fp32_contents(1);
    input.mutable_contents()->add_bool_contents(true);
    input.mutable_contents()->add_bytes_contents("text");
  }
  (*request.mutable_parameters())["p"].set_int64_param(1);
  request.add_raw_input_contents(std::string(5000, 'x'));
  const auto cost = CheckBytes(request.SerializeAsString());
  ASSERT_TRUE(cost.ok()) << cost.status();
  EXPECT_GE(*cost, 5000 + 20 * (8 + 8 + 4 + 1 + 4));
  EXPECT_GE(*cost, request.SpaceUsedLong());
  EXPECT_LE(*cost, 20'000);
  EXPECT_TRUE(CheckBytes("").ok());
}

TEST(CheckWire, FieldsAreCountedWhereverTheyAre) {
  const std::string input("\x2a\x00", 2);
  const std::string unknown("\x7a\x00", 2);
  const std::string string_contents("\x42\x00", 2);
  const std::string parameters("\x22\x00", 2);
  EXPECT_TRUE(CheckBytes(Repeated(input, kMaxWireFields)).ok());
  const std::size_t many = kMaxWireFields + 1;
  for (const std::string& bytes :
       {Repeated(input, many), Repeated(unknown, many), Repeated(parameters, many),
        Block(0x2a, Block(0x2a, Repeated(string_contents, many))),
        Block(0x2a, Block(0x2a, Repeated(unknown, many))),
        Repeated(Block(0x2a, parameters), many / 2 + 1)}) {
    const absl::Status status = CheckBytes(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("more than 65536 fields"));
  }
}

TEST(CheckWire, PackedNumbersCountAsWhatTheyBecome) {
  for (const char field : {'\x1a', '\x22'}) {  // int64_contents, uint_contents
    const std::size_t width = field == '\x1a' ? 8 : 4;
    const std::string fits(1000 / width, '\x01');
    EXPECT_TRUE(CheckBytes(Block(0x2a, Block(0x2a, Block(field, fits)))).ok());
    EXPECT_THAT(
        std::string(
            CheckBytes(Block(0x2a, Block(0x2a, Block(field, fits + '\x01')))).status().message()),
        HasSubstr("more than 1000 bytes of memory"));
  }
  // shape, of two inputs together
  const std::string shape = Block(0x2a, Block(0x1a, std::string(63, '\x01')));
  EXPECT_TRUE(CheckBytes(shape).ok());
  EXPECT_FALSE(CheckBytes(shape + shape).ok());
  EXPECT_TRUE(CheckBytes(Block(0x3a, std::string(5000, '\x01'))).ok()) << "bytes are no numbers";
}

TEST(CheckWire, BrokenBytesAreInternal) {
  for (const std::string& bytes :
       {std::string("\x0a"), std::string("\x0a\x05x"), std::string("\x00", 1),
        std::string("\x2a\x03\x0a\x05x"), std::string("\x0b"), std::string("\x0b\x0c"),
        std::string("\x2a\xff\xff\xff\xff\x0f"), std::string("\x08\x80")}) {
    EXPECT_EQ(CheckBytes(bytes).status().code(), absl::StatusCode::kInternal) << bytes;
  }
}

}  // namespace
}  // namespace siglip
