#pragma once

// Which models there are and in what state. Makes a new ModelTable at each change, and ends models
// that no table and no request holds any more.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread_pool.h"
#include "serving/model_table.h"
#include "serving/service.h"

namespace siglip {

// Thread-safe. Begin, Finish, Fail, Unload and Forget are called by one thread at a time.
class ModelRegistry {
 public:
  ModelRegistry();
  // REQUIRES: StopAll was called, and no request is under way.
  ~ModelRegistry();

  std::shared_ptr<ModelTable> table() const;
  std::vector<IndexRow> Index() const;
  // No model failed to load or is loading; those unloaded on purpose do not count.
  bool AllReady() const;

  // Until Finish or Fail the model is LOADING, unless an older one serves on.
  void Begin(const std::string& name, const std::string& version);
  // Serves the model, in place of an older one of the name.
  void Finish(std::unique_ptr<LoadedModel> model);
  void Fail(const std::string& name, const std::string& reason);
  // Takes the model out of the table. UNLOADING until the last request that holds it is answered.
  // `on_purpose`: readiness does not wait for its return.
  void Unload(const std::string& name, const std::string& reason, bool on_purpose);
  // The model's name is known no longer.
  void Forget(const std::string& name);

  // Refuses what is queued at every model, retired ones too, and waits for what runs.
  void StopAll();

 private:
  struct State {
    std::string version;
    std::string reason;
    bool loading = false;
    bool wanted = true;
  };

  void Publish(ModelTable::Models ready) SIGLIP_REQUIRES(mu_);
  std::shared_ptr<const LoadedModel> Adopt(std::unique_ptr<LoadedModel> model) SIGLIP_REQUIRES(mu_);
  void Destroy(const LoadedModel* model);

  mutable Mutex mu_;
  CondVar gone_;
  std::map<std::string, State> states_ SIGLIP_GUARDED_BY(mu_);
  std::shared_ptr<ModelTable> table_ SIGLIP_GUARDED_BY(mu_);
  std::vector<std::weak_ptr<const LoadedModel>> all_ SIGLIP_GUARDED_BY(mu_);
  // How many models of a name are not destroyed yet, also of names that are forgotten; none: 0.
  std::map<std::string, int> alive_ SIGLIP_GUARDED_BY(mu_);
  std::uint64_t generation_ SIGLIP_GUARDED_BY(mu_) = 0;  // of table_
  // The last holder of a model may be the model's own thread, which cannot wait for itself.
  std::unique_ptr<ThreadPool> reaper_ = std::make_unique<ThreadPool>(1);
};

}  // namespace siglip
