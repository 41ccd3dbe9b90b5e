#include "protocol/messages.h"

#include "base/json_text.h"
#include "protocol/proto_json.h"
#include "protocol/text.h"

namespace siglip {
namespace {

void Fill(const StatisticDuration& from, inference::StatisticDuration* to) {
  to->set_count(from.count);
  to->set_ns(from.ns);
}

void Fill(const ModelStatistics& from, inference::ModelStatistics* to) {
  to->set_name(from.name);
  to->set_version(from.version);
  to->set_last_inference(from.last_inference_ms);
  to->set_inference_count(from.inference_count);
  to->set_execution_count(from.execution_count);
  inference::InferStatistics* stats = to->mutable_inference_stats();
  Fill(from.success, stats->mutable_success());
  Fill(from.fail, stats->mutable_fail());
  Fill(from.queue, stats->mutable_queue());
  Fill(from.compute_input, stats->mutable_compute_input());
  Fill(from.compute_infer, stats->mutable_compute_infer());
  Fill(from.compute_output, stats->mutable_compute_output());
  Fill(from.cache_hit, stats->mutable_cache_hit());
  Fill(from.cache_miss, stats->mutable_cache_miss());
  for (const auto& [size, batch] : from.batches) {
    inference::InferBatchStatistics* row = to->add_batch_stats();
    row->set_batch_size(size);
    Fill(batch.compute_input, row->mutable_compute_input());
    Fill(batch.compute_infer, row->mutable_compute_infer());
    Fill(batch.compute_output, row->mutable_compute_output());
  }
}

template <class Tensor>
void Fill(const TensorConfig& from, Tensor* to) {
  to->set_name(from.name);
  to->set_datatype(std::string(DataTypeName(from.datatype)));
  to->mutable_shape()->Add(from.dims.begin(), from.dims.end());
}

}  // namespace

inference::ServerMetadataResponse ToProto(const ServerMetadata& metadata) {
  inference::ServerMetadataResponse out;
  out.set_name(metadata.name);
  out.set_version(metadata.version);
  for (const std::string& extension : metadata.extensions) out.add_extensions(extension);
  return out;
}

inference::ModelMetadataResponse ToProto(const ModelMetadata& metadata) {
  inference::ModelMetadataResponse out;
  out.set_name(metadata.name);
  for (const std::string& version : metadata.versions) out.add_versions(version);
  out.set_platform(metadata.platform);
  for (const TensorConfig& tensor : metadata.inputs) Fill(tensor, out.add_inputs());
  for (const TensorConfig& tensor : metadata.outputs) Fill(tensor, out.add_outputs());
  return out;
}

inference::ModelStatisticsResponse ToProto(const std::vector<ModelStatistics>& statistics) {
  inference::ModelStatisticsResponse out;
  for (const ModelStatistics& model : statistics) Fill(model, out.add_model_stats());
  return out;
}

inference::RepositoryIndexResponse ToProto(const std::vector<IndexRow>& rows) {
  inference::RepositoryIndexResponse out;
  for (const IndexRow& row : rows) {
    auto* model = out.add_models();
    model->set_name(row.name);
    model->set_version(row.version);
    model->set_state(row.state);
    model->set_reason(row.reason);
  }
  return out;
}

std::string IndexJson(const std::vector<IndexRow>& rows) {
  std::string json = "[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    json += i == 0 ? "{\"name\":" : ",{\"name\":";
    AppendJsonString(rows[i].name, json);
    const std::pair<const char*, const std::string*> fields[] = {
        {"version", &rows[i].version}, {"state", &rows[i].state}, {"reason", &rows[i].reason}};
    for (const auto& [key, value] : fields) {
      if (value->empty()) continue;
      AppendAll(json, ",\"", key, "\":");
      AppendJsonString(*value, json);
    }
    json += '}';
  }
  json += ']';
  return json;
}

}  // namespace siglip
