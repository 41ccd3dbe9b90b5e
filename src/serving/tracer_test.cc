#include "serving/tracer.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/request.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

class TracerTest : public ::testing::Test {
 protected:
  TracerTest() : file_(::testing::TempDir() + "tracer_test.json") {
    for (const char* end : {"", ".0", ".1"}) std::filesystem::remove(file_ + end);
  }
  // With 0 for the times that are taken when the answer is there.
  std::string Text(const std::string& end = "") {
    std::ostringstream text;
    text << std::ifstream(file_ + end).rdbuf();
    static const std::regex now("(\"INFER_RESPONSE_COMPLETE\",\"ns\":)[0-9]+");
    return std::regex_replace(text.str(), now, "$010");
  }
  // One request of `model` through the tracer; true if it was traced.
  bool Request(const std::string& model, const std::string& id = "a\"b") {
    auto trace = tracer_->Sample(model);
    if (trace == nullptr) return false;
    InferRequest request;
    request.id = id;
    request.model_name = model;
    request.model_version = "1";
    request.trace = trace;
    request.trace_id = trace->NextId();
    // As an ensemble's, which has no computing of its own.
    request.times = {.arrival_ns = 20, .queue_start_ns = 30, .compute_start_ns = 31, .done_ns = 90};
    InferRequest inner;
    inner.model_name = "inner";
    Inherit(request, inner);
    inner.times = {.arrival_ns = 40,
                   .queue_start_ns = 41,
                   .compute_start_ns = 42,
                   .infer_start_ns = 43,
                   .infer_end_ns = 50,
                   .done_ns = 60};
    inner.done = request.done = [](InferResponse) {};
    request.at_model = inner.at_model = true;
    trace->Stamp("HTTP_RECV_START", 10);
    Answer(inner, {});
    Answer(request, {});
    trace->Stamp("HTTP_SEND_END", 100);
    return true;
  }
  absl::Status On(TraceSettingsMap more = {}) {
    more["trace_level"] = {"TIMESTAMPS"};
    more["trace_file"] = {file_};
    more.try_emplace("trace_rate", std::vector<std::string>{"1"});
    return tracer_->Configure(more);
  }

  const std::string file_;
  std::shared_ptr<Tracer> tracer_ = Tracer::Create();
};

TEST_F(TracerTest, WritesTritonsFormWithEveryHop) {
  EXPECT_FALSE(Request("m")) << "off";
  ASSERT_TRUE(On().ok());
  EXPECT_TRUE(Request("m"));
  EXPECT_EQ(
      Text(),
      R"([{"id":2,"model_name":"inner","model_version":-1,"parent_id":1},)"
      R"({"id":2,"timestamps":[{"name":"REQUEST_START","ns":40},{"name":"QUEUE_START","ns":41},)"
      R"({"name":"COMPUTE_START","ns":42},{"name":"COMPUTE_INPUT_END","ns":43},)"
      R"({"name":"COMPUTE_OUTPUT_START","ns":50},{"name":"COMPUTE_END","ns":60},)"
      R"({"name":"REQUEST_END","ns":60}]},)"
      R"({"id":1,"model_name":"m","model_version":1,"request_id":"a\"b"},)"
      R"({"id":1,"timestamps":[{"name":"HTTP_RECV_START","ns":10},{"name":"REQUEST_START","ns":20},)"
      R"({"name":"QUEUE_START","ns":30},{"name":"REQUEST_END","ns":90},)"
      R"({"name":"HTTP_SEND_END","ns":100},{"name":"INFER_RESPONSE_COMPLETE","ns":0}]}])");
  Request("m");
  EXPECT_TRUE(Text().ends_with("}]}]")) << "a whole array after each request";
  EXPECT_THAT(Text(), HasSubstr("]},\n{\"id\":4"));
}

// The limit of a file's size, which tests need no file system for, is like a full disk: what is
// written ends in the middle.
TEST_F(TracerTest, AFullDiskLeavesTheFileWhole) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  ASSERT_TRUE(On().ok());
  const auto request_with_room = [&](rlim_t bytes) {
    const rlimit little{.rlim_cur = bytes, .rlim_max = limit.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
    Request("m");
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  };
  request_with_room(20);
  EXPECT_EQ(Text(), "");
  Request("m");
  const std::string before = Text();
  request_with_room(before.size() + 20);
  EXPECT_EQ(Text(), before);
  Request("m");
  EXPECT_TRUE(Text().starts_with(before.substr(0, before.size() - 1) + ",\n{"));
  EXPECT_TRUE(Text().ends_with("}]}]"));
}

TEST_F(TracerTest, ChromesFormHasABarPerHop) {
  ASSERT_TRUE(On({{"trace_mode", {"chrome"}}}).ok());
  Request("m");
  EXPECT_THAT(Text(), HasSubstr(R"({"name":"COMPUTE_INPUT_END","cat":"inner","ph":"X",)"
                                R"("ts":0.043,"dur":0.007,"pid":1,"tid":2)"));
}

TEST_F(TracerTest, IdsStayUtf8) {
  ASSERT_TRUE(On().ok());
  Request("m", "\u00e9 \xFF");
  EXPECT_THAT(Text(), HasSubstr("\"request_id\":\"\u00e9 \uFFFD\""));
}

TEST_F(TracerTest, RateCountAndFiles) {
  ASSERT_TRUE(On({{"trace_rate", {"3"}}, {"trace_count", {"3"}}, {"log_frequency", {"2"}}}).ok());
  int traced = 0;
  for (int i = 0; i < 30; ++i) traced += Request("m");
  EXPECT_EQ(traced, 3);
  EXPECT_THAT(Text(".0"), HasSubstr("\"id\":3,"));
  EXPECT_THAT(Text(".1"), HasSubstr("\"id\":5,"));
  ASSERT_TRUE(tracer_->Update("", {{"trace_count", {"1"}}}).ok());
  for (int i = 0; i < 30; ++i) traced += Request("m");
  EXPECT_EQ(traced, 4) << "a change starts the count anew";
}

TEST_F(TracerTest, AModelHasTheCommonSettingsUntilItHasItsOwn) {
  ASSERT_TRUE(On().ok());
  ASSERT_TRUE(tracer_->Update("m", {{"trace_level", {"OFF"}}}).ok());
  EXPECT_FALSE(Request("m"));
  EXPECT_TRUE(Request("n"));
  EXPECT_EQ(tracer_->Get("m").at("trace_level").at(0), "OFF");
  EXPECT_EQ(tracer_->Get("m").at("trace_rate").at(0), "1");
  EXPECT_EQ(tracer_->Get("").at("trace_level").at(0), "TIMESTAMPS");
  ASSERT_TRUE(tracer_->Update("m", {{"trace_level", {}}}).ok());
  EXPECT_TRUE(Request("m"));
}

TEST_F(TracerTest, AModelsCountFollowsThatOfAllUntilItHasItsOwn) {
  ASSERT_TRUE(On().ok());
  ASSERT_TRUE(tracer_->Update("m", {{"trace_rate", {"1"}}}).ok());
  ASSERT_TRUE(tracer_->Update("n", {{"trace_count", {"7"}}}).ok());
  ASSERT_TRUE(tracer_->Update("", {{"trace_count", {"2"}}}).ok());
  int m = 0, n = 0;
  for (int i = 0; i < 10; ++i) {
    m += Request("m");
    n += Request("n");
  }
  EXPECT_EQ(m, 2);
  EXPECT_EQ(n, 7);
}

TEST_F(TracerTest, WhatIsClearedFallsBackToTheCommandLine) {
  ASSERT_TRUE(On({{"trace_rate", {"100"}}}).ok());
  ASSERT_TRUE(tracer_->Update("", {{"trace_rate", {"7"}}}).ok());
  EXPECT_EQ(tracer_->Get("").at("trace_rate").at(0), "7");
  ASSERT_TRUE(tracer_->Update("", {{"trace_rate", {}}}).ok());
  EXPECT_EQ(tracer_->Get("").at("trace_rate").at(0), "100");
}

TEST_F(TracerTest, LevelsNeedAFileAndStandAlone) {
  EXPECT_EQ(tracer_->Update("m", {{"trace_level", {"TIMESTAMPS"}}}),
            absl::InvalidArgumentError(
                "Attempting to set invalid trace setting :trace file name is not given"));
  EXPECT_EQ(tracer_->Get("m").at("trace_level").at(0), "OFF");
  ASSERT_TRUE(On().ok());
  EXPECT_EQ(tracer_->Update("", {{"trace_level", {"OFF", "TIMESTAMPS"}}}),
            absl::InvalidArgumentError("Expect only one trace level 'OFF' is specified"));
  const absl::Status many =
      tracer_->Update("", {{"trace_level", std::vector<std::string>(100'000, "TIMESTAMPS")}});
  EXPECT_EQ(many.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(many.message().size(), 400u);
}

TEST_F(TracerTest, WrongSettingsChangeNothing) {
  const TraceSettingsMap before = tracer_->Get("");
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"trace_level", "LOUD"},
                                                        {"trace_rate", "0"},
                                                        {"trace_rate", "-1"},
                                                        {"trace_rate", ""},
                                                        {"trace_count", "-2"},
                                                        {"log_frequency", "1x"},
                                                        {"trace_color", "red"}}) {
    EXPECT_EQ(tracer_->Update("", {{key, {value}}, {"trace_count", {"5"}}}).code(),
              absl::StatusCode::kInvalidArgument)
        << key << value;
  }
  EXPECT_EQ(tracer_->Update("", {{"trace_file", {"/etc/x"}}}).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(tracer_->Update("", {{"trace_level", {"TENSORS"}}}).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(tracer_->Update("", {{"trace_mode", {"chrome"}}}).code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(tracer_->Update("", {{"trace_mode", {"triton"}}}).ok()) << "no change";
  EXPECT_TRUE(tracer_->Update("m", {{"trace_mode", {}}}).ok());
  EXPECT_EQ(tracer_->Get(""), before);
}

// Whoever answered last may still hold the request when the doors are gone.
TEST_F(TracerTest, ATraceMayOutliveItsTracer) {
  ASSERT_TRUE(On().ok());
  auto request = std::make_unique<InferRequest>();
  request->model_name = "late";
  request->trace = tracer_->Sample("late");
  ASSERT_NE(request->trace, nullptr);
  request->done = [this](InferResponse) { tracer_.reset(); };
  Answer(*request, {});
  request.reset();
  EXPECT_THAT(Text(), HasSubstr("\"model_name\":\"late\""));
}

}  // namespace
}  // namespace siglip
