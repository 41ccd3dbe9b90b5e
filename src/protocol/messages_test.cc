#include "protocol/messages.h"

#include <gtest/gtest.h>

#include "protocol/proto_json.h"

namespace siglip {
namespace {

TEST(Messages, StatisticsJsonHasNumbersAndEmptyLists) {
  ModelStatistics row;
  row.name = "m";
  row.version = "1";
  row.last_inference_ms = 1700000000123;
  row.inference_count = 5;
  row.success = {3, 1000};
  row.batches[2].compute_infer = {1, 77};
  const std::string json = ProtoJson(ToProto(std::vector{row}));
  EXPECT_EQ(json.find(R"({"model_stats":[{"name":"m","version":"1","last_inference":1700000000123,)"
                      R"("inference_count":5,"execution_count":0,"inference_stats":{"success":)"
                      R"({"count":3,"ns":1000},"fail":{"count":0,"ns":0},)"),
            0U)
      << json;
  EXPECT_NE(json.find(R"("batch_stats":[{"batch_size":2,"compute_input":{"count":0,"ns":0},)"
                      R"("compute_infer":{"count":1,"ns":77},)"),
            std::string::npos);
  EXPECT_NE(json.find(R"("memory_usage":[],"response_stats":{})"), std::string::npos) << json;
}

TEST(Messages, MetadataJsonIsTritons) {
  EXPECT_EQ(ProtoJson(ToProto(ServerMetadata{"triton", "2.73.0", {"statistics"}})),
            R"({"name":"triton","version":"2.73.0","extensions":["statistics"]})");
  const ModelMetadata model{"m", {"1"}, "siglip", {{"X", DataType::kBytes, {-1, 1}, false}}, {}};
  EXPECT_EQ(ProtoJson(ToProto(model)),
            R"({"name":"m","versions":["1"],"platform":"siglip",)"
            R"("inputs":[{"name":"X","datatype":"BYTES","shape":[-1,1]}],"outputs":[]})");
}

TEST(Messages, IndexLeavesOutEmptyFields) {
  EXPECT_EQ(IndexJson({{"a", "1", "READY", ""}, {"b", "", "", ""}}),
            R"([{"name":"a","version":"1","state":"READY"},{"name":"b"}])");
  EXPECT_EQ(IndexJson({}), "[]");
}

}  // namespace
}  // namespace siglip
