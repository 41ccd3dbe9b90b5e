#include "protocol/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/model_config.h"
#include "protocol/text.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

template <class T>
std::string Error(const absl::StatusOr<T>& result) {
  return result.ok() ? "ok" : std::string(result.status().message());
}

TEST(Control, BodiesAreOptionalObjects) {
  EXPECT_TRUE(ParseLoadBody("").ok());
  EXPECT_TRUE(ParseUnloadBody("{}").ok());
  for (const char* body : {"[]", "{", "1", "\xff", "{} x"}) {
    EXPECT_THAT(Error(ParseLoadBody(body)), HasSubstr("failed to parse")) << body;
    EXPECT_THAT(Error(ParseTraceBody(body)), HasSubstr("failed to parse")) << body;
  }
  const std::string deep(100000, '[');
  EXPECT_THAT(Error(ParseLogBody("{\"a\":" + deep)), HasSubstr("deep"));
}

TEST(Control, WhatIsGivenTwiceIsRefused) {
  const auto twice = HasSubstr("is given twice");
  EXPECT_THAT(Error(ParseLoadBody(R"({"parameters":{},"parameters":{}})")), twice);
  EXPECT_THAT(Error(ParseLoadBody(R"({"parameters":{"config":"{}","config":"{}"}})")), twice);
  EXPECT_THAT(Error(ParseUnloadBody(
                  R"({"parameters":{"unload_dependents":false,"unload_dependents":true}})")),
              twice);
  EXPECT_THAT(Error(ParseRegionBody(SharedMemoryKind::kSystem,
                                    R"({"key":"a","byte_size":1,"byte_size":2})")),
              twice);
  EXPECT_THAT(Error(ParseTraceBody(R"({"trace_rate":"1","trace_rate":"2"})")), twice);
  EXPECT_THAT(Error(ParseLogBody(R"({"log_info":true,"log_info":false})")), twice);
  EXPECT_THAT(Error(ParseLogBody(R"({"a\n":true,"a\u000a":false})")),
              ::testing::AllOf(twice, ::testing::Not(HasSubstr("\n"))));
}

TEST(Control, LoadTakesAConfigAndNothingElse) {
  const auto load = [](std::string_view body) -> absl::StatusOr<LoadModelRequest> {
    auto request = ParseLoadBody(body);
    if (!request.ok()) return request.status();
    request->set_model_name("m");
    return ToLoadRequest(*request);
  };
  EXPECT_FALSE(load("")->config.has_value());
  const auto good = load(
      R"({"parameters":{"config":"{\"backend\":\"siglip\",\"max_batch_size\":7,\"parameters\":{\"step\":{\"string_value\":\"text\"}}}"}})");
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->config->name, "m");
  EXPECT_EQ(good->config->max_batch_size, 7);
  EXPECT_EQ(good->config->parameters.at("step"), "text");
  EXPECT_THAT(Error(load(R"({"parameters":{"config":"{"}})")), HasSubstr("'config' of model 'm'"));
  EXPECT_THAT(Error(load(R"({"parameters":{"config":"{\"name\":\"n\"}"}})")),
              HasSubstr("expected 'm' or none, got 'n'"));
  EXPECT_THAT(Error(load(R"({"parameters":{"config":"{\"colour\":1}"}})")), HasSubstr("colour"));
  EXPECT_THAT(Error(load(R"({"parameters":{"config":1}})")), HasSubstr("'config'"));
  EXPECT_THAT(Error(load(R"({"parameters":{"file:1/x":"eA=="}})")), HasSubstr("cannot be sent"));
  EXPECT_THAT(Error(load(R"({"parameters":{"other":"x"}})")), HasSubstr("unrecognized load"));
  EXPECT_THAT(Error(load(R"({"parameters":[]})")), HasSubstr("'parameters'"));
  EXPECT_FALSE(load(R"({"parameters":{"config":null}})")->config.has_value());
  const auto padded = [&load](std::size_t bytes) {
    return Error(load(R"({"parameters":{"config":"{)" + std::string(bytes - 2, ' ') + R"(}"}})"));
  };
  EXPECT_EQ(padded(kMaxLoadConfigBytes), "ok");
  EXPECT_THAT(padded(kMaxLoadConfigBytes + 1), HasSubstr("expected at most 65536 bytes"));
}

TEST(Control, LoadTakesNamesThatNothingTripsOver) {
  const auto load = [](const std::string& name) {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name(name);
    return ToLoadRequest(request);
  };
  for (const std::string& good :
       {std::string("a"), std::string("A-1_b.c"), std::string(128, 'x')}) {
    EXPECT_TRUE(load(good).ok()) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string(".."), std::string(".a"), std::string("a/b"), std::string("a b"),
        std::string("a\"b\\c"), std::string("a\n"), std::string("a\0b", 3), std::string("\xff"),
        std::string("\xc3\xb6"), std::string(129, 'x')}) {
    EXPECT_THAT(Error(load(bad)), HasSubstr("'model_name': expected 1 to 128")) << bad;
  }
}

TEST(Control, AFileOfALoadsWarmupIsNoPath) {
  const auto load = [](const std::string& file) {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name("m");
    (*request.mutable_parameters())["config"].set_string_param(
        Concat(R"({"backend":"siglip","model_warmup":[{"name":"w","inputs":{"X":{)",
               R"("data_type":"TYPE_FP32","dims":[2],"input_data_file":")", file, R"("}}}]})"));
    return ToLoadRequest(request);
  };
  EXPECT_EQ(load("row.bin")->config->warmups[0].inputs.at("X").file, "row.bin");
  for (const char* bad : {"", ".", "..", "../x", "a/b", "/etc/passwd", "a\\u0000b"}) {
    EXPECT_THAT(Error(load(bad)), HasSubstr("'input_data_file': expected the name of a file"))
        << bad;
  }
}

TEST(Control, UnloadReadsDependents) {
  const auto unload = [](std::string_view body) -> absl::StatusOr<bool> {
    auto request = ParseUnloadBody(body);
    if (!request.ok()) return request.status();
    request->set_model_name("m");
    return UnloadsDependents(*request);
  };
  EXPECT_FALSE(*unload(""));
  EXPECT_TRUE(*unload(R"({"parameters":{"unload_dependents":true}})"));
  EXPECT_FALSE(*unload(R"({"parameters":{"unload_dependents":null}})"));
  EXPECT_THAT(Error(unload(R"({"parameters":{"unload_dependents":1}})")),
              HasSubstr("true or false"));
  EXPECT_THAT(Error(unload(R"({"parameters":{"x":true}})")), HasSubstr("unrecognized"));
}

TEST(Control, RegionsAreStrict) {
  constexpr SharedMemoryKind kSystem = SharedMemoryKind::kSystem;
  const auto region =
      ParseRegionBody(kSystem, R"({"key":"/k","offset":3,"byte_size":18446744073709551615})");
  ASSERT_TRUE(region.ok());
  EXPECT_EQ(region->key, "/k");
  EXPECT_EQ(region->byte_size, UINT64_MAX);
  for (const char* body : {R"({"key":1})", R"({"offset":-1})", R"({"byte_size":1.5})",
                           R"({"byte_size":"4"})", R"({"byte_size":18446744073709551616})"}) {
    EXPECT_EQ(ParseRegionBody(kSystem, body).status().code(), absl::StatusCode::kInvalidArgument)
        << body;
  }
  EXPECT_EQ(RegionsJson({{"a", "/k", 1, 2}}),
            R"([{"name":"a","key":"/k","offset":1,"byte_size":2}])");
  EXPECT_EQ(RegionsJson({}), "[]");
}

TEST(Control, RegionsOfGpusHaveAHandleInBase64) {
  constexpr SharedMemoryKind kCuda = SharedMemoryKind::kCuda;
  const auto region =
      ParseRegionBody(kCuda, R"({"raw_handle":{"b64":"aGFuZGxl"},"device_id":1,"byte_size":64})");
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ(region->key, "handle");
  EXPECT_EQ(region->device_id, 1);
  EXPECT_EQ(region->byte_size, 64u);
  for (const char* body :
       {R"({"raw_handle":"aGFuZGxl"})", R"({"raw_handle":{}})", R"({"raw_handle":{"b64":1}})",
        R"({"raw_handle":{"b64":"!"}})", R"({"device_id":-1})", R"({"device_id":4294967296})",
        R"({"byte_size":"4"})"}) {
    EXPECT_EQ(ParseRegionBody(kCuda, body).status().code(), absl::StatusCode::kInvalidArgument)
        << body;
  }
  EXPECT_EQ(RegionsJson({{.name = "g", .byte_size = 2, .kind = kCuda, .device_id = 1}}),
            R"([{"name":"g","device_id":1,"byte_size":2}])");
}

TEST(Control, TraceSettingsAreLists) {
  const auto settings = ParseTraceBody(
      R"({"trace_level":["TIMESTAMPS"],"trace_rate":"5","trace_count":7,"log_frequency":null})");
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(settings->at("trace_rate").at(0), "5");
  EXPECT_EQ(settings->at("trace_count").at(0), "7");
  EXPECT_TRUE(settings->at("log_frequency").empty());
  EXPECT_FALSE(ParseTraceBody(R"({"trace_rate":{}})").ok());
  EXPECT_EQ(TraceSettingsJson({{"trace_level", {"OFF"}}, {"trace_rate", {"5"}}}),
            R"({"trace_level":["OFF"],"trace_rate":"5"})");
}

TEST(Control, LogSettingsChangeWhatIsNamed) {
  const auto change = [](std::string_view body) -> absl::StatusOr<LogSettings> {
    const auto request = ParseLogBody(body);
    if (!request.ok()) return request.status();
    return ChangedLogSettings({}, *request);
  };
  const auto changed = change(R"({"log_info":false,"log_verbose_level":2,"log_format":"ISO8601"})");
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(*changed, (LogSettings{.info = false, .verbose_level = 2, .iso8601 = true}));
  EXPECT_EQ(LogSettingsJson(*changed),
            R"({"log_file":"","log_info":false,"log_warning":true,"log_error":true,)"
            R"("log_verbose_level":2,"log_format":"ISO8601"})");
  for (const char* body : {R"({"log_info":1})", R"({"log_verbose_level":"2"})",
                           R"({"log_verbose_level":-1})", R"({"log_format":"x"})",
                           R"({"log_colour":true})", R"({"log_colour":null,"log_info":"x"})"}) {
    EXPECT_EQ(change(body).status().code(), absl::StatusCode::kInvalidArgument) << body;
  }
  EXPECT_TRUE(change(R"({"log_info":null})")->info) << "no change";
  EXPECT_EQ(change(R"({"log_file":"/x"})").status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace siglip
