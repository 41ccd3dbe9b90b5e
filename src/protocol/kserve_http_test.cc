#include "protocol/kserve_http.h"

#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/text.h"

namespace siglip {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<ParsedInfer> Parse(std::string_view json, std::string_view tail = "",
                                  std::optional<std::string> header = std::nullopt) {
  HttpInferInput input;
  input.model_name = "m";
  if (!header && !tail.empty()) header = std::to_string(json.size());
  if (header) input.header_length = *header;
  input.body = std::make_shared<PaddedBody>(Concat(json, tail));
  return ParseHttpInfer(input);
}

std::string OneInput(std::string_view rest) {
  return Concat(R"({"inputs":[{"name":"X",)", rest, "}]}");
}

template <class T>
std::vector<T> Values(const InputTensor& tensor) {
  std::vector<T> out(tensor.data.size() / sizeof(T));
  std::memcpy(out.data(), tensor.data.data(), tensor.data.size());
  return out;
}

void ExpectRefused(const absl::StatusOr<ParsedInfer>& parsed, std::string_view text,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  ASSERT_FALSE(parsed.ok()) << text;
  EXPECT_EQ(parsed.status().code(), code);
  EXPECT_THAT(parsed.status().message(), HasSubstr(text));
}

TEST(HttpInfer, JsonStringsAreViewsOfTheBody) {
  const auto parsed =
      Parse(R"({"id":"7","inputs":[{"name":"INPUT_IMAGE","shape":[2,1],"datatype":"BYTES",)"
            R"("data":[["aGVsbG8="] , ["d29ybGQ="]]}],"parameters":{"base64_encoded":true}})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const InferRequest& request = *parsed->request;
  EXPECT_EQ(request.id, "7");
  EXPECT_EQ(request.model_name, "m");
  ASSERT_EQ(request.inputs.size(), 1U);
  EXPECT_THAT(request.inputs[0].elements, ElementsAre("aGVsbG8=", "d29ybGQ="));
  EXPECT_THAT(request.inputs[0].shape, ElementsAre(2, 1));
  EXPECT_EQ(request.inputs[0].storage, nullptr);
  EXPECT_EQ(request.parameters.at("base64_encoded"), ParameterValue(true));
  const auto& body = *static_cast<const PaddedBody*>(request.body.get());
  EXPECT_GE(request.inputs[0].elements[0].data(), body.data());
  EXPECT_LT(request.inputs[0].elements[0].data(), body.data() + body.size());
  EXPECT_FALSE(parsed->binary.IsBinary("EMBEDDING"));
}

TEST(HttpInfer, EscapedStringsAreUnescapedAndOutliveTheParser) {
  const auto parsed = Parse(OneInput(
      R"("shape":[4],"datatype":"BYTES","data":["a\nb","\u00e9\ud83d\ude00","","plain"])"));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->request->inputs[0].elements,
              ElementsAre("a\nb", "\xC3\xA9\xF0\x9F\x98\x80", "", "plain"));
  EXPECT_NE(parsed->request->inputs[0].storage, nullptr);
}

TEST(HttpInfer, NestedAndFlatDataAreTheSame) {
  for (const char* data :
       {"[1,2.5,-3e2,4,5,6]", "[[1,2.5,-3e2],[4,5,6]]", "[ [ [1],[2.5],[-3e2,4,5],6 ] ]"}) {
    const auto parsed = Parse(OneInput(Concat(R"("shape":[2,3],"datatype":"FP32","data":)", data)));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_THAT(Values<float>(parsed->request->inputs[0]), ElementsAre(1, 2.5, -300, 4, 5, 6));
  }
}

TEST(HttpInfer, FieldOrderDoesNotMatter) {
  const auto parsed = Parse(
      R"({"outputs":[],"inputs":[{"data":[1,[2]],"shape":[2],"datatype":"INT64","name":"X"}],"id":""})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(Values<std::int64_t>(parsed->request->inputs[0]), ElementsAre(1, 2));
}

// No JSON, but what rapidjson and Python write for them: perf_analyzer's random data holds some.
TEST(HttpInfer, FloatsMayBeNoNumberOrInfinite) {
  for (const char* form :
       {R"("shape":[6],"datatype":"FP32","data":%)", R"("data":%,"shape":[6],"datatype":"FP32")"}) {
    std::string rest = form;
    rest.replace(rest.find('%'), 1, "[NaN, [-NaN,Infinity],\n-Infinity ,Inf,-Inf\r\n]");
    const auto parsed = Parse(OneInput(rest));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto values = Values<float>(parsed->request->inputs[0]);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    ASSERT_EQ(values.size(), 6U);
    EXPECT_TRUE(std::isnan(values[0]) && std::isnan(values[1]));
    EXPECT_THAT(std::vector<float>(values.begin() + 2, values.end()),
                ElementsAre(kInfinity, -kInfinity, kInfinity, -kInfinity));
  }
  EXPECT_TRUE(Parse(OneInput(R"("shape":[1],"datatype":"FP64","data":[NaN])")).ok());
  for (const char* broken : {"NaNs", "nan", "inf", "Infinit", "--Inf", "+Inf", "-", "N", "1NaN"}) {
    EXPECT_FALSE(
        Parse(OneInput(Concat(R"("shape":[1],"datatype":"FP32","data":[)", broken, "]"))).ok())
        << broken;
  }
  for (const char* type : {"INT32", "UINT8", "BOOL", "BYTES"}) {
    ExpectRefused(Parse(OneInput(Concat(R"("shape":[1],"data":[NaN],"datatype":")", type, "\""))),
                  "element 0");
  }
}

TEST(HttpInfer, AShapeHas64DimensionsAtMost) {
  const auto with_dimensions = [](int count) {
    std::string shape = "1";
    for (int i = 1; i < count; ++i) shape += ",1";
    return Parse(OneInput(Concat(R"("shape":[)", shape, R"(],"datatype":"INT8","data":[1])")));
  };
  EXPECT_TRUE(with_dimensions(64).ok());
  ExpectRefused(with_dimensions(65), "input shape: more than 64 entries");
}

TEST(HttpInfer, IntegersAreCheckedForTheirType) {
  EXPECT_TRUE(Parse(OneInput(R"("shape":[1],"datatype":"INT8","data":[-128])")).ok());
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"INT8","data":[128])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"UINT8","data":[-1])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"INT64","data":[1.5])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"INT64","data":[9223372036854775808])")),
                "element 0");
  EXPECT_TRUE(
      Parse(OneInput(R"("shape":[1],"datatype":"UINT64","data":[18446744073709551615])")).ok());
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"BOOL","data":[1])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"BYTES","data":[1])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"FP32","data":["1"])")), "element 0");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"FP16","data":[1])")),
                "cannot be sent as JSON");
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"FP31","data":[1])")), "unknown datatype");
}

TEST(HttpInfer, ElementCountMustMatchTheShape) {
  ExpectRefused(Parse(OneInput(R"("shape":[2],"datatype":"FP32","data":[1])")), "needs 2 elements");
  ExpectRefused(Parse(OneInput(R"("shape":[2],"datatype":"FP32","data":[1,2,3])")), "got more");
  ExpectRefused(Parse(OneInput(R"("shape":[-1],"datatype":"FP32","data":[1])")), "at least 0");
  ExpectRefused(Parse(OneInput(R"("shape":[99999999999],"datatype":"FP32","data":[1])")),
                "got fewer");
  ExpectRefused(
      Parse(OneInput(R"("shape":[2147483648,2147483648,4],"datatype":"FP32","data":[1])")),
      "63 bits");
}

TEST(HttpInfer, BinaryTailIsCutInInputOrder) {
  const std::string json =
      R"({"inputs":[{"name":"A","shape":[1],"datatype":"INT32","parameters":{"binary_data_size":4}},)"
      R"({"name":"B","shape":[1],"datatype":"INT32","data":[5]},)"
      R"({"name":"C","shape":[1,1],"datatype":"BYTES","parameters":{"binary_data_size":6}}],)"
      R"("outputs":[{"name":"O","parameters":{"binary_data":true}},{"name":"P"}]})";
  const std::string tail("\x02\x00\x00\x00\x02\x00\x00\x00hi", 10);
  const auto parsed = Parse(json, tail);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(Values<std::int32_t>(parsed->request->inputs[0]), ElementsAre(2));
  EXPECT_THAT(Values<std::int32_t>(parsed->request->inputs[1]), ElementsAre(5));
  EXPECT_THAT(parsed->request->inputs[2].elements, ElementsAre("hi"));
  EXPECT_TRUE(parsed->binary.IsBinary("O"));
  EXPECT_FALSE(parsed->binary.IsBinary("P"));
  ExpectRefused(Parse(json, tail + "x"), "unexpected additional input data for model 'm'");
  ExpectRefused(Parse(json, tail.substr(0, 7)),
                "unexpected size for input 'C', expecting 3 additional bytes for model 'm'");
}

TEST(HttpInfer, HeaderLengthIsStrict) {
  const std::string json = OneInput(R"("shape":[1],"datatype":"FP32","data":[1])");
  EXPECT_TRUE(Parse(json, "", std::to_string(json.size())).ok());
  for (const char* bad :
       {"99999999999", "99999999999999999999999", "-1", "+5", "0x5", "5 ", "", "a"}) {
    ExpectRefused(Parse(json, "", bad), "inference header size should be in range");
  }
  ExpectRefused(Parse(json, "", std::to_string(json.size() + 1)), "should be in range");
}

TEST(HttpInfer, LengthZeroIsARawRequest) {
  const std::string image("\xFF\xD8\xFF\x00z", 5);
  const auto parsed = Parse(image, "", "0");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->request->deduce_input);
  ASSERT_EQ(parsed->request->inputs.size(), 1U);
  EXPECT_EQ(parsed->request->inputs[0].data.size(), 5U);
  EXPECT_TRUE(parsed->binary.IsBinary("EMBEDDING"));
}

TEST(HttpInfer, ParameterRules) {
  const auto with = [](std::string_view parameters) {
    return Parse(Concat(R"({"parameters":)", parameters, R"(,"inputs":[]})"));
  };
  const auto parsed =
      with(R"({"s":"x","i":-3,"d":1.5,"b":false,"priority":2,"timeout":900,"sequence_id":"q",)"
           R"("sequence_start":true,"binary_data_output":true})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const InferRequest& request = *parsed->request;
  EXPECT_EQ(request.parameters.size(), 4U);
  EXPECT_EQ(request.parameters.at("s"), ParameterValue("x"));
  EXPECT_EQ(request.parameters.at("i"), ParameterValue(std::int64_t{-3}));
  EXPECT_EQ(request.parameters.at("d"), ParameterValue(1.5));
  EXPECT_EQ(request.priority, 2U);
  EXPECT_EQ(request.timeout_us, 900U);
  EXPECT_TRUE(parsed->binary.IsBinary("any"));
  EXPECT_EQ(with(R"({"u":18446744073709551615})")->request->parameters.at("u"),
            ParameterValue(18446744073709551615.0));
  EXPECT_EQ(with(R"({"u":-184467440737095516160})")->request->parameters.at("u"),
            ParameterValue(-184467440737095516160.0));
  ExpectRefused(with(R"({"triton_enable_empty_final_response":false})"), "reserved");
  ExpectRefused(with(R"({"a":null})"), "parameter 'a'");
  ExpectRefused(with(R"({"a":[1]})"), "parameter 'a'");
  ExpectRefused(with(R"({"a":{}})"), "parameter 'a'");
  ExpectRefused(with(R"({"priority":-1})"), "parameter 'priority'");
  ExpectRefused(with(R"({"binary_data_output":1})"), "parameter 'binary_data_output'");
  ExpectRefused(with("[]"), "expected an object");
  const auto sequence = [&with](std::size_t bytes) {
    return with(Concat(R"({"sequence_id":")", std::string(bytes, 'x'), "\"}"));
  };
  EXPECT_TRUE(sequence(128).ok());
  EXPECT_EQ(sequence(129).status(),
            absl::UnimplementedError("string correlation ID cannot be longer than 128 characters"));
}

// As Triton, which finds nothing in them that it looks for.
TEST(HttpInfer, ParametersOfATensorThatAreNoObjectSayNothing) {
  for (const char* value : {"null", "[]", R"([{"binary_data":true}])", "5", "\"x\"", "true"}) {
    const auto parsed = Parse(Concat(
        R"({"inputs":[{"name":"X","datatype":"BYTES","shape":[1],"data":["a"],"parameters":)",
        value, R"(}],"outputs":[{"name":"O","parameters":)", value, "}]}"));
    ASSERT_TRUE(parsed.ok()) << value << parsed.status();
    EXPECT_EQ(parsed->request->outputs.at(0).name, "O");
    EXPECT_FALSE(parsed->binary.IsBinary("O"));
  }
  ExpectRefused(Parse(R"({"outputs":[{"name":"O","parameters":[1,]}],"inputs":[]})"), "parse");
}

// As Triton: the request's default is no wish for outputs that are listed without one.
TEST(HttpInfer, BinaryDataOutputIsForOutputsThatAreNotListed) {
  for (const char* order :
       {R"({"parameters":{"binary_data_output":true},"outputs":[%],"inputs":[]})",
        R"({"outputs":[%],"inputs":[],"parameters":{"binary_data_output":true}})"}) {
    const auto with = [order](std::string_view outputs) {
      std::string json = order;
      return Parse(json.replace(json.find('%'), 1, outputs));
    };
    EXPECT_TRUE(with("")->binary.IsBinary("O"));
    EXPECT_FALSE(with(R"({"name":"O"})")->binary.IsBinary("O"));
    EXPECT_FALSE(with(R"({"name":"O","parameters":{}})")->binary.IsBinary("O"));
    EXPECT_FALSE(with(R"({"name":"O","parameters":null})")->binary.IsBinary("O"));
    EXPECT_TRUE(with(R"({"name":"O","parameters":{"binary_data":true}})")->binary.IsBinary("O"));
  }
}

TEST(HttpInfer, ParametersAndTheIdAreBounded) {
  const auto with = [](int count) {
    std::string json = R"({"id":"q","inputs":[],"parameters":{)";
    for (int i = 0; i < count; ++i) AppendAll(json, i == 0 ? "\"" : ",\"", i, "\":1");
    return Parse(json + "}}");
  };
  EXPECT_EQ(with(256)->request->parameters.size(), 256U);
  ExpectRefused(with(257), "[request id: q] parameters: more than 256 entries");
  const auto id = [](std::size_t bytes) {
    return Parse(Concat(R"({"id":")", std::string(bytes, 'i'), R"(","inputs":[]})"));
  };
  EXPECT_EQ(id(65536)->request->id.size(), 65536U);
  EXPECT_EQ(id(65537).status().message(), "id: expected at most 65536 bytes, got 65537");
}

TEST(HttpInfer, ExactlyOneSourceOfData) {
  ExpectRefused(Parse(OneInput(R"("shape":[1],"datatype":"FP32")")), "no field is");
  ExpectRefused(
      Parse(OneInput(
                R"("shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4})"),
            "abcd"),
      "multiple fields are");
  ExpectRefused(
      Parse(OneInput(R"("shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"})")),
      "shared memory", absl::StatusCode::kUnimplemented);
  // What goes with a region means nothing where none is named.
  for (const char* stray : {R"("shared_memory_offset":0)", R"("shared_memory_byte_size":10)",
                            R"("shared_memory_region":"")"}) {
    const auto parsed = Parse(
        OneInput(Concat(R"("shape":[1],"datatype":"FP32","data":[7],"parameters":{)", stray, "}")));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_THAT(Values<float>(parsed->request->inputs[0]), ElementsAre(7));
    ExpectRefused(
        Parse(OneInput(Concat(R"("shape":[1],"datatype":"FP32","parameters":{)", stray, "}"))),
        "no field is");
  }
}

TEST(HttpInfer, AnOutputInSharedMemoryHasNoOtherForm) {
  const auto with = [](std::string_view more) {
    const SharedMemoryRegions regions({.allowed = true, .max_read_bytes = 64});
    HttpInferInput input;
    input.model_name = "m";
    input.regions = &regions;
    input.body = std::make_shared<PaddedBody>(
        Concat(R"({"inputs":[],"outputs":[{"name":"Y","parameters":{"shared_memory_region":"r",)"
               R"("shared_memory_byte_size":4)",
               more, "}}]}"));
    return ParseHttpInfer(input);
  };
  ExpectRefused(with(R"(,"binary_data":true)"), "got both");
  ExpectRefused(with(R"(,"classification":1)"), "got both");
  ExpectRefused(with(R"(,"binary_data":false)"), "Unable to find shared memory region: 'r'",
                absl::StatusCode::kNotFound);
}

TEST(HttpInfer, BrokenRequestsAreRefused) {
  for (const char* json : {"", " ", "{", "[]", "1", "null", "{\"inputs\":[]", "{\"inputs\":[]}x",
                           "{\"inputs\":{}}", "{\"inputs\":[1]}", "{\"inputs\":[],\"inputs\":[]}",
                           "{\"id\":7,\"inputs\":[]}", "{}", "{\"inputs\":[],\"other\":[1 2]}",
                           "{\"inputs\":[{}]}", "{\"inputs\":[],}", "{\"inputs\":[],\"x\":tru}",
                           "{\"inputs\":[{\"name\":\"X\"}]}", "{\"inputs\":[],\"x\":\"\xFF\"}"}) {
    EXPECT_EQ(Parse(json).status().code(), absl::StatusCode::kInvalidArgument) << json;
  }
}

TEST(HttpInfer, BrokenJsonIsLocated) {
  ExpectRefused(Parse("{\"inputs\":[],\"x\":\"\u00e9\xFF\"}"), "invalid UTF-8 at byte 20");
  ExpectRefused(Parse("{\"inputs\":[],\"x\":\"\xE2\x82\"}"), "invalid UTF-8 at byte 18");
  ExpectRefused(Parse("{\"inputs\":[],\"other\":[1 2]}"), "at byte 24");
  ExpectRefused(Parse("{\"inputs\":[],\"x\":tru}"), "at byte 17");
  ExpectRefused(Parse("{\"inputs\":[],\"x\":\"}\\\"\"} x"),
                "expected nothing behind the object that ends at byte 22");
  ExpectRefused(Parse(std::string_view("{\"inputs\":[]}\0", 14)),
                "expected nothing behind the object that ends at byte 12");
  ExpectRefused(Parse("{\"inputs\":[]}{\"inputs\":[]}"), "at byte 13");
  ExpectRefused(Parse("{\"inputs\":[{\"name\":\"}"), "failed to parse");
  ExpectRefused(Parse("{\"inputs\":[]"), "the object does not end, at byte 12");
}

TEST(HttpInfer, AByteOrderMarkIsNoPartOfTheJson) {
  EXPECT_TRUE(Parse("\xEF\xBB\xBF{\"inputs\":[]}").ok());
  ExpectRefused(Parse("\xEF\xBB\xBF{\"inputs\":[],\"x\":\"\xFF\"}"), "invalid UTF-8 at byte 21");
  ExpectRefused(Parse("\xEF\xBB\xBF{\"inputs\":[],\"x\":tru}"), "at byte 20");
  ExpectRefused(Parse("\xEF\xBB\xBF"), "failed to parse");
  ExpectRefused(Parse("\xEF\xBB\xBF\xEF\xBB\xBF{\"inputs\":[]}"), "expected an object");
}

TEST(HttpInfer, DuplicatesAndLongListsAreRefused) {
  const std::string input = R"({"name":"X","shape":[1],"datatype":"FP32","data":[1]})";
  ExpectRefused(Parse(Concat("{\"inputs\":[", input, ",", input, "]}")), "already exists");
  for (const char* twice : {R"("name":"Y","shape":[1],"datatype":"INT64","data":[1])",
                            R"("datatype":"FP64","shape":[1],"data":[2.5e-323],"datatype":"INT64")",
                            R"("datatype":"INT64","shape":[1],"data":[1],"datatype":"INT64")",
                            R"("datatype":"INT64","shape":[1],"data":[1],"shape":[1])",
                            R"("datatype":"INT64","shape":[1],"data":[1],"data":[1])",
                            R"("datatype":"INT64","shape":[1],"data":[1],"parameters":null,)"
                            R"("parameters":{})"}) {
    ExpectRefused(Parse(OneInput(twice)), "is given twice");
  }
  for (const char* twice :
       {R"("name":"O","name":"P")", R"("name":"O","parameters":{},"parameters":{})"}) {
    ExpectRefused(Parse(Concat(R"({"inputs":[],"outputs":[{)", twice, "}]}")), "is given twice");
  }
  ExpectRefused(Parse(R"({"inputs":[],"parameters":{"a":1,"\u0061":2}})"), "'a' is given twice");
  ExpectRefused(Parse(R"({"inputs":[],"parameters":{"priority":1,"priority":2}})"),
                "'priority' is given twice");
  ExpectRefused(Parse(R"({"inputs":[{"name":"X","shape":[1],"datatype":"FP32",)"
                      R"("parameters":{"binary_data_size":4,"binary_data_size":5}}]})"),
                "'binary_data_size' is given twice");
  ExpectRefused(Parse(R"({"inputs":[],"outputs":[{"name":"O",)"
                      R"("parameters":{"binary_data":true,"binary_data":false}}]})"),
                "'binary_data' is given twice");
  std::string outputs;
  for (int i = 0; i < 200; ++i) AppendAll(outputs, i ? "," : "", "{\"name\":\"", i, "\"}");
  ExpectRefused(Parse(Concat(R"({"inputs":[],"outputs":[)", outputs, "]}")), "more than 128");
}

// As Triton.
TEST(HttpInfer, AnOutputThatIsListedTwiceIsAskedForOnce) {
  const auto parsed = Parse(
      R"({"inputs":[],"outputs":[{"name":"O","parameters":{"binary_data":true}},{"name":"P"},)"
      R"({"name":"O","parameters":{"classification":2}}]})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->request->outputs.size(), 2U);
  EXPECT_EQ(parsed->request->outputs[0].classification, 0);
  EXPECT_TRUE(parsed->binary.IsBinary("O"));
}

// As many as there are, not what is left of the number in 32 bits.
TEST(HttpInfer, CountsOfClassesDoNotWrap) {
  const auto parse = [](std::string_view count) {
    return Parse(Concat(R"({"inputs":[],"outputs":[{"name":"O","parameters":{"classification":)",
                        count, "}}]}"));
  };
  for (const char* count : {"4294967295", "4294967296", "4294967297", "18446744073709551615"}) {
    const auto parsed = parse(count);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->request->outputs[0].classification, std::numeric_limits<std::int32_t>::max())
        << count;
  }
  for (const char* count : {"18446744073709551616", "-1", "1.5"}) {
    ExpectRefused(parse(count), "parameter 'classification': expected an unsigned integer");
  }
}

TEST(HttpInfer, ErrorsCarryTheRequestId) {
  ExpectRefused(Parse(R"({"id":"q1","inputs":[{}]})"), "[request id: q1] ");
}

TEST(HttpInfer, DeepDataIsRefused) {
  const std::string open(200, '['), close(200, ']');
  ExpectRefused(
      Parse(OneInput(Concat(R"("shape":[1],"datatype":"FP32","data":)", open, "1", close))),
      "nesting depth");
  ExpectRefused(Parse(Concat(R"({"inputs":[],"x":)", open, close, "}")), "nesting depth");
}

InferResponse Response() {
  static const float kValues[] = {1.0F, -0.5F};
  InferResponse response;
  response.model_name = "m";
  response.model_version = "1";
  OutputTensor output;
  output.name = "EMBEDDING";
  output.shape = {1, 2};
  output.data = std::as_bytes(std::span(kValues));
  response.outputs.push_back(output);
  return response;
}

TEST(RenderHttpInfer, JsonHasTritonsKeyOrder) {
  InferResponse response = Response();
  const auto plain = RenderHttpInfer(response, {});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->json, R"({"model_name":"m","model_version":"1","outputs":[{"name":"EMBEDDING",)"
                         R"("datatype":"FP32","shape":[1,2],"data":[1.0,-0.5]}]})");
  EXPECT_FALSE(plain->binary);
  response.id = "a\"b";
  response.parameters["p"] = std::int64_t{3};
  const auto full = RenderHttpInfer(response, {.by_default = true, .by_name = {}});
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->json,
            R"({"id":"a\"b","model_name":"m","model_version":"1","parameters":{"p":3},"outputs":)"
            R"([{"name":"EMBEDDING","datatype":"FP32","shape":[1,2],"parameters":)"
            R"({"binary_data_size":8}}]})");
  ASSERT_EQ(full->blocks.size(), 1U);
  EXPECT_EQ(full->blocks[0].data(), response.outputs[0].data.data());
  EXPECT_TRUE(full->binary);
}

TEST(RenderHttpInfer, BytesOutputsBecomeStrings) {
  InferResponse response = Response();
  const std::string bytes(
      "\x03\x00\x00\x00"
      "0:1",
      7);
  response.outputs[0].datatype = DataType::kBytes;
  response.outputs[0].shape = {1};
  response.outputs[0].data = std::as_bytes(std::span(bytes));
  const auto answer = RenderHttpInfer(response, {});
  ASSERT_TRUE(answer.ok());
  EXPECT_THAT(answer->json, HasSubstr(R"("data":["0:1"])"));
}

TEST(IndexRequest, BodyIsOptional) {
  EXPECT_FALSE(*ParseIndexRequest(PaddedBody()));
  EXPECT_FALSE(*ParseIndexRequest(PaddedBody("{}")));
  EXPECT_TRUE(*ParseIndexRequest(PaddedBody(R"({"ready":true})")));
  EXPECT_FALSE(ParseIndexRequest(PaddedBody(R"({"ready":1})")).ok());
  EXPECT_FALSE(ParseIndexRequest(PaddedBody("[")).ok());
  EXPECT_FALSE(ParseIndexRequest(PaddedBody(R"({"ready":true,"ready":false})")).ok());
}

TEST(RenderHttpInfer, HalfPrecisionIsBinaryOnly) {
  for (const DataType type : {DataType::kFp16, DataType::kBf16}) {
    const std::uint16_t value = 0x3c00;
    InferResponse response;
    response.outputs.push_back({.name = "Y", .datatype = type, .shape = {1}});
    response.outputs[0].data = std::as_bytes(std::span(&value, 1));
    const auto json = RenderHttpInfer(response, {});
    EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(json.status().message()),
                HasSubstr("data via JSON is not supported. Please use the binary data format"));
    EXPECT_TRUE(RenderHttpInfer(response, {.by_default = true}).ok());
  }
}

TEST(RenderHttpInfer, WhatLiesInSharedMemoryHasNoData) {
  InferResponse response;
  response.model_name = "m";
  response.model_version = "1";
  response.outputs.push_back({.name = "Y", .shape = {1, 2}});
  OutputForms forms{.by_default = true};
  forms.shared_memory["Y"] = {.region = "r", .byte_size = 8};
  const auto answer = RenderHttpInfer(response, forms);
  ASSERT_TRUE(answer.ok());
  EXPECT_FALSE(answer->binary);
  EXPECT_EQ(answer->json, R"({"model_name":"m","model_version":"1","outputs":[)"
                          R"({"name":"Y","datatype":"FP32","shape":[1,2]}]})");
}

}  // namespace
}  // namespace siglip
