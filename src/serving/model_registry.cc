#include "serving/model_registry.h"

#include <algorithm>
#include <utility>

namespace siglip {

ModelRegistry::ModelRegistry()
    : table_(std::make_shared<ModelTable>(ModelTable::Models{},
                                          std::map<std::string, std::string>{}, 0)) {}

ModelRegistry::~ModelRegistry() {
  std::shared_ptr<ModelTable> last;
  {
    MutexLock lock(mu_);
    last.swap(table_);
  }
  last.reset();
  {
    MutexLock lock(mu_);
    while (!alive_.empty()) gone_.Wait(mu_);
  }
  reaper_.reset();
}

std::shared_ptr<ModelTable> ModelRegistry::table() const {
  MutexLock lock(mu_);
  return table_;
}

std::vector<IndexRow> ModelRegistry::Index() const {
  std::vector<IndexRow> rows;
  MutexLock lock(mu_);
  for (const auto& [name, state] : states_) {
    const auto found = table_->ready().find(name);
    if (found != table_->ready().end()) {
      rows.push_back({.name = name, .version = found->second->version, .state = "READY"});
      continue;
    }
    rows.push_back({.name = name,
                    .version = state.version,
                    .state = state.loading           ? "LOADING"
                             : alive_.contains(name) ? "UNLOADING"
                                                     : "UNAVAILABLE",
                    .reason = state.loading ? "" : state.reason});
  }
  return rows;
}

bool ModelRegistry::AllReady() const {
  MutexLock lock(mu_);
  return std::all_of(states_.begin(), states_.end(),
                     [this](const auto& entry) SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
                       return !entry.second.wanted || table_->ready().contains(entry.first);
                     });
}

void ModelRegistry::Publish(ModelTable::Models ready) {
  std::map<std::string, std::string> unavailable;
  for (const auto& [name, state] : states_) {
    if (!ready.contains(name)) unavailable[name] = state.version;
  }
  // The old table, and with it perhaps a model, goes when its last request is answered; that is
  // never under this lock, since Destroy runs on the reaper's thread.
  table_ = std::make_shared<ModelTable>(std::move(ready), std::move(unavailable), ++generation_);
}

std::shared_ptr<const LoadedModel> ModelRegistry::Adopt(std::unique_ptr<LoadedModel> model) {
  ++alive_[model->name];
  std::shared_ptr<const LoadedModel> shared(model.release(), [this](const LoadedModel* last) {
    reaper_->Submit([this, last] { Destroy(last); });
  });
  std::erase_if(all_, [](const auto& weak) { return weak.expired(); });
  all_.push_back(shared);
  return shared;
}

void ModelRegistry::Destroy(const LoadedModel* model) {
  const std::string name = model->name;
  delete model;
  MutexLock lock(mu_);
  if (--alive_[name] == 0) alive_.erase(name);
  gone_.NotifyAll();
}

void ModelRegistry::Begin(const std::string& name, const std::string& version) {
  MutexLock lock(mu_);
  State& state = states_[name];
  state.loading = true;
  state.wanted = true;
  if (!version.empty()) state.version = version;
  Publish(table_->ready());
}

void ModelRegistry::Finish(std::unique_ptr<LoadedModel> model) {
  MutexLock lock(mu_);
  State& state = states_[model->name];
  state.loading = false;
  state.reason.clear();
  state.version = model->version;
  ModelTable::Models ready = table_->ready();
  const std::string name = model->name;
  ready[name] = Adopt(std::move(model));
  Publish(std::move(ready));
}

void ModelRegistry::Fail(const std::string& name, const std::string& reason) {
  MutexLock lock(mu_);
  State& state = states_[name];
  state.loading = false;
  state.reason = reason;
}

void ModelRegistry::Unload(const std::string& name, const std::string& reason, bool on_purpose) {
  MutexLock lock(mu_);
  State& state = states_[name];
  state.reason = reason;
  state.wanted = !on_purpose;
  ModelTable::Models ready = table_->ready();
  ready.erase(name);
  Publish(std::move(ready));
}

void ModelRegistry::Forget(const std::string& name) {
  MutexLock lock(mu_);
  states_.erase(name);
  ModelTable::Models ready = table_->ready();
  ready.erase(name);
  Publish(std::move(ready));
}

void ModelRegistry::StopAll() {
  std::vector<std::shared_ptr<const LoadedModel>> models;
  {
    MutexLock lock(mu_);
    for (const auto& weak : all_) {
      if (auto model = weak.lock()) models.push_back(std::move(model));
    }
  }
  for (const auto& model : models) model->scheduler->Stop();
}

}  // namespace siglip
