#pragma once

// The answers that are not inference, once as protobuf (gRPC) and, through proto_json.h, as JSON
// (HTTP).

#include <string>
#include <vector>

#include "protocol/model_config.h"
#include "serving/service.h"

#include "grpc_service.pb.h"

namespace siglip {

inference::ServerMetadataResponse ToProto(const ServerMetadata& metadata);
inference::ModelMetadataResponse ToProto(const ModelMetadata& metadata);
inference::ModelStatisticsResponse ToProto(const std::vector<ModelStatistics>& statistics);
inference::RepositoryIndexResponse ToProto(const std::vector<IndexRow>& rows);

// An array of rows; empty fields are left out, as a model that was never loaded has a name alone.
std::string IndexJson(const std::vector<IndexRow>& rows);

}  // namespace siglip
