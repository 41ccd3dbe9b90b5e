#pragma once

// A Triton core for tests: loads backend libraries through the ABI, and is stricter than the real
// one. Whatever the ABI forbids ends the process with a line that says what: an object used after
// its end or freed twice, a request without exactly one final response or one report of statistics
// before its release, times out of order, a configuration set outside ModelInitialize, an object
// left over at the end. Inputs are freed when their request is released, so that AddressSanitizer
// sees who reads them later.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "triton/core/tritonbackend.h"

namespace siglip::triton {

using FakeParameter = std::variant<bool, std::int64_t, double, std::string>;

struct FakeTensor {
  std::string name = {};
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_BYTES;
  std::vector<std::int64_t> shape = {};
  std::string bytes = {};
};

// What a client sends.
struct FakeRequest {
  std::string model = {};
  FakeTensor input = {};
  std::string id = {};
  std::map<std::string, FakeParameter> parameters = {};
  std::size_t num_buffers = 1;   // the input in so many pieces
  std::size_t misalignment = 0;  // of input and output, bytes
  bool cancelled = false;
  // What asking for its id throws, as no core should; empty: nothing.
  std::string id_throws = {};
  // What the first report of its statistics throws; likewise.
  std::string report_throws = {};
  std::vector<std::string> outputs = {};  // that are asked for; empty: all
  TRITONSERVER_MemoryType input_memory = TRITONSERVER_MEMORY_CPU;
  TRITONSERVER_MemoryType output_memory = TRITONSERVER_MEMORY_CPU;
};

struct FakeAnswer {
  int code = -1;  // TRITONSERVER_Error_Code, or -1 for success
  std::string message = {};
  std::vector<FakeTensor> outputs = {};
};

struct FakeStatistics {
  std::int64_t success = 0;
  std::int64_t fail = 0;
  std::int64_t executions = 0;
  std::int64_t rows = 0;  // of the executions
};

struct FakeCoreOptions {
  std::uint32_t api_minor = 19;
  bool auto_complete_config = true;
  std::map<std::string, std::string> backend_config = {};
};

// A model that the test itself answers for. A field "refuses" in its configuration makes it refuse
// requests at once.
struct HostModel {
  std::function<FakeAnswer(const FakeTensor& input)> answer;
  int num_answers = 1;
  bool release_first = false;  // before the answer
};

class FakeModel;

// Thread-safe after the models are loaded.
class FakeCore {
 public:
  explicit FakeCore(FakeCoreOptions options = {});
  // Unloads everything. Fails hard if an object is left over.
  ~FakeCore();
  FakeCore(const FakeCore&) = delete;
  FakeCore& operator=(const FakeCore&) = delete;

  // Empty, or the error's text. The library is found by the name of its backend.
  std::string LoadBackend(const std::string& name, const std::string& path);
  std::string LoadModel(const nlohmann::json& config, const std::string& directory,
                        int num_instances = 1,
                        TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU);
  void AddHostModel(const nlohmann::json& config, HostModel host);
  // Waits for the model's requests.
  void Unload(const std::string& model);

  std::future<FakeAnswer> Send(const FakeRequest& request);
  FakeAnswer Infer(const FakeRequest& request) { return Send(request).get(); }

  // Requests wait from Hold to Resume, and then go in as few batches as possible.
  void Hold(const std::string& model);
  void Resume(const std::string& model);
  // Calls of ModelInstanceExecute that have returned.
  int Executed(const std::string& model) const;
  FakeStatistics Statistics(const std::string& model) const;
  // As completed by the backend.
  nlohmann::json Config(const std::string& model) const;
  // Of the log, all levels.
  static std::string TakeLog();
  // Objects of the ABI that exist now.
  static int LiveObjects();

  FakeModel* Find(const std::string& name) const;  // nullptr: unknown
  const FakeCoreOptions& options() const { return options_; }

 private:
  const FakeCoreOptions options_;
  std::map<std::string, std::unique_ptr<TRITONBACKEND_Backend>> backends_;
  mutable std::mutex mu_;
  std::map<std::string, std::shared_ptr<FakeModel>> models_;
};

}  // namespace siglip::triton
