#include "serving/model_table.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "serving/validate.h"

namespace siglip {

ModelTable::ModelTable(Models ready, std::map<std::string, std::string> unavailable,
                       std::uint64_t generation)
    : ready_(std::move(ready)), unavailable_(std::move(unavailable)), generation_(generation) {}

namespace {

// Texts are Triton's.
absl::Status CheckVersion(const std::string& version) {
  if (version.empty()) return absl::OkStatus();
  const std::optional<std::int64_t> number = ParseInt<std::int64_t>(version);
  if (!number) {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to get model version from specified version string '", version,
                     "', version should be an integral value > 0"));
  }
  if (*number >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("invalid model version specified '", version,
                                                 "' , version should be an integral value > 0"));
}

}  // namespace

absl::StatusOr<const LoadedModel*> ModelTable::Find(const std::string& name,
                                                    const std::string& version) const {
  SIGLIP_RETURN_IF_ERROR(CheckVersion(version));
  const auto found = ready_.find(name);
  const auto known = unavailable_.find(name);
  if (found == ready_.end() && known == unavailable_.end()) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", name, "' is not found"));
  }
  const std::string& there = found != ready_.end() ? found->second->version : known->second;
  if (!version.empty() && ParseInt<std::int64_t>(version) != ParseInt<std::int64_t>(there)) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", name, "' version ", version, " is not found"));
  }
  if (found != ready_.end()) return found->second.get();
  if (version.empty()) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", name, "' has no available versions"));
  }
  return absl::UnavailableError(absl::StrCat("Request for unknown model: '", name, "' version ",
                                             there, " is not at ready state"));
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> ModelTable::ReadyConfig(
    const std::string& name, const std::string& version) const {
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, Find(name, version));
  return model->config;
}

void ModelTable::InferWithin(std::unique_ptr<InferRequest> request) {
  // The request may be answered, and with it its hold on this table gone, before Enqueue returns.
  const std::shared_ptr<ModelTable> self = shared_from_this();
  const absl::StatusOr<const LoadedModel*> model =
      Find(request->model_name, request->model_version);
  if (!model.ok()) {
    Refuse(std::move(request), model.status());
    return;
  }
  request->models = self;
  request->model_version = (*model)->version;
  absl::Status status = DeduceInput(*(*model)->config, *request);
  if (status.ok()) status = ValidateRequest(*(*model)->config, *request);
  if (!status.ok()) {
    Refuse(std::move(request), std::move(status));
    return;
  }
  request->at_model = true;
  (*model)->scheduler->Enqueue(std::move(request));
}

}  // namespace siglip
