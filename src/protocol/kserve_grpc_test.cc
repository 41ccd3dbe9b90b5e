#include "protocol/kserve_grpc.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<inference::ModelInferRequest> Message() {
  auto message = std::make_shared<inference::ModelInferRequest>();
  message->set_model_name("m");
  auto& input = *message->add_inputs();
  input.set_name("X");
  input.set_datatype("INT64");
  input.add_shape(2);
  return message;
}

absl::StatusOr<ParsedGrpcInfer> Parse(
    const std::shared_ptr<inference::ModelInferRequest>& message) {
  return ParseGrpcInfer(*message, message);
}

void ExpectRefused(const std::shared_ptr<inference::ModelInferRequest>& message,
                   std::string_view text,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const auto parsed = Parse(message);
  EXPECT_EQ(parsed.status().code(), code) << text;
  EXPECT_THAT(parsed.status().message(), HasSubstr(text));
}

TEST(GrpcInfer, DimensionsAreBounded) {
  const auto message = Message();
  for (int i = 0; i < 64; ++i) message->mutable_inputs(0)->add_shape(1);
  ExpectRefused(message, "input 'X': expected at most 64 dimensions, got 65");
}

TEST(GrpcInfer, RawContentsAreViews) {
  auto message = Message();
  message->add_raw_input_contents(std::string(16, 'x'));
  const auto parsed = Parse(message);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(static_cast<const void*>(parsed->request->inputs[0].data.data()),
            message->raw_input_contents(0).data());
  EXPECT_EQ(parsed->request->body, message);
}

TEST(GrpcInfer, TypedContentsAreViews) {
  auto message = Message();
  auto& contents = *message->mutable_inputs(0)->mutable_contents();
  contents.add_int64_contents(3);
  contents.add_int64_contents(-4);
  const auto parsed = Parse(message);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  std::int64_t values[2];
  std::memcpy(values, parsed->request->inputs[0].data.data(), sizeof(values));
  EXPECT_THAT(values, ElementsAre(3, -4));
}

TEST(GrpcInfer, ContentsMustMatchTypeAndShape) {
  auto message = Message();
  message->mutable_inputs(0)->mutable_contents()->add_int64_contents(3);
  ExpectRefused(message, "needs 2 elements of contents, got 1");
  message = Message();
  message->mutable_inputs(0)->mutable_contents()->add_fp32_contents(3);
  ExpectRefused(message, "needs 2 elements of contents, got 0");
  message = Message();
  message->mutable_inputs(0)->mutable_contents()->add_int64_contents(3);
  message->add_raw_input_contents(std::string(16, 'x'));
  ExpectRefused(message, "contents field must not be specified");
  message = Message();
  message->add_raw_input_contents(std::string(15, 'x'));
  ExpectRefused(message, "expected 16 bytes");
  message->add_raw_input_contents("");
  ExpectRefused(message, "expected 16 bytes");
  message->set_raw_input_contents(0, std::string(16, 'x'));
  ExpectRefused(message, "expected number of raw_input_contents to be 1, got 2");
}

TEST(GrpcInfer, SmallIntegersAreRangeChecked) {
  auto message = Message();
  message->mutable_inputs(0)->set_datatype("INT8");
  auto& contents = *message->mutable_inputs(0)->mutable_contents();
  contents.add_int_contents(-128);
  contents.add_int_contents(127);
  EXPECT_TRUE(Parse(message).ok());
  contents.set_int_contents(1, 128);
  ExpectRefused(message, "element 1 does not fit INT8: 128");
}

TEST(GrpcInfer, BytesContentsNeedNoPrefix) {
  auto message = Message();
  message->mutable_inputs(0)->set_datatype("BYTES");
  message->mutable_inputs(0)->mutable_contents()->add_bytes_contents("ab");
  message->mutable_inputs(0)->mutable_contents()->add_bytes_contents("");
  const auto parsed = Parse(message);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->request->inputs[0].elements, ElementsAre("ab", ""));
}

TEST(GrpcInfer, ParameterTypesAreStrict) {
  const auto with = [](const std::string& key, auto set) {
    auto message = Message();
    message->add_raw_input_contents(std::string(16, 'x'));
    set((*message->mutable_parameters())[key]);
    return message;
  };
  const auto boolean = [](inference::InferParameter& p) { p.set_bool_param(true); };
  const auto integer = [](inference::InferParameter& p) { p.set_int64_param(-7); };
  const auto positive = [](inference::InferParameter& p) { p.set_int64_param(7); };
  const auto uint = [](inference::InferParameter& p) { p.set_uint64_param(7); };
  const auto text = [](inference::InferParameter& p) { p.set_string_param("x"); };
  EXPECT_EQ(Parse(with("base64_encoded", boolean))->request->parameters.at("base64_encoded"),
            ParameterValue(true));
  EXPECT_EQ(Parse(with("k", integer))->request->parameters.at("k"),
            ParameterValue(std::int64_t{-7}));
  EXPECT_EQ(Parse(with("priority", uint))->request->priority, 7U);
  EXPECT_EQ(Parse(with("timeout", positive))->request->timeout_us, 7U);
  EXPECT_TRUE(Parse(with("sequence_id", text)).ok());
  EXPECT_TRUE(Parse(with("sequence_id", integer)).ok());
  const auto long_text = [](inference::InferParameter& p) {
    p.set_string_param(std::string(129, 'x'));
  };
  EXPECT_EQ(Parse(with("sequence_id", long_text)).status(),
            absl::UnimplementedError("string correlation ID cannot be longer than 128 characters"));
  EXPECT_EQ(Parse(with("timeout", integer))->request->timeout_us, UINT64_MAX - 6);
  EXPECT_TRUE(Parse(with("triton_enable_empty_final_response", boolean)).ok());
  ExpectRefused(with("k", uint), "invalid value type for 'k'");
  ExpectRefused(with("k", [](auto&) {}), "invalid value type for 'k'");
  ExpectRefused(with("priority", integer), "'priority'");
  ExpectRefused(with("timeout", uint), "'timeout'");
  ExpectRefused(with("sequence_id", uint), "'sequence_id'");
  ExpectRefused(with("sequence_start", text), "'sequence_start'");
  ExpectRefused(with("triton_enable_empty_final_response", text), "bool_param");
  ExpectRefused(with("triton_other", boolean), "reserved");
}

TEST(GrpcInfer, SharedMemoryIsUnimplemented) {
  auto message = Message();
  auto& parameters = *message->mutable_inputs(0)->mutable_parameters();
  parameters["shared_memory_region"].set_string_param("r");
  parameters["shared_memory_byte_size"].set_int64_param(16);
  ExpectRefused(message, "shared memory", absl::StatusCode::kUnimplemented);
}

TEST(GrpcInfer, SharedMemoryIsMeasuredByInt64OrUint64) {
  using Set = void (*)(inference::InferParameter&);
  const auto with = [](const char* key, Set set) {
    auto message = Message();
    auto& parameters = *message->mutable_inputs(0)->mutable_parameters();
    parameters["shared_memory_region"].set_string_param("r");
    parameters["shared_memory_byte_size"].set_int64_param(16);
    set(parameters[key]);
    return message;
  };
  constexpr Set kGood[] = {
      [](auto& p) { p.set_int64_param(0); }, [](auto& p) { p.set_int64_param(INT64_MAX); },
      [](auto& p) { p.set_uint64_param(16); }, [](auto& p) { p.set_uint64_param(UINT64_MAX); }};
  constexpr Set kBad[] = {
      [](auto& p) { p.set_int64_param(-1); },    [](auto& p) { p.set_int64_param(INT64_MIN); },
      [](auto& p) { p.set_string_param("16"); }, [](auto& p) { p.set_double_param(16); },
      [](auto& p) { p.set_bool_param(true); },   [](auto& p) { p.Clear(); }};
  for (const char* key : {"shared_memory_byte_size", "shared_memory_offset"}) {
    // Whether the range lies in a region is asked only of what could be one.
    for (const Set set : kGood) {
      ExpectRefused(with(key, set), "not offered", absl::StatusCode::kUnimplemented);
    }
    for (const Set set : kBad) {
      ExpectRefused(with(key, set), std::string("invalid value type for '") + key + "'");
    }
  }
}

TEST(GrpcInfer, ARegionAndItsSizeGoTogether) {
  for (const bool output : {false, true}) {
    const auto with = [output](const std::string& key, auto set) {
      auto message = Message();
      message->add_raw_input_contents(std::string(16, 'x'));
      message->add_outputs()->set_name("X");
      set((output ? *message->mutable_outputs(0)->mutable_parameters()
                  : *message->mutable_inputs(0)->mutable_parameters())[key]);
      return message;
    };
    const auto number = [](auto& value) { value.set_int64_param(1); };
    ExpectRefused(with("shared_memory_region", [](auto& value) { value.set_string_param("r"); }),
                  "'shared_memory_byte_size' must be specified along with 'shared_memory_region' "
                  "parameter for tensor 'X'");
    ExpectRefused(with("shared_memory_byte_size", number),
                  "'shared_memory_byte_size' can not be specified without 'shared_memory_region' "
                  "parameter for tensor 'X'");
    ExpectRefused(with("shared_memory_offset", number),
                  "'shared_memory_offset' can not be specified without 'shared_memory_region' "
                  "parameter for tensor 'X'");
  }
}

TEST(GrpcInfer, InputsAndOutputsAreBounded) {
  auto message = std::make_shared<inference::ModelInferRequest>();
  for (int i = 0; i < 129; ++i) message->add_outputs()->set_name("o" + std::to_string(i));
  ExpectRefused(message, "outputs: more than 128 entries");
  for (int i = 0; i < 129; ++i) message->add_inputs()->set_name("i" + std::to_string(i));
  ExpectRefused(message, "inputs: more than 128 entries");
}

TEST(GrpcInfer, ParametersAndTheIdAreBounded) {
  const auto fill = [](int count, auto* parameters) {
    for (int i = 0; i < count; ++i) (*parameters)[std::to_string(i)].set_int64_param(1);
  };
  auto message = Message();
  message->add_raw_input_contents(std::string(16, 'x'));
  message->set_id(std::string(65536, 'i'));
  fill(256, message->mutable_parameters());
  EXPECT_EQ(Parse(message)->request->parameters.size(), 256U);
  fill(257, message->mutable_inputs(0)->mutable_parameters());
  ExpectRefused(message, "parameters: more than 256 entries");
  fill(257, message->add_outputs()->mutable_parameters());
  message->mutable_inputs(0)->clear_parameters();
  message->mutable_outputs(0)->set_name("O");
  ExpectRefused(message, "parameters: more than 256 entries");
  message->clear_outputs();
  fill(257, message->mutable_parameters());
  ExpectRefused(message, "parameters: more than 256 entries");
  message->set_id(std::string(65537, 'i'));
  EXPECT_EQ(Parse(message).status().message(), "id: expected at most 65536 bytes, got 65537");
}

TEST(GrpcInfer, ContentsAreOfOneType) {
  auto message = Message();
  auto& contents = *message->mutable_inputs(0)->mutable_contents();
  contents.add_int64_contents(3);
  contents.add_int64_contents(-4);
  contents.add_bytes_contents("x");
  ExpectRefused(message, "input 'X': expected contents of one type, got several");
}

TEST(GrpcInfer, ClassesAreAskedForByACount) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  for (const std::int64_t count :
       {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1}, std::int64_t{1} << 32,
        std::numeric_limits<std::int64_t>::max()}) {
    auto message = Message();
    message->add_raw_input_contents(std::string(16, 'x'));
    auto& output = *message->add_outputs();
    output.set_name("O");
    (*output.mutable_parameters())["classification"].set_int64_param(count);
    if (count > 0) {
      EXPECT_EQ(Parse(message)->request->outputs[0].classification, std::min(count, kMost));
    } else {
      ExpectRefused(message, "'classification' parameter, expected an int64_param of at least 1");
    }
  }
}

TEST(GrpcInfer, InputsAreNamedOnceAndOutputsAskedForOnce) {
  auto message = Message();
  *message->add_inputs() = message->inputs(0);
  message->add_raw_input_contents(std::string(16, 'x'));
  message->add_raw_input_contents(std::string(16, 'x'));
  message->set_id("q");
  ExpectRefused(message, "[request id: q] input 'X' already exists");
  message = Message();
  message->add_raw_input_contents(std::string(16, 'x'));
  message->add_outputs()->set_name("O");
  message->add_outputs()->set_name("O");
  EXPECT_EQ(Parse(message)->request->outputs.size(), 1U);
}

TEST(RenderGrpcInfer, AllButTheOutputsBytes) {
  InferResponse response;
  response.id = "i";
  response.model_name = "m";
  response.model_version = "1";
  response.parameters["f"] = true;
  const std::string bytes(8, 'b');
  response.outputs.resize(2);
  response.outputs[0].name = "A";
  response.outputs[0].shape = {1, 2};
  response.outputs[0].data = std::as_bytes(std::span(bytes));
  response.outputs[1].name = "B";
  inference::ModelInferResponse message;
  RenderGrpcInfer(response, message);
  ASSERT_EQ(message.outputs_size(), 2);
  EXPECT_EQ(message.raw_output_contents_size(), 0);
  EXPECT_EQ(message.outputs(0).datatype(), "FP32");
  EXPECT_TRUE(message.parameters().at("f").bool_param());
}

}  // namespace
}  // namespace siglip
